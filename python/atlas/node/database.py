"""State of the control objects: SQLite in WAL mode, one connection, short transactions.

What is about to be done to the machine is written before it is done (`creating`, `deleting`,
`releasing`), so that after a kill at any point the next node knows what to finish or to undo.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import DataLoad, DatasetSpec, Event, FrontKind, Medium, decode, to_json
from atlas.api.units import format_time
from atlas.node.native import Identity

FORMAT: Final = 2
"""Of the tables below. An older one is brought to it; any other number is a clear error, never a
guess."""

Phase = Literal["creating", "present", "deleting", "releasing", "freeing"]
"""creating, deleting, freeing: to be removed by whoever finds it. releasing: without a name, served
until the kernel lets go of the last mount; freeing: what comes then, also without a name."""

EVENTS_KEPT: Final = 200
RESERVE_BYTES: Final = 1 << 20
"""On the disk beside the database: given up where a delete finds it full, since that is what makes
room again."""
LOADS_KEPT: Final = 20

_TABLES: Final = """
CREATE TABLE datasets (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    phase TEXT NOT NULL
        CHECK (phase IN ('creating', 'present', 'deleting', 'releasing', 'freeing')),
    identity TEXT NOT NULL,
    spec BLOB NOT NULL,
    created REAL NOT NULL,
    medium TEXT NOT NULL,
    tier TEXT NOT NULL,
    tier_uuid TEXT NOT NULL
);
CREATE UNIQUE INDEX names ON datasets (name) WHERE phase NOT IN ('releasing', 'freeing');
CREATE TABLE mounts (
    path TEXT PRIMARY KEY,
    given TEXT NOT NULL,
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    identity TEXT NOT NULL,
    created REAL NOT NULL
);
CREATE TABLE loads (
    id TEXT PRIMARY KEY,
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    running INTEGER NOT NULL,
    created REAL NOT NULL,
    object BLOB NOT NULL
);
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    time REAL NOT NULL,
    type TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    count INTEGER NOT NULL
);
CREATE INDEX events_of ON events (dataset, number);
"""

_FRONTS: Final = """
CREATE TABLE fronts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset TEXT NOT NULL REFERENCES datasets (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('live', 'lazy', 'sealed')),
    superblock TEXT,
    device TEXT,
    boot TEXT NOT NULL,
    instance TEXT NOT NULL,
    since REAL NOT NULL,
    reason TEXT NOT NULL,
    attached INTEGER NOT NULL
);
CREATE INDEX fronts_of ON fronts (dataset, number);
"""
"""New in format 2."""


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A data set as it is kept. `identity` is its creator's: the origin is read with it."""

    id: str
    name: str
    phase: Phase
    identity: Identity
    spec: DatasetSpec
    created: float
    medium: Medium
    tier: str
    tier_uuid: str

    @property
    def uid(self) -> int:
        return self.identity[0]

    @property
    def quota_bytes(self) -> int:
        return self.spec.tiers[0].quota


@dataclass(frozen=True, slots=True)
class MountRow:
    """A mount besides the node's own. `path` is without links, `given` as the user wrote it."""

    path: str
    given: str
    dataset: str
    identity: Identity
    created: float


@dataclass(frozen=True, slots=True)
class FrontRow:
    """A way in which a data set is, or still may be, served. `attached`: what its paths show.

    `superblock` is the kernel's name for a mounted image ("erofs-N"), None for a live front;
    `device` ("MAJOR:MINOR") is None where a node of format 1 had made it. Both mean something in
    one `boot` only. `instance` names the tables of the engine that it was made over: over others
    its node ids and addresses mean other files; empty where that was not kept.
    """

    dataset: str
    kind: FrontKind
    superblock: str | None
    device: str | None
    boot: str
    instance: str
    since: float
    reason: str
    attached: bool = False
    number: int = 0


