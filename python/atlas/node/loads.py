"""Loads: warm-up jobs that outlive their client and their node.

The engine does the work; here a load is kept, watched, and started again after a restart.
"""

import logging
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from atlas.api import errors
from atlas.api.commands import watch_command
from atlas.api.errors import AtlasError
from atlas.api.models import DataLoad, FailedFile, LoadSpec, LoadStatus, Metadata
from atlas.api.units import format_time, parse_time, printable
from atlas.node.caller import Caller
from atlas.node.database import Database, DatasetRow
from atlas.node.datasets import Datasets, may_use
from atlas.node.events import Events
from atlas.node.native import Engine, failing, kind_of
from atlas.node.registry import Registry
from atlas.node.views import Views

if TYPE_CHECKING:
    from atlas import _native

logger = logging.getLogger("atlas.node.loads")

ENDED: Final = ("Complete", "Partial", "Failed", "Stopped")
WATCH_SECONDS: Final = 0.1
"""Between two looks at the running loads: what a watching user sees as live."""
RATE_SECONDS: Final = 5.0
"""The rate shown is that of this last stretch."""
USER_READERS: Final = 256
"""Of all running loads of one user other than root together, as far as they were asked for. Each is
a thread of the node."""
LONGEST_LOOK_SECONDS: Final = 5.0
"""How long a stop waits for the watching thread."""
LONGEST_WAIT_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Running:
    """A load that the engine works on, and its progress of late: (time, bytes)."""

    dataset: DatasetRow
    load: DataLoad
    created: float
    progress: deque[tuple[float, int]] = field(default_factory=deque)


