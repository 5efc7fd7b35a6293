"""After a start: serve what was served, finish what was begun. Then: keep it so.

A data set that cannot be served (its tier's disk is missing) is Failed with the reason, and tried
again; the others never wait for it.
"""

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Final

from atlas.api.errors import AtlasError
from atlas.node.database import Database, DatasetRow
from atlas.node.descriptors import DescriptorStore
from atlas.node.events import Events
from atlas.node.front_maker import identifier_of
from atlas.node.fronts import Fronts
from atlas.node.lifecycle import Lifecycle
from atlas.node.loads import Loads
from atlas.node.mounting import Mounting
from atlas.node.registry import Registry

logger = logging.getLogger("atlas.node.recovery")

UNFINISHED: Final = ("creating", "deleting", "freeing")
THREADS: Final = 8
END_SECONDS: Final = 5.0
"""How long a stop waits for the housekeeping."""
ROUND_SECONDS: Final = 0.5
"""Between two rounds of housekeeping: events become visible, released bytes are freed."""
HEAL_ROUNDS: Final = 4
"""Rounds between two looks at the mount table."""
FRONT_THREADS: Final = 4
"""Of their own: an image on a disk that hangs must not keep the other data sets from theirs."""
ORIGIN_ROUNDS: Final = 20
"""Rounds between two looks at the sources."""
ORIGIN_THREADS: Final = 2
"""Of their own: a source on a hung file server holds its thread, and nothing else."""
RETRY_SECONDS: Final = 10.0
"""Between two attempts to serve a failed data set."""


