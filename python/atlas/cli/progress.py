"""Showing loads while they run: a bar on a terminal, lines elsewhere, objects for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Final, Protocol

from atlas.api import models
from atlas.api.units import format_duration, format_size
from atlas.cli.run import Run, complain, is_terminal

MODES: Final = ("auto", "json", "none")
_LINE_SECONDS: Final = 30.0
_OBJECT_SECONDS: Final = 1.0


class Display(Protocol):
    """Shows the state of loads, again and again until `close`."""

    def update(self, loads: Sequence[models.DataLoad]) -> None: ...

    def close(self) -> None: ...


def display_of(run: Run, mode: str) -> Display:
    """The display for `--progress=mode` and the streams of this run."""
    if mode == "json":
        return _Objects(run)
    if mode == "none" or run.quiet or run.for_programs:
        return _Nothing()
    if is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        return _Bars(run)
    return _Lines()


def numbers(status: models.LoadStatus) -> str:
    """Files and bytes done of all, rate, time left and errors, in one line.

    Until the scan has counted what the load names, the counts alone: they always move.
    """
    if status.files_total is None or status.bytes_total is None:
        counts = (
            f"{status.files:,} files, {format_size(status.bytes)} so far (the scan still counts)"
        )
    else:
        counts = (
            f"{status.files:,}/{status.files_total:,} files,"
            f" {format_size(status.bytes)}/{format_size(status.bytes_total)}"
        )
    parts = [counts, f"{format_size(int(status.bytes_per_second))}/s"]
    if status.eta_seconds is not None:
        parts.append(f"ETA {format_duration(status.eta_seconds)}")
    if status.failed_count:
        parts.append(f"{status.failed_count:,} failed")
    if status.skipped_bytes:
        parts.append(f"{format_size(status.skipped_bytes)} without space")
    return ", ".join(parts)


class _Nothing:
    def update(self, loads: Sequence[models.DataLoad]) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """A line for each load every 30 s."""

    def __init__(self) -> None:
        self._next = monotonic() + _LINE_SECONDS

    def update(self, loads: Sequence[models.DataLoad]) -> None:
        if monotonic() < self._next:
            return
        self._next += _LINE_SECONDS
        for load in loads:
            complain(f"{load.spec.dataset}: {load.status.phase}, {numbers(load.status)}")

    def close(self) -> None:
        pass


class _Objects:
    """A JSON object on standard output for each change of a load, at most one a second."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last: dict[str, str] = {}
        self._next: dict[str, float] = {}

    def update(self, loads: Sequence[models.DataLoad]) -> None:
        from atlas.cli.formats import json_text

        now = monotonic()
        for load in loads:
            ended = load.status.phase not in ("Pending", "Running")
            if not ended and now < self._next.get(load.metadata.name, 0.0):
                continue
            line = json_text(models.to_builtins(load), indent=None)
            if line != self._last.get(load.metadata.name):
                self._last[load.metadata.name] = line
                self._next[load.metadata.name] = now + _OBJECT_SECONDS
                self._run.emit(line)

    def close(self) -> None:
        pass


class _Bars:
    """A bar for each load, taken away at the end."""

    def __init__(self, run: Run) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn

        # Markup off everywhere: a name in square brackets is a name.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=Console(file=sys.stderr, no_color=not run.colour(sys.stderr), markup=False),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def update(self, loads: Sequence[models.DataLoad]) -> None:
        for load in loads:
            task = self._tasks.get(load.metadata.name)
            if task is None:
                task = self._progress.add_task(load.spec.dataset, total=None, numbers="")
                self._tasks[load.metadata.name] = task
            self._progress.update(
                task,
                # An empty load is a full bar.
                total=None if load.status.bytes_total is None else max(1, load.status.bytes_total),
                completed=load.status.bytes if load.status.bytes_total else 1,
                numbers=numbers(load.status),
            )

    def close(self) -> None:
        self._progress.stop()