class Loads:
    """The service behind loads. `start_watching` before the first call, `stop_watching` at last."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        registry: Registry,
        datasets: Datasets,
        views: Views,
        events: Events,
    ) -> None:
        self._database = database
        self._engine = engine
        self._registry = registry
        self._datasets = datasets
        self._views = views
        self._events = events
        self._changed = threading.Condition()
        self._running: dict[str, _Running] = {}
        self._ending = False
        self._watcher = threading.Thread(target=self._watch, name="atlas-loads", daemon=True)

    def start_watching(self) -> None:
        self._watcher.start()

    def stop_watching(self) -> None:
        """Ends the thread and lets waiting calls answer; running loads stay `running` on disk."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._watcher.is_alive():
            self._watcher.join(LONGEST_LOOK_SECONDS)

    def visible(self, caller: Caller, name: str) -> list[DataLoad]:
        """Of one data set, oldest first."""
        row = self._datasets.find(caller, name)
        return [self._current(load) for _, load in self._database.loads(row.id)]

    def get(self, caller: Caller, identifier: str, wait_seconds: float = 0.0) -> DataLoad:
        """A load; with `wait_seconds` as soon as it changes, or after that time."""
        load = self._find(caller, identifier)
        if wait_seconds <= 0 or load.status.phase in ENDED:
            return load
        deadline = time.monotonic() + min(wait_seconds, LONGEST_WAIT_SECONDS)
        with self._changed:
            while not self._ending:
                running = self._running.get(identifier)
                if running is None or running.load.status != load.status:
                    break
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
        return self._find(caller, identifier)

    def start(
        self, caller: Caller, name: str, spec: LoadSpec, dry_run: bool
    ) -> tuple[DataLoad, bool]:
        """(the load, whether it is new). One runs at a time in a data set: the same again gives
        it, another one is a Conflict."""
        with self._registry.hold(name):
            row = self._datasets.find(caller, name)
            paths = sorted({_relative(path) for path in spec.paths})
            wanted = LoadSpec(
                dataset=row.name,
                paths=[] if "/" in paths else paths,
                parallel=spec.parallel,
                bytes_per_second=spec.bytes_per_second,
            )
            for other in self._database.running_loads(row.id):
                if other.spec == wanted:
                    return self._current(other), False
                raise AtlasError(
                    errors.CONFLICT,
                    f"another load of data set {row.name} is running",
                    other.metadata.name,
                    hint=watch_command([other.spec]),
                    unchanged="the running load goes on; --stop would end it",
                )
            if self._registry.entry(row.id).state != "serving":
                raise AtlasError(
                    errors.NOT_READY,
                    f"data set {row.name} is not served now",
                    hint=f"atlasctl cache describe {row.name}",
                )
            self._check_readers(caller, spec.parallel)
            now = time.time()
            load = DataLoad(
                metadata=Metadata(
                    name=f"{row.name}-{secrets.token_hex(3)}",
                    uid=secrets.token_hex(8),
                    creation_timestamp=format_time(now),
                ),
                spec=wanted,
            )
            if dry_run:
                return self._preview(row, load), True
            load.status.phase = "Running"
            load.status.start_time = format_time(now)
            self._database.put_load(row.id, load, running=True, created=now)
            try:
                self._start_in_engine(row, load, now)
            except AtlasError as error:
                self._end(row, load, now, str(error))
                raise
            self._events.record(row.id, "Normal", "LoadStarted", load.metadata.name)
            return load, True

    def _check_readers(self, caller: Caller, wanted: int) -> None:
        """Raises AtlasError (QuotaExceeded) where a user other than root asks for more threads."""
        if caller.is_root:
            return
        with self._changed:
            running = sum(
                one.load.spec.parallel
                for one in self._running.values()
                if one.dataset.uid == caller.uid
            )
        if running + wanted > USER_READERS:
            raise AtlasError(
                errors.QUOTA,
                f"{wanted} readers exceed your limit",
                f"{running} of {USER_READERS} are at work already",
                hint="a smaller -p, or none: the node chooses then",
            )

    def stop(self, caller: Caller, identifier: str) -> DataLoad:
        """Stops a load; what it has loaded stays. An ended one is left as it is."""
        load = self._find(caller, identifier)
        if load.status.phase in ENDED:
            return load
        with self._changed:
            running = self._running.get(identifier)
        kept = self._database.load(identifier)
        if running is not None:
            with failing(f"load {identifier} cannot be stopped"):
                self._engine.stop_load(running.dataset.id, identifier)
            return self.get(caller, identifier, wait_seconds=1.0)
        if kept is not None:
            # It waits for its data set to be served again, and never will run.
            load.status.phase = "Stopped"
            self._database.put_load(kept[0], load, running=False, created=_created(load))
        return load

    def resume(self, row: DatasetRow) -> None:
        """Lets the loads that an earlier node was working on go on, once `row` is served."""
        for load in self._database.running_loads(row.id):
            try:
                self._start_in_engine(row, load, _created(load))
            except AtlasError as error:
                logger.warning("load %s cannot go on: %s", load.metadata.name, error)
                self._end(row, load, _created(load), str(error))

    def _start_in_engine(self, row: DatasetRow, load: DataLoad, created: float) -> None:
        with failing(f"data set {row.name} cannot be loaded"):
            self._engine.start_load(
                row.id,
                load.metadata.name,
                # The empty path is the root: everything.
                [path.lstrip("/").encode() for path in load.spec.paths or ["/"]],
                load.spec.parallel,
                load.spec.bytes_per_second,
            )
        load.status.phase = "Running"
        with self._changed:
            self._running[load.metadata.name] = _Running(row, load, created)
            self._changed.notify_all()

    def _find(self, caller: Caller, identifier: str) -> DataLoad:
        kept = self._database.load(identifier)
        row = None if kept is None else self._database.dataset(kept[0])
        if kept is None or row is None or not may_use(caller, row):
            raise AtlasError(errors.NOT_FOUND, f"there is no load {printable(identifier)!r}")
        return self._current(kept[1])

    def _current(self, kept: DataLoad) -> DataLoad:
        """The load as it is now: a running one is newer than what is kept of it."""
        with self._changed:
            running = self._running.get(kept.metadata.name)
            if running is not None:
                return msgspec.structs.replace(running.load, status=running.load.status)
        if kept.status.phase == "Running":
            # Nobody works on it: its data set is not served, or not yet again.
            kept.status.phase = "Pending"
        return kept

    def _preview(self, row: DatasetRow, load: DataLoad) -> DataLoad:
        """What a load of the whole data set would move; of parts of it nothing is known yet."""
        if not load.spec.paths:
            status = self._views.dataset(row).status
            load.status.files, load.status.bytes = status.cached_files, status.cached_bytes
            if status.scan.state != "Running":
                load.status.files_total = status.files
                load.status.bytes_total = status.total_bytes
        load.metadata.name, load.metadata.uid = "", None
        return load

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._running and not self._ending:
                    self._changed.wait()
                if not self._ending:
                    self._changed.wait(WATCH_SECONDS)
                if self._ending:
                    return
                running = list(self._running.values())
            for one in running:
                try:
                    self._look(one)
                except Exception:
                    # The thread serves all loads: one that cannot be read must not end it.
                    logger.exception("load %s cannot be watched", one.load.metadata.name)

    def _look(self, one: _Running) -> None:
        name = one.load.metadata.name
        try:
            found = self._engine.load_status(one.dataset.id, name)
        except Exception as error:
            if kind_of(error) is None:
                raise
            # Its data set was closed or deleted: nothing to watch any more.
            with self._changed:
                self._running.pop(name, None)
                self._changed.notify_all()
            return
        status = _status(one, found)
        ended = status.phase in ENDED
        with self._changed:
            differs = status != one.load.status
            one.load.status = status
        if ended:
            self._end(one.dataset, one.load, one.created, None)
        elif differs:
            with self._changed:
                self._changed.notify_all()

    def _end(self, row: DatasetRow, load: DataLoad, created: float, failure: str | None) -> None:
        """Keeps an ended load. First on disk, then out of the running ones: a call in between
        sees it running a moment longer, never Pending again."""
        if failure is not None:
            load.status.phase, load.status.message = "Failed", failure
        load.status.completion_time = format_time(time.time())
        load.status.eta_seconds = None
        if self._database.dataset(row.id) is not None:
            self._database.put_load(row.id, load, running=False, created=created)
            if failure is not None:
                # Of every other end the engine has told.
                self._events.record(
                    row.id, "Warning", "LoadFailed", f"{load.metadata.name}: {failure}"
                )
        with self._changed:
            self._running.pop(load.metadata.name, None)
            self._changed.notify_all()