class Recovery:
    """The restore at the start and the housekeeping thread after it."""

    def __init__(
        self,
        database: Database,
        keeper: DescriptorStore,
        registry: Registry,
        mounting: Mounting,
        lifecycle: Lifecycle,
        fronts: Fronts,
        loads: Loads,
        events: Events,
    ) -> None:
        self._database = database
        self._keeper = keeper
        self._registry = registry
        self._mounting = mounting
        self._lifecycle = lifecycle
        self._fronts = fronts
        self._loads = loads
        self._events = events
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="atlas-restore")
        self._front_pool = ThreadPoolExecutor(FRONT_THREADS, thread_name_prefix="atlas-fronts")
        self._origin_pool = ThreadPoolExecutor(ORIGIN_THREADS, thread_name_prefix="atlas-origins")
        self._housekeeper = threading.Thread(
            target=self._keep_house, name="atlas-housekeeping", daemon=True
        )

    def restore(self, timeout_seconds: float) -> None:
        """Begins with all data sets at once and waits for them, but not longer than given: one
        whose origin or disk hangs goes on in the background."""
        rows = self._database.datasets()
        self._drop_strays({row.id for row in rows})
        wait([self._pool.submit(self._restore_one, row) for row in rows], timeout_seconds)
        self._housekeeper.start()

    def stop(self) -> None:
        """Ends the housekeeping; what hangs is left behind."""
        self._ending.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._front_pool.shutdown(wait=False, cancel_futures=True)
        self._origin_pool.shutdown(wait=False, cancel_futures=True)
        if self._housekeeper.is_alive():
            self._housekeeper.join(END_SECONDS)

    def _drop_strays(self, known: set[str]) -> None:
        """Descriptors and mounts that belong to no data set: of a creation or a deletion that
        was cut short after, or before, its row was there."""
        for key in self._keeper.held():
            identifier = identifier_of(key)
            if identifier is not None and identifier not in known:
                self._keeper.drop(key)
        for entry in self._mounting.strays(known):
            with suppress(AtlasError):
                self._mounting.unmount(entry, detach=True)
            with suppress(OSError):
                os.rmdir(entry.path)

    def _restore_one(self, row: DatasetRow) -> None:
        try:
            with self._registry.hold(row.name):
                self._serve_or_finish(row)
        except Exception:
            # The other data sets' restores do not depend on it; this one is tried again.
            logger.exception("data set %s cannot be restored", row.name)
            entry = self._registry.entry(row.id)
            entry.state, entry.next_attempt = "failed", time.monotonic() + RETRY_SECONDS

    def _serve_or_finish(self, row: DatasetRow) -> None:
        """The lock of the data set's name is held."""
        entry = self._registry.entry(row.id)
        try:
            if row.phase in UNFINISHED:
                if self._lifecycle.remove(row):
                    self._registry.drop(row.id)
                return
            self._lifecycle.bring_up(row)
        except AtlasError as error:
            if entry.failure is None or str(entry.failure) != str(error):
                logger.warning("data set %s is not served: %s", row.name, error)
                self._events.record(row.id, "Warning", "NotServed", str(error))
            entry.state, entry.failure = "failed", error
            entry.next_attempt = time.monotonic() + RETRY_SECONDS
            return
        recovered = entry.state == "failed"
        entry.state, entry.failure = "serving", None
        if recovered:
            self._events.record(row.id, "Normal", "Recovered", "served again")
        if row.phase == "releasing":
            self._release(row)
        else:
            self._begin_origin_look(row)
            self._loads.resume(row)

    def _begin_origin_look(self, row: DatasetRow) -> None:
        entry = self._registry.entry(row.id)
        if not entry.looking_at_origin and not self._ending.is_set():
            entry.looking_at_origin = True
            self._origin_pool.submit(self._look_at_origin, row)

    def _look_at_origin(self, row: DatasetRow) -> None:
        entry = self._registry.entry(row.id)
        before = entry.origin_failure
        try:
            self._lifecycle.look_at_origin(row)
            entry.origin_failure = None
            if before is not None:
                self._events.record(row.id, "Normal", "OriginBack", "the source can be opened")
        except AtlasError as error:
            entry.origin_failure = error
            if before is None:
                self._events.record(row.id, "Warning", "OriginGone", str(error))
        finally:
            entry.looking_at_origin = False

    def _keep_house(self) -> None:
        rounds = 0
        while not self._ending.wait(ROUND_SECONDS):
            rounds += 1
            try:
                self._events.drain()
                mounted = None
                if rounds % HEAL_ROUNDS == 0:
                    mounted = {entry.path for entry in self._mounting.table() if entry.is_atlas}
                for row in self._database.datasets():
                    if self._ending.is_set():
                        return
                    own = self._mounting.own_path(row.name)
                    try:
                        self._keep_one(row, heal=mounted is not None and own not in mounted)
                        if row.phase == "present" and rounds % ORIGIN_ROUNDS == 0:
                            self._begin_origin_look(row)
                    except Exception:
                        if not self._ending.is_set():
                            # The others must be kept all the same.
                            logger.exception("data set %s cannot be looked after", row.name)
            except Exception:
                # A thread that must not end while the node lives.
                logger.exception("housekeeping failed")

    def _keep_one(self, row: DatasetRow, heal: bool) -> None:
        with self._registry.try_hold(row.name) as held:
            # Somebody works on it: the next round will do. The row may have changed before.
            current = self._database.dataset(row.id) if held else None
            if current is None:
                return
            entry = self._registry.entry(row.id)
            if entry.state == "failed" or current.phase in UNFINISHED:
                if entry.next_attempt <= time.monotonic():
                    # Not here: what hangs must not stop the housekeeping of the others.
                    entry.next_attempt = time.monotonic() + RETRY_SECONDS
                    self._pool.submit(self._restore_one, current)
            elif current.phase == "releasing" and not entry.front.advancing:
                entry.front.advancing = True
                self._pool.submit(self._release_later, current)
            elif entry.state == "serving" and not entry.front.advancing:
                entry.front.advancing = True
                self._front_pool.submit(self._advance, current, heal)

    def _advance(self, row: DatasetRow, heal: bool) -> None:
        entry = self._registry.entry(row.id)
        try:
            with self._registry.try_hold(row.name) as held:
                current = self._database.dataset(row.id) if held else None
                if current is None or current.phase != "present" or entry.state != "serving":
                    return
                # Under the lock: a stop takes it before it unmounts.
                if self._ending.is_set():
                    return
                if heal:
                    self._heal(current)
                else:
                    self._fronts.advance(current)
        except Exception:
            # The next round tries again.
            logger.exception("the front of data set %s cannot be looked after", row.name)
        finally:
            entry.front.advancing = False

    def _release_later(self, row: DatasetRow) -> None:
        entry = self._registry.entry(row.id)
        try:
            with self._registry.try_hold(row.name) as held:
                current = self._database.dataset(row.id) if held else None
                if current is not None and current.phase == "releasing":
                    self._release(current)
        except Exception:
            logger.exception("data set %s cannot be released", row.name)
        finally:
            entry.front.advancing = False

    def _release(self, row: DatasetRow) -> None:
        try:
            if self._lifecycle.release(row):
                logger.info("data set %s: its last user has left, its bytes are free", row.name)
                self._registry.drop(row.id)
        except AtlasError as error:
            entry = self._registry.entry(row.id)
            entry.state, entry.failure = "failed", error
            entry.next_attempt = time.monotonic() + RETRY_SECONDS
            logger.warning("data set %s is not released: %s", row.name, error)

    def _heal(self, row: DatasetRow) -> None:
        try:
            self._fronts.heal(row)
        except AtlasError as error:
            entry = self._registry.entry(row.id)
            entry.state, entry.failure = "failed", error
            entry.next_attempt = time.monotonic() + RETRY_SECONDS
            self._lifecycle.shut(row, keep_mounts=False)
            logger.warning("data set %s is not served any more: %s", row.name, error)
