"""`atlasctl cache create`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.arguments import ByteType, absolute, once, text
from atlas.cli.commands import command
from atlas.cli.run import Run, pass_run

if TYPE_CHECKING:
    from atlas.api import models

_MEDIA = ("MEM", "SSD", "HDD")
FRONTS = ("auto", "sealed", "lazy", "live")


@dataclass(frozen=True)
class _Wish:
    """The options that make up a data set, as they were given."""

    source: str | None
    size: int | None
    medium: str | None
    tier: str | None
    front: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def given(self) -> list[str]:
        """The names of the options that were given."""
        names = [name for name, value in vars(self).items() if value not in (None, ())]
        return [f"--{'from' if name == 'source' else name}" for name in names]


@command("create", formats=("table", "json", "yaml", "name", "jsonpath"))
@click.argument("name", required=False)
@click.option(
    "--from",
    "source",
    metavar="FOLDER",
    multiple=True,
    callback=once("a data set has one origin"),
    help="The folder to serve, read with your rights.",
)
@click.option("--size", type=ByteType(), help="Bytes that the cache may hold, as in 40Gi.")
@click.option(
    "--medium",
    type=click.Choice(_MEDIA, case_sensitive=False),
    metavar="|".join(_MEDIA),
    help="Where cached bytes lie: MEM (memory, the default), SSD or HDD.",
)
@click.option(
    "--tier",
    metavar="MEDIUM:SIZE[:FOLDER]",
    multiple=True,
    callback=once("a data set has one tier"),
    help="Medium, size and folder in one, as in ssd:1Ti:/nvme0; instead of --size and --medium.",
)
@click.option(
    "--mount", "folder", metavar="DIR", help="Show it here too: an empty folder of yours."
)
@click.option("--warm", is_flag=True, help="Then load all of it, as 'cache warm' does.")
@click.option(
    "--front",
    type=click.Choice(FRONTS),
    metavar="|".join(FRONTS),
    help="The fastest way to serve it that may be chosen: auto (the default) takes the best that "
    "there is at each time.",
)
@click.option(
    "--include", metavar="GLOB", multiple=True, help="Serve only files that match; repeatable."
)
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Hide what matches and all below; repeatable.",
)
@click.option(
    "-f",
    "--file",
    "file",
    type=click.File("rb"),
    help="The data set as a YAML or JSON object ('-': standard input), as '-o yaml' prints it.",
)
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: print the object and do nothing; server: let the node check it too.",
)
@pass_run
def create(
    run: Run,
    name: str | None,
    source: str | None,
    size: int | None,
    medium: str | None,
    tier: str | None,
    folder: str | None,
    warm: bool,
    front: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    file: Any,
    dry_run: str | None,
) -> None:
    """Create a data set: a cache in front of a folder.

    It is a read-only view, usable at once, whatever its size, at the path that is printed; what is
    read is cached on the way. The same create again is 'unchanged'; one that differs is refused
    with the differences (exit code 4). A glob without '/' matches the last name at any depth.
    """
    from atlas.api.units import printable
    from atlas.cli.session import started
    from atlas.cli.show import show

    wish = _Wish(source, size, medium, tier, front, include, exclude)
    dataset = _from_file(file, name, wish) if file else _from_options(name, wish)
    name = dataset.metadata.name
    path = None if folder is None else absolute(folder, "--mount")
    if dry_run == "client":
        _show_object(run, dataset)
        return
    client = started(run)
    before = set() if path is None else {mount.spec.path for mount in client.mounts()}
    answer, created = client.create(dataset, path, dry_run=dry_run == "server")
    if dry_run:
        run.say(f"Data set {name} would be {'created' if created else 'unchanged'}.")
        _show_object(run, answer)
        return
    if created:
        run.say(f"Data set {name} created; it is readable now.")
    elif path is not None and path not in before:
        run.say(f"Data set {name} is shown at {printable(path)} too, otherwise unchanged.")
    else:
        run.say(f"Data set {name} unchanged.")
    if created and not warm:
        run.say(f"To load all of it: atlasctl cache warm {name}")
    show(
        run,
        answer,
        text=lambda: _shown_path(answer, path),
        names=lambda: [f"dataset/{name}"],
    )
    if warm:
        from atlas.api.models import LoadSpec
        from atlas.cli.warm import load_and_wait

        load_and_wait(run, client, [LoadSpec(dataset=name)], progress="auto", show_result=False)


def _shown_path(dataset: models.Dataset, mounted: str | None) -> str:
    from atlas.api.units import printable

    return printable(mounted or dataset.status.mount_path or "")


def _show_object(run: Run, dataset: models.Dataset) -> None:
    """An object as a person reviews it: YAML, unless another format was asked for."""
    from atlas.api.models import to_builtins
    from atlas.cli.formats import yaml_text
    from atlas.cli.show import show

    shown = to_builtins(dataset)
    del shown["status"]  # nothing has become of it yet
    for part in ("metadata", "spec"):
        shown[part] = {key: value for key, value in shown[part].items() if value is not None}
    show(
        run,
        shown,
        text=lambda: yaml_text(shown),
        names=lambda: [f"dataset/{dataset.metadata.name}"],
    )


def _from_options(name: str | None, wish: _Wish) -> models.Dataset:
    from atlas.api import models
    from atlas.api.units import check_name

    if name is None:
        raise click.UsageError("Missing argument 'NAME'.", click.get_current_context())
    if wish.source is None:
        raise click.UsageError("Missing option '--from'.", click.get_current_context())
    if "://" in wish.source:
        raise click.UsageError(
            f"--from takes a folder of this machine, not {wish.source.partition('://')[0]}://.",
            click.get_current_context(),
        )
    return models.Dataset(
        metadata=models.Metadata(name=check_name(name)),
        spec=models.DatasetSpec(
            mounts=[models.Source(source=absolute(wish.source, "--from"))],
            tiers=[_tier(wish)],
            include=[text(pattern, "--include") for pattern in wish.include],
            exclude=[text(pattern, "--exclude") for pattern in wish.exclude],
            front=front_choice(wish.front or "auto"),
        ),
    )


def front_choice(word: str) -> models.FrontChoice:
    """One of FRONTS, as the API takes it."""
    known: dict[str, models.FrontChoice] = {
        "auto": "auto",
        "sealed": "sealed",
        "lazy": "lazy",
        "live": "live",
    }
    return known[word]


def _tier(wish: _Wish) -> models.TierSpec:
    from atlas.api.models import Medium, TierSpec

    context = click.get_current_context()
    known: dict[str, Medium] = {"MEM": "MEM", "SSD": "SSD", "HDD": "HDD"}
    if wish.tier is None:
        if wish.size is None:
            raise click.UsageError("Missing option '--size' (or '--tier').", context)
        return TierSpec(medium=known[wish.medium or "MEM"], quota=wish.size)
    if wish.size is not None or wish.medium is not None:
        raise click.UsageError("Give either --tier or --size and --medium.", context)
    medium, _, rest = text(wish.tier, "--tier").partition(":")
    size, _, folder = rest.partition(":")
    if medium.upper() not in known or not size:
        raise click.UsageError(
            f"--tier {wish.tier!r} is not MEDIUM:SIZE[:FOLDER], as in ssd:1Ti:/nvme0;"
            f" media are {', '.join(known)}.",
            context,
        )
    return TierSpec(
        medium=known[medium.upper()],
        quota=ByteType().convert(size, None, context),
        paths=[absolute(folder, "--tier")] if folder else [],
    )


def _from_file(file: Any, name: str | None, wish: _Wish) -> models.Dataset:
    from atlas.api import errors, models
    from atlas.api.units import check_name, parse_size
    from atlas.cli.objects import name_of, read_object

    context = click.get_current_context()
    if wish.given():
        raise click.UsageError(f"{', '.join(wish.given())} cannot be given with -f.", context)
    plain = read_object(file)
    what = f"the object in {name_of(file)}"
    if plain.get("apiVersion") != models.API_VERSION or plain.get("kind") != "Dataset":
        raise errors.AtlasError(
            errors.INVALID,
            f"{what} is not a Dataset of {models.API_VERSION}",
            "apiVersion and kind say what it is",
            hint="atlasctl cache create NAME --from FOLDER --size SIZE --dry-run=client",
        )
    # What an object has become is not a wish; a file made by `get -o yaml` holds it all the same.
    plain.pop("status", None)
    spec = plain.get("spec")
    for tier in (spec.get("tiers") or []) if isinstance(spec, dict) else []:
        if isinstance(tier, dict) and isinstance(tier.get("quota"), str):
            tier["quota"] = parse_size(tier["quota"])
    dataset = models.convert(plain, models.Dataset, what)
    if name is not None and name != dataset.metadata.name:
        raise click.UsageError(
            f"The file holds data set {dataset.metadata.name!r}, not {name!r}.", context
        )
    dataset.metadata = models.Metadata(name=check_name(dataset.metadata.name))
    return dataset
