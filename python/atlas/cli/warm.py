"""`atlasctl cache warm`: load data sets into their caches, and watch it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from atlas.cli.arguments import ByteType, text
from atlas.cli.commands import command
from atlas.cli.run import Run, pass_run

if TYPE_CHECKING:
    from atlas.api import models
    from atlas.cli.progress import Display
    from atlas.cli.session import Client

_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 1.0
"""How long the node may hold back an answer while nothing changes."""
_ABSENCE_SECONDS = 30.0
"""The keeper replaces a node within seconds; after this the watch ends, not the load."""


@command("warm", formats=("table", "json", "yaml", "name", "jsonpath"))
@click.argument("targets", metavar="NAME[:/path]...", nargs=-1, required=True)
@click.option(
    "--wait/--background",
    "wait",
    default=True,
    help="Wait for the end (default), or print the load's name and return.",
)
@click.option("-p", "--parallel", type=click.IntRange(1, 1024), help="Readers of the origin.")
@click.option("--bwlimit", metavar="RATE", type=ByteType(rate=True), help="At most, as in 2Gi/s.")
@click.option("--stop", is_flag=True, help="Stop the running load instead; what is cached stays.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "json", "none"]),
    default="auto",
    help="auto: a bar on a terminal, else a line each 30 s; json: a DataLoad object a line, on "
    "standard output.",
)
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: print the load and do nothing; server: say also what would be read.",
)
@pass_run
def warm(
    run: Run,
    targets: tuple[str, ...],
    wait: bool,
    parallel: int | None,
    bwlimit: int | None,
    stop: bool,
    progress: str,
    dry_run: str | None,
) -> None:
    """Load data sets, or paths in them, into their caches.

    Also called 'load'. What is cached already is not read again, so that a load that was stopped
    goes on. Exit code 0: Complete; 8: Partial, and why; 1: Failed or stopped. Ctrl-C ends the
    watching, not the load; the same command watches it again.
    """
    from atlas.api.commands import watch_command
    from atlas.api.models import DataLoad, Metadata
    from atlas.cli.session import absent, nearest, used

    context = click.get_current_context()
    if stop and (parallel or bwlimit or dry_run):
        raise click.UsageError("--stop goes with no option of a load.", context)
    if progress == "json" and run.output.name != "table":
        raise click.UsageError("--progress=json prints the objects itself: leave out -o.", context)
    wanted = _wanted(targets, parallel or 0, bwlimit or 0)
    if dry_run == "client":
        _show_loads(run, [DataLoad(metadata=Metadata(), spec=spec) for spec in wanted])
        return
    client = used(run)
    if client is None:
        raise absent(wanted[0].dataset)
    for spec in wanted:
        with nearest(client, spec.dataset):
            client.dataset(spec.dataset)
    if stop:
        _stop(run, client, wanted)
    elif dry_run:
        loads = [client.start_load(spec.dataset, spec, dry_run=True) for spec in wanted]
        for load in loads:
            run.say(f"{load.spec.dataset}: {_would_read(load.status)}; nothing was done.")
        _show_loads(run, loads, only_objects=True)
    elif wait:
        load_and_wait(run, client, wanted, progress)
    else:
        loads = _start(client, wanted)
        run.say(f"Loading in the background. To watch: {watch_command(wanted)}")
        _show_loads(run, loads)


def load_and_wait(
    run: Run,
    client: Client,
    wanted: Sequence[models.LoadSpec],
    progress: str,
    *,
    show_result: bool = True,
) -> None:
    """Starts loads, or finds those that run already, and waits for their ends.

    Raises AtlasError: PartlyDone, LoadFailed; Interrupted and TimedOut, which leave them running.
    """
    from atlas.api import errors
    from atlas.cli.endings import end, left_running
    from atlas.cli.progress import display_of

    try:
        loads = _start(client, wanted)
        display = display_of(run, progress)
        try:
            loads = _watch(run, client, wanted, loads, display)
        finally:
            display.close()
    except KeyboardInterrupt:
        raise left_running(errors.INTERRUPTED, "stopped watching", wanted) from None
    if show_result and progress != "json":
        _show_loads(run, loads, only_objects=True)
    end(run, client, loads)


def _watch(
    run: Run,
    client: Client,
    wanted: Sequence[models.LoadSpec],
    loads: list[models.DataLoad],
    display: Display,
) -> list[models.DataLoad]:
    from atlas.api import errors
    from atlas.cli.endings import ended, left_running

    answered = time.monotonic()
    while True:
        display.update(loads)
        if all(ended(load) for load in loads):
            return loads
        # A load's counts change all the time: without this pause the node would be asked as fast
        # as it can answer.
        time.sleep(_POLL_SECONDS)
        try:
            loads = [
                load if ended(load) else client.load(load.metadata.name, _ANSWER_SECONDS)
                for load in loads
            ]
            answered = time.monotonic()
        except errors.AtlasError as error:
            if run.remaining() == 0:
                message = f"stopped waiting after {run.timeout_seconds:g} s"
                raise left_running(errors.TIMED_OUT, message, wanted) from None
            # A node that was killed or replaced goes on with its loads by itself.
            passing = error.kind in (errors.TEMPORARY, errors.NOT_READY, errors.TIMED_OUT)
            if not passing or time.monotonic() - answered > _ABSENCE_SECONDS:
                raise


def _start(client: Client, wanted: Sequence[models.LoadSpec]) -> list[models.DataLoad]:
    from atlas.api.errors import AtlasError

    loads: list[models.DataLoad] = []
    for spec in wanted:
        try:
            loads.append(client.start_load(spec.dataset, spec))
        except AtlasError as error:
            error.details += [f"the load of {load.spec.dataset} has begun" for load in loads]
            raise
    return loads


def _stop(run: Run, client: Client, wanted: Sequence[models.LoadSpec]) -> None:
    from atlas.cli.endings import ended

    stopped = []
    for spec in wanted:
        running = [
            load
            for load in client.loads(spec.dataset)
            if not ended(load) and (not spec.paths or load.spec.paths == spec.paths)
        ]
        if not running:
            run.say(f"{spec.dataset} has no running load; nothing was done.")
        for load in running:
            stopped.append(client.stop_load(load.metadata.name))
            run.say(f"Stopped the load of {spec.dataset}. What is cached stays.")
    _show_loads(run, stopped, only_objects=True)


def _wanted(targets: Sequence[str], parallel: int, bytes_per_second: int) -> list[models.LoadSpec]:
    """One entry for each data set, with all paths named for it; the whole wins over its parts."""
    from atlas.api.models import LoadSpec
    from atlas.api.units import check_name

    paths: dict[str, list[str]] = {}
    whole = set()
    for target in targets:
        name, colon, path = text(target, "the target").partition(":")
        check_name(name)
        if colon and not path.startswith("/"):
            raise click.UsageError(
                f"{target!r} is not NAME or NAME:/path.", click.get_current_context()
            )
        named = paths.setdefault(name, [])
        if not path.strip("/"):
            whole.add(name)
        elif path not in named:
            named.append(path)
    return [
        LoadSpec(
            dataset=name,
            paths=[] if name in whole else named,
            parallel=parallel,
            bytes_per_second=bytes_per_second,
        )
        for name, named in paths.items()
    ]


def _would_read(status: models.LoadStatus) -> str:
    from atlas.api.units import format_size

    if status.files_total is None or status.bytes_total is None:
        return f"{format_size(status.bytes)} are cached; the scan still counts the rest"
    files = max(0, status.files_total - status.files)
    size = format_size(max(0, status.bytes_total - status.bytes))
    return f"{files:,} files and {size} would be read from the origin"


def _show_loads(run: Run, loads: Sequence[models.DataLoad], *, only_objects: bool = False) -> None:
    """Loads as data; a person is given their names, or with `only_objects` nothing."""
    from atlas.api.models import DataLoadList
    from atlas.cli.show import show

    def names() -> list[str]:
        return [f"dataload/{load.metadata.name or load.spec.dataset}" for load in loads]

    value = loads[0] if len(loads) == 1 else DataLoadList(items=list(loads))
    show(run, value, text=lambda: "" if only_objects else names(), names=names)