def _status(one: _Running, found: "_native.LoadStatus") -> LoadStatus:
    """The engine's word, with rate and time to go from the progress of the last seconds."""
    now = time.monotonic()
    one.progress.append((now, found["bytes"]))
    while len(one.progress) > 2 and one.progress[0][0] < now - RATE_SECONDS:
        one.progress.popleft()
    (then, before), seconds = one.progress[0], now - one.progress[0][0]
    rate = max(0.0, (found["bytes"] - before) / seconds) if then < now and seconds > 0 else 0.0
    if found["phase"] in ENDED:
        # Of the whole load; an earlier node's part of it counts in both.
        elapsed = time.time() - parse_time(one.load.status.start_time or format_time(one.created))
        rate = found["bytes"] / elapsed if elapsed > 0 else 0.0
    total = found["bytes_total"]
    eta = None
    if total is not None and rate > 0:
        eta = round(max(0, total - found["bytes"] - found["skipped_bytes"]) / rate, 1)
    return LoadStatus(
        phase=found["phase"],
        files=found["files"],
        bytes=found["bytes"],
        files_total=found["files_total"],
        bytes_total=total,
        bytes_per_second=round(rate, 1),
        eta_seconds=eta,
        failed=[
            FailedFile(path=failure["path"], reason=failure["reason"])
            for failure in found["failed"]
        ],
        failed_count=found["failed_count"],
        skipped_bytes=found["skipped_bytes"],
        start_time=one.load.status.start_time,
        completion_time=one.load.status.completion_time,
    )


def _created(load: DataLoad) -> float:
    return parse_time(load.metadata.creation_timestamp or format_time(time.time()))


def _relative(path: str) -> str:
    """A path below the data set's root, written from it: "/a/b". Raises AtlasError (Invalid)."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    try:
        path.encode()
    except UnicodeEncodeError:
        raise AtlasError(
            errors.INVALID, f"the path {printable(path)} is not in UTF-8", hint="load its folder"
        ) from None
    if ".." in parts or "\0" in path:
        raise AtlasError(errors.INVALID, f"{printable(path)} is no path in the data set")
    return "/" + "/".join(parts)
