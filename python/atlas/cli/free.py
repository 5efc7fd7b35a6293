"""`atlasctl cache free`."""

from __future__ import annotations

import click

from atlas.cli.commands import command
from atlas.cli.run import Run, pass_run


@command("free", formats=("table", "json", "yaml", "name"))
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: show the data set that would be freed; server: also how much it would be.",
)
@pass_run
def free(run: Run, name: str, yes: bool, dry_run: str | None) -> None:
    """Free the cached bytes of a data set that stays. The origin is untouched.

    Programs go on reading: what they need comes from the origin, and is cached again. Where some
    have files of a sealed front open, their bytes follow when the last of them has left. A load
    that runs goes on: stop it first. Asks on a terminal; without one it needs -y.
    """
    from atlas.api.units import check_name, format_size
    from atlas.cli.confirm import confirm
    from atlas.cli.describe import dataset_table
    from atlas.cli.session import absent, nearest, used
    from atlas.cli.show import show

    check_name(name)
    client = used(run)
    if client is None:
        raise absent(name)
    with nearest(client, name):
        dataset = client.dataset(name)
        if dry_run == "client":
            show(
                run,
                dataset,
                text=lambda: dataset_table([dataset], wide=False),
                names=lambda: [f"dataset/{name}"],
            )
            run.say(f"Data set {name} would be freed; nothing was done.")
            return
        media = " and ".join(tier.medium for tier in dataset.spec.tiers)
        if dry_run is None and not yes:
            size = format_size(dataset.status.cached_bytes)
            confirm(
                f"Free data set {name}? {dataset.status.cached_files:,} files, {size} leave"
                f" {media}; the data set and the origin stay.",
                f"nothing of data set {name} was freed",
            )
        freed = client.free(name, dry_run=dry_run == "server")
    size = format_size(freed.bytes)
    if freed.dry_run:
        run.say(f"{size} of {media} would be freed ({freed.files:,} files).")
    elif freed.held_bytes:
        held = format_size(freed.held_bytes)
        run.say(
            f"Freed {size} of {media}; {held} follow when the last program that has files of the"
            f" sealed front open has left: atlasctl cache describe {name}"
        )
    else:
        run.say(f"Freed data set {name}: {size} left {media}. The origin is untouched.")
    show(run, freed, text=lambda: "", names=lambda: [f"dataset/{name}"])
