"""How a load has ended, and what can be done about it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from atlas.api import errors, models
from atlas.api.client import NodeClient
from atlas.api.commands import watch_command
from atlas.api.errors import AtlasError, ErrorCode
from atlas.api.units import format_duration, format_size, parse_time, printable
from atlas.cli.run import Run

_FIRST_FAILED = 10
_PAGE_BYTES = 4096
_ABSENT = "no such entry in the data set"
"""How the engine's reason ends where a path that was named does not exist."""
# Worst first: what several loads end with.
_WORST = (errors.LOAD_FAILED, errors.NOT_FOUND, errors.PARTLY_DONE)


def ended(load: models.DataLoad) -> bool:
    """Whether nothing more will come of the load."""
    return load.status.phase not in ("Pending", "Running")


def left_running(kind: ErrorCode, message: str, specs: Sequence[models.LoadSpec]) -> AtlasError:
    """The end of a watch whose loads go on, and the way back."""
    return AtlasError(
        kind,
        f"{message}: load of {', '.join(spec.dataset for spec in specs)}",
        unchanged="the load goes on in the node; --stop would end it",
        hint=watch_command(specs),
    )


def end(run: Run, client: NodeClient, loads: Sequence[models.DataLoad]) -> None:
    """Says how loads ended. Raises the worst ending as AtlasError, with the others as details."""
    problems = []
    for load in loads:
        if load.status.phase == "Complete":
            run.say(_complete(load))
        else:
            problems.append(_problem(client, load))
    if not problems:
        return
    problems.sort(key=lambda problem: _WORST.index(problem.kind))
    worst, *others = problems
    for problem in others:
        worst.details += [str(problem), *problem.details]
    raise worst


def _complete(load: models.DataLoad) -> str:
    status = load.status
    text = f"{load.spec.dataset}: Complete, {status.files:,} files, {format_size(status.bytes)}"
    if status.start_time and status.completion_time:
        seconds = parse_time(status.completion_time) - parse_time(status.start_time)
        text += f" in {format_duration(seconds) if seconds >= 1 else f'{seconds:.2f}s'}"
    return text


def _problem(client: NodeClient, load: models.DataLoad) -> AtlasError:
    name, status = load.spec.dataset, load.status
    details = [
        f"{printable(failure.path)}: {printable(failure.reason)}"
        for failure in status.failed[:_FIRST_FAILED]
    ]
    if status.failed_count > len(details) > 0:
        details.append(f"and {status.failed_count - len(details):,} more")
    again = f"atlasctl cache warm {name}"
    if status.phase == "Stopped":
        return AtlasError(
            errors.LOAD_FAILED,
            f"the load of {name} was stopped",
            status.message or f"{status.files:,} files are cached",
            again,
            "what is cached stays",
            details,
        )
    if (
        status.phase in ("Failed", "Partial")
        and not status.files
        and not status.skipped_bytes
        and 0 < status.failed_count == len(status.failed)
        and all(failure.reason.endswith(_ABSENT) for failure in status.failed)
    ):
        return AtlasError(
            errors.NOT_FOUND,
            f"data set {name} has no such path",
            hint=f"atlasctl cache describe {name}",
            unchanged="nothing was loaded",
            details=details,
        )
    if status.phase == "Failed":
        return AtlasError(
            errors.LOAD_FAILED,
            f"the load of {name} failed",
            status.message or f"{status.failed_count:,} files or folders could not be loaded",
            f"atlasctl cache events {name}",
            "what is cached stays; the rest is read from the origin",
            details,
        )
    total = "" if status.files_total is None else f" of {status.files_total:,}"
    causes = []
    if status.skipped_bytes:
        causes.append(f"no space for {format_size(status.skipped_bytes)}")
    if status.failed_count:
        causes.append(f"{status.failed_count:,} files or folders could not be loaded")
    return AtlasError(
        errors.PARTLY_DONE,
        f"the load of {name} is partial: {status.files:,}{total} files are cached",
        "; ".join(causes) or status.message,
        _larger(client, name) if status.skipped_bytes else again,
        "what is cached stays; the rest is asked of the origin when it is read",
        details,
    )


def _larger(client: NodeClient, name: str) -> str:
    """The commands that make a cache large enough for all of the data set."""
    try:
        dataset = client.dataset(name)
    except AtlasError:
        return f"atlasctl cache create {name} with a larger --size"
    tier = dataset.spec.tiers[0]
    # Each file takes whole pages, the tier's file system 0.5 % for itself; rounded up to a size
    # that people write.
    needed = (dataset.status.total_bytes + dataset.status.files * _PAGE_BYTES) * 101 // 100
    unit, letter = (1 << 30, "Gi") if needed > 10 << 30 else (1 << 20, "Mi")
    size = f"{needed // unit + 1}{letter}"
    own_folder = str(client.home.tier(tier.medium))
    place = (
        ["--tier", f"{tier.medium.lower()}:{size}:{tier.paths[0]}"]
        if tier.paths and tier.paths[0] != own_folder
        else ["--size", size, "--medium", tier.medium]
    )
    create = [
        "atlasctl", "cache", "create", name, "--from", dataset.spec.mounts[0].source,
        *place,
        *[part for pattern in dataset.spec.include for part in ("--include", pattern)],
        *[part for pattern in dataset.spec.exclude for part in ("--exclude", pattern)],
    ]  # fmt: skip
    return f"atlasctl cache delete {name} && {shlex.join(create)}"