class Database:
    """All methods may be called from any thread; each is one transaction. Those that write raise
    AtlasError (NoSpace, IoError) where the disk does not take it."""

    def __init__(self, path: Path, boot: str) -> None:
        """`boot` names the machine's present run. Raises AtlasError (Corrupt, VersionMismatch)
        where the file cannot be used."""
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            # FULL: a data set that a user was told of must not be lost with the power, or its
            # bytes on a disk would belong to nobody.
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            raise AtlasError(
                errors.CORRUPT, f"the node's state in {path} cannot be read", str(error)
            ) from error
        if found == 0:
            self._bring(_TABLES + _FRONTS)
        elif found == 1:
            self._bring(_FRONTS, fronts_boot=boot)
        elif found != FORMAT:
            raise AtlasError(
                errors.VERSION_MISMATCH,
                f"the node's state in {path} has format {found}, this version reads {FORMAT}",
                hint="use the version of Atlas that wrote it",
            )
        self._reserve = path.with_name(f"{path.name}.reserve")
        self._keep_reserve()

    def _bring(self, statements: str, fronts_boot: str | None = None) -> None:
        """To the present format, in one transaction. With `fronts_boot` each data set has had a
        live front, the only kind of format 1: of an earlier boot, it will be found to be dead."""
        # executescript would commit on its own between two statements.
        with self._transaction() as connection:
            for statement in filter(str.strip, statements.split(";")):
                connection.execute(statement)
            if fronts_boot is not None:
                connection.execute(
                    "INSERT INTO fronts (dataset, kind, boot, instance, since, reason, attached)"
                    " SELECT id, 'live', ?, '', created, 'the only front of the version before',"
                    " phase = 'present' FROM datasets ORDER BY created",
                    (fronts_boot,),
                )
            connection.execute(f"PRAGMA user_version = {FORMAT}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def datasets(self) -> list[DatasetRow]:
        """All, by name; those that have lost it after the one that has it now."""
        rows = self._all(
            "SELECT * FROM datasets ORDER BY name, phase IN ('releasing', 'freeing'), created",
            (),
        )
        return [_dataset(row) for row in rows]

    def dataset_named(self, name: str) -> DatasetRow | None:
        """The one that has the name: a releasing one has none any more."""
        rows = self._all(
            "SELECT * FROM datasets WHERE name = ? AND phase NOT IN ('releasing', 'freeing')",
            (name,),
        )
        return _dataset(rows[0]) if rows else None

    def dataset(self, identifier: str) -> DatasetRow | None:
        rows = self._all("SELECT * FROM datasets WHERE id = ?", (identifier,))
        return _dataset(rows[0]) if rows else None

    def add_dataset(self, row: DatasetRow) -> None:
        """Raises AtlasError (Conflict) where the name is taken."""
        try:
            self._run(
                "INSERT INTO datasets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row.id,
                row.name,
                row.phase,
                json.dumps(row.identity),
                to_json(row.spec),
                row.created,
                row.medium,
                row.tier,
                row.tier_uuid,
            )
        except sqlite3.IntegrityError as error:
            raise AtlasError(errors.CONFLICT, f"data set {row.name} exists already") from error

    def set_phase(self, identifier: str, phase: Phase) -> None:
        statement = "UPDATE datasets SET phase = ? WHERE id = ?"
        if phase == "present":
            self._run(statement, phase, identifier)
        else:
            self._remove((statement, phase, identifier))

    def set_spec(self, identifier: str, spec: DatasetSpec) -> None:
        self._run("UPDATE datasets SET spec = ? WHERE id = ?", to_json(spec), identifier)

    def begin_release(self, identifier: str) -> None:
        """`releasing`: from now on the name and the mount folders are free for others."""
        self._remove(
            ("UPDATE datasets SET phase = 'releasing' WHERE id = ?", identifier),
            ("DELETE FROM mounts WHERE dataset = ?", identifier),
        )

    def remove_dataset(self, identifier: str) -> None:
        """With its mounts, loads and events."""
        self._remove(("DELETE FROM datasets WHERE id = ?", identifier))
        self._keep_reserve()

    def mounts(self, dataset: str | None = None) -> list[MountRow]:
        """All, or those of one data set, oldest first."""
        rows = self._all(
            "SELECT * FROM mounts WHERE ?1 IS NULL OR dataset = ?1 ORDER BY created, path",
            (dataset,),
        )
        return [
            MountRow(path, given, owner, _identity(identity), created)
            for path, given, owner, identity, created in rows
        ]

    def add_mount(self, row: MountRow) -> None:
        """Raises AtlasError (Conflict) where the path is in use by another mount."""
        try:
            self._run(
                "INSERT INTO mounts VALUES (?, ?, ?, ?, ?)",
                row.path,
                row.given,
                row.dataset,
                json.dumps(row.identity),
                row.created,
            )
        except sqlite3.IntegrityError as error:
            raise AtlasError(errors.CONFLICT, f"{row.given} is in use by another mount") from error

    def remove_mount(self, path: str) -> None:
        self._remove(("DELETE FROM mounts WHERE path = ?", path))

    def fronts(self, dataset: str) -> list[FrontRow]:
        """Of one data set, oldest first."""
        rows = self._all(
            "SELECT dataset, kind, superblock, device, boot, instance, since, reason, attached,"
            " number FROM fronts WHERE dataset = ? ORDER BY number",
            (dataset,),
        )
        return [
            FrontRow(*known, attached=bool(attached), number=number)  # type: ignore[misc]
            for *known, attached, number in rows
        ]

    def add_front(self, row: FrontRow) -> FrontRow:
        """The row with its number."""
        with self._transaction() as connection:
            number = connection.execute(
                "INSERT INTO fronts (dataset, kind, superblock, device, boot, instance, since,"
                " reason, attached) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row.dataset,
                    row.kind,
                    row.superblock,
                    row.device,
                    row.boot,
                    row.instance,
                    row.since,
                    row.reason,
                    row.attached,
                ),
            ).lastrowid
        return replace(row, number=number or 0)

    def set_attached(self, front: FrontRow, since: float, reason: str) -> None:
        """From now on `front` is what the paths of its data set show, and no other."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE fronts SET attached = (number = ?) WHERE dataset = ?",
                (front.number, front.dataset),
            )
            connection.execute(
                "UPDATE fronts SET since = ?, reason = ? WHERE number = ?",
                (since, reason, front.number),
            )

    def set_device(self, front: FrontRow, device: str) -> None:
        self._run("UPDATE fronts SET device = ? WHERE number = ?", device, front.number)

    def remove_front(self, front: FrontRow) -> None:
        """On a full disk it stays, as the row of a front that has ended."""
        with suppress(AtlasError):
            self._run("DELETE FROM fronts WHERE number = ?", front.number)

    def remove_fronts_of_other_boots(self, boot: str) -> None:
        """What cannot be removed, on a full disk, is of another boot all the same."""
        with suppress(AtlasError):
            self._run("DELETE FROM fronts WHERE boot != ?", boot)

    def end_fronts(self, dataset: str) -> None:
        """All that need a process are over; sealed ones may still be used where they were open."""
        self._remove(
            ("DELETE FROM fronts WHERE dataset = ? AND kind != 'sealed'", dataset),
            ("UPDATE fronts SET attached = 0 WHERE dataset = ?", dataset),
        )

    def loads(self, dataset: str | None = None) -> list[tuple[str, DataLoad]]:
        """(data set id, load), oldest first."""
        rows = self._all(
            "SELECT dataset, object FROM loads WHERE ?1 IS NULL OR dataset = ?1 ORDER BY created",
            (dataset,),
        )
        return [(owner, decode(data, DataLoad, "a kept load")) for owner, data in rows]

    def load(self, identifier: str) -> tuple[str, DataLoad] | None:
        rows = self._all("SELECT dataset, object FROM loads WHERE id = ?", (identifier,))
        return (rows[0][0], decode(rows[0][1], DataLoad, "a kept load")) if rows else None

    def put_load(self, dataset: str, load: DataLoad, running: bool, created: float) -> None:
        """Keeps a load as it is now; of a data set's ended ones the newest LOADS_KEPT stay."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO loads VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
                " SET running = excluded.running, object = excluded.object",
                (load.metadata.name, dataset, running, created, to_json(load)),
            )
            connection.execute(
                "DELETE FROM loads WHERE dataset = ?1 AND NOT running AND id NOT IN (SELECT id"
                " FROM loads WHERE dataset = ?1 AND NOT running ORDER BY created DESC LIMIT ?2)",
                (dataset, LOADS_KEPT),
            )

    def running_loads(self, dataset: str) -> list[DataLoad]:
        rows = self._all(
            "SELECT object FROM loads WHERE dataset = ? AND running ORDER BY created", (dataset,)
        )
        return [decode(data, DataLoad, "a kept load") for (data,) in rows]

    def add_events(self, events: list[tuple[str, float, str, str, str]]) -> None:
        """(data set id, time, type, reason, message) each. One that repeats the data set's last is
        counted there; of each data set the newest EVENTS_KEPT stay; of unknown ones none."""
        with self._transaction() as connection:
            for dataset, time, kind, reason, message in events:
                last = connection.execute(
                    "SELECT number, type, reason, message FROM events WHERE dataset = ?"
                    " ORDER BY number DESC LIMIT 1",
                    (dataset,),
                ).fetchone()
                if last is not None and last[1:] == (kind, reason, message):
                    connection.execute(
                        "UPDATE events SET count = count + 1, time = ? WHERE number = ?",
                        (time, last[0]),
                    )
                    continue
                connection.execute(
                    "INSERT INTO events (dataset, time, type, reason, message, count)"
                    " SELECT id, ?, ?, ?, ?, 1 FROM datasets WHERE id = ?",
                    (time, kind, reason, message, dataset),
                )
            for dataset in {event[0] for event in events}:
                connection.execute(
                    "DELETE FROM events WHERE dataset = ?1 AND number <= (SELECT number FROM events"
                    " WHERE dataset = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                    (dataset, EVENTS_KEPT),
                )

    def events(self, dataset: str, name: str) -> list[Event]:
        """Oldest first; `name` is what the data set is called in them."""
        rows = self._all(
            "SELECT time, type, reason, message, count FROM events WHERE dataset = ?"
            " ORDER BY number",
            (dataset,),
        )
        return [
            Event(
                dataset=name,
                time=format_time(time),
                type=kind,
                reason=reason,
                message=message,
                count=count,
            )
            for time, kind, reason, message, count in rows
        ]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                # Here a full disk shows.
                self._connection.execute("COMMIT")
            except BaseException as error:
                # What SQLite has not taken back by itself would be in the way of all that follow.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
                    raise AtlasError(
                        errors.NO_SPACE if full else errors.INPUT_OUTPUT,
                        "the node's state cannot be written",
                        str(error),
                        hint="atlasctl doctor",
                    ) from error
                raise

    def _run(self, statement: str, *values: Any) -> None:
        with self._transaction() as connection:
            connection.execute(statement, values)

    def _remove(self, *statements: tuple[str, *tuple[Any, ...]]) -> None:
        """Statements, each with its values, in one transaction that a full disk does not stop."""

        def run() -> None:
            with self._transaction() as connection:
                for statement, *values in statements:
                    connection.execute(statement, values)

        try:
            run()
        except AtlasError as error:
            if error.kind is not errors.NO_SPACE or not self._reserve.exists():
                raise
            self._reserve.unlink(missing_ok=True)
            run()

    def _keep_reserve(self) -> None:
        """Where there is no room for it now, a later delete makes some."""
        with suppress(OSError), open(self._reserve, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)

    def _all(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()


def _dataset(row: Any) -> DatasetRow:
    identifier, name, phase, identity, spec, created, medium, tier, tier_uuid = row
    return DatasetRow(
        identifier,
        name,
        phase,
        _identity(identity),
        decode(spec, DatasetSpec, "a kept data set"),
        created,
        medium,
        tier,
        tier_uuid,
    )


def _identity(text: str) -> Identity:
    uid, gid, groups = json.loads(text)
    return uid, gid, groups
