"""Which data sets this node has, in what state each is, and one lock for each name."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import Condition
from atlas.api.units import format_time, printable

LOCK_SECONDS: Final = 30.0
"""How long a call waits for another one on the same data set before it says so."""

State = Literal["starting", "serving", "failed"]


@dataclass(slots=True)
class FrontState:
    """What the node knows of a data set's fronts beyond their rows. Times are of the monotonic
    clock: before them nothing of the kind is tried."""

    reason: str = ""
    """Why the present front, and no faster one."""
    next_swap: float = 0.0
    next_attempt: float = 0.0
    next_seal: float = 0.0
    next_settling: float = 0.0
    failures: int = 0
    broken: bool = False
    """At the last look the present front did not serve."""
    unsettled: bool = False
    """Some path may still show an earlier front."""
    advancing: bool = False


@dataclass(slots=True)
class Entry:
    """What the node knows of a data set beyond its row. Lost with the process."""

    state: State = "starting"
    failure: AtlasError | None = None
    next_attempt: float = 0.0
    origin_failure: AtlasError | None = None
    """Why the source could not be opened of late; what is cached is served all the same."""
    looking_at_origin: bool = False
    front: FrontState = field(default_factory=FrontState)
    conditions: dict[str, Condition] = field(default_factory=dict)


@dataclass(slots=True)
class _Lock:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class Registry:
    """Entries by id, locks by name."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._locks: dict[str, _Lock] = {}

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Only one call works on the data set `name`. Raises AtlasError (Temporary) after
        LOCK_SECONDS: whatever holds it may be stuck in a hung file system."""
        with self._locked(name, LOCK_SECONDS) as held:
            if not held:
                raise AtlasError(
                    errors.TEMPORARY,
                    f"another operation on data set {printable(name)} is still running",
                    hint="the same command again",
                )
            yield

    @contextmanager
    def try_hold(self, name: str, seconds: float = 0.0) -> Iterator[bool]:
        """As `hold`, waiting no longer than given; gives whether the lock became free."""
        with self._locked(name, seconds) as held:
            yield held

    @contextmanager
    def _locked(self, name: str, seconds: float) -> Iterator[bool]:
        # Kept only as long as somebody is at it: names come from users, and may be any.
        with self._guard:
            named = self._locks.setdefault(name, _Lock())
            named.users += 1
        held = named.lock.acquire(timeout=seconds)
        try:
            yield held
        finally:
            if held:
                named.lock.release()
            with self._guard:
                named.users -= 1
                if named.users == 0:
                    del self._locks[name]

    def entry(self, identifier: str) -> Entry:
        with self._guard:
            return self._entries.setdefault(identifier, Entry())

    def drop(self, identifier: str) -> None:
        with self._guard:
            self._entries.pop(identifier, None)

    def condition(
        self,
        identifier: str,
        kind: str,
        status: Literal["True", "False", "Unknown"],
        reason: str,
        message: str = "",
        since: str | None = None,
    ) -> Condition:
        """A condition with the time at which it last became what it is: `since` where the caller
        knows it, else when it was first looked at."""
        entry = self.entry(identifier)
        with self._guard:
            known = entry.conditions.get(kind)
            if known is not None and (known.status, known.reason) == (status, reason):
                known.message = message
                return known
            condition = Condition(
                type=kind,
                status=status,
                reason=reason,
                message=message,
                last_transition_time=since or format_time(time.time()),
            )
            entry.conditions[kind] = condition
            return condition
