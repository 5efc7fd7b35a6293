"""The fronts of a data set: which one its paths show, and how one takes another's place.

A front is a file system (a superblock) with its mounts. The one that is wanted (atlas.node.choice)
takes the place of the present one path by path: attached beneath it, which is then detached; open
files and working folders stay on the old one, which is served until its last user is gone. The row
of a front is written before it is attached, and the flag `attached` once the node's own path shows
it; after a kill in between, the mount table says which front that is.

Where the kernel cannot attach beneath, the new front covers the old one, and stays on top of it.
"""

import errno
import logging
import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.models import FrontKind
from atlas.node.capabilities import Capabilities
from atlas.node.choice import Situation, choose
from atlas.node.database import Database, DatasetRow, FrontRow
from atlas.node.events import Events
from atlas.node.front_maker import FrontMaker
from atlas.node.front_places import FrontPlaces, front_of
from atlas.node.mounting import Mounting, shown_at
from atlas.node.native import Engine, System, failing
from atlas.node.registry import FrontState, Registry
from atlas.node.settings import Settings

if TYPE_CHECKING:
    from atlas import _native

logger = logging.getLogger("atlas.node.fronts")

LONGEST_WAIT_SECONDS: Final = 60.0
"""Between two attempts at a swap that fails again and again; the first is repeated after 1 s."""
END_SECONDS: Final = 1.0
"""Within which the kernel has let go of a front that nobody uses."""
BROKEN_WAIT_SECONDS: Final = 2.0
"""The same where the present front does not serve: readers get errors meanwhile."""


class Fronts:
    """Who calls holds the data set's lock. Its engine is open in all but `held`."""

    def __init__(
        self,
        home: Home,
        system: System,
        engine: Engine,
        database: Database,
        registry: Registry,
        mounting: Mounting,
        maker: FrontMaker,
        places: FrontPlaces,
        events: Events,
        capabilities: Capabilities,
        settings: Settings,
        boot: str,
    ) -> None:
        self._home = home
        self._system = system
        self._engine = engine
        self._database = database
        self._registry = registry
        self._mounting = mounting
        self._maker = maker
        self._places = places
        self._events = events
        self._capabilities = capabilities
        self._settings = settings
        self._boot = boot

    def begin(self, row: DatasetRow) -> None:
        """Shows a new data set: live, which every state of it can be. Raises AtlasError; what was
        attached then is the caller's to take away."""
        self._swap(row, [], None, "live", "the scan of the origin goes on")

    def held(self, row: DatasetRow) -> list[str]:
        """Sealed superblocks of an earlier node that still exist: their segments may not change."""
        return [
            front.superblock
            for front in self._database.fronts(row.id)
            if front.kind == "sealed" and front.superblock and self._exists(front)
        ]

    def has_mapped(self, row: DatasetRow) -> bool:
        """Whether an earlier node has left a front that rests on the image."""
        return any(front.superblock is not None for front in self._database.fronts(row.id))

    def restore(self, row: DatasetRow) -> None:
        """Goes on with the fronts of an earlier node. What nobody can serve any more is replaced;
        where the engine has begun with new tables meanwhile, everything is. A data set without a
        name (`releasing`) is served for those who use it, and shown nowhere. Raises AtlasError.
        """
        instance = self._instance(row)
        fronts = self._take_over(row, instance)
        # What is left of others, sealed and in use, may not be shown as this data set.
        fronts = [front for front in fronts if front.instance in ("", instance)]
        if row.phase == "releasing":
            self._mounting.detach_all(row.id)
            return
        if not self._capabilities.has("swap"):
            # What is dead could only be covered, and would stay for ever.
            self._places.unmount_dead(row, fronts)
        present = self._places.reconcile(row, fronts)
        if present is None:
            lone = not self._mounting.entries(row.id)
            why = None if lone else "nobody serves the front of an earlier node any more"
            self._replace_broken(row, fronts, why)
        else:
            self._state(row).reason = present.reason
            self._places.settle(row, strict=False)

    def advance(self, row: DatasetRow) -> None:
        """One look: drops what has ended, and swaps where another front is wanted. What fails is an
        event, and tried again later."""
        state, now = self._state(row), time.monotonic()
        try:
            fronts = self._collect(row)
            present = _attached(fronts)
            status = self._status(row)
            kind, reason = choose(self._situation(row, present, status))
            broken = self._trouble(row, present, status)
            if broken is not None and not state.broken:
                state.next_attempt, state.failures = 0.0, 0
            state.broken = broken is not None
            if present is not None and broken is None and present.kind == kind:
                state.reason = reason
                if state.unsettled and now >= state.next_settling:
                    self._places.settle(row, strict=False)
            elif now >= state.next_attempt and (broken is not None or now >= state.next_swap):
                self._change(row, fronts, kind, reason, broken)
            elif now < state.next_swap:
                state.reason = f"{kind} in a moment: {reason}"
        except AtlasError as error:
            self._fail(row, error)

    def heal(self, row: DatasetRow) -> None:
        """Shows the data set at the node's own path where somebody has taken it away. Raises
        AtlasError."""
        if self.show_own(row):
            own = self._mounting.own_path(row.name)
            self._events.record(row.id, "Warning", "Remounted", f"{own} had been unmounted")

    def show_own(self, row: DatasetRow) -> bool:
        """As `heal`, without an event; gives whether it was away."""
        fronts = self._collect(row)
        shown = shown_at(self._mounting.entries(row.id))
        own = self._mounting.own_path(row.name)
        if own in shown:
            return False  # it was only just being mounted when the caller looked
        for entry in shown.values():
            front = front_of(entry, fronts)
            if front is not None and front.attached:
                # Covered by another mount, it cannot be copied.
                with suppress(AtlasError):
                    self._places.attach_copy(row, entry)
                    return True
        self._replace_broken(row, fronts, None)
        return True

    def left_in_use(self, row: DatasetRow) -> bool:
        """Whether somebody uses a front that is mounted nowhere: it would have ended else."""
        deadline = time.monotonic() + END_SECONDS
        mounted = {entry.device for entry in self._mounting.entries(row.id)}
        while any(front.device not in mounted for front in self._collect(row) if front.device):
            if time.monotonic() > deadline:
                return True
            time.sleep(0.01)
        return False

    def end(self, row: DatasetRow) -> None:
        """All sessions end with the engine's data set, which is being closed."""
        self._maker.forget(row)
        self._database.end_fronts(row.id)
        self._registry.entry(row.id).front = FrontState()

    def have_ended(self, row: DatasetRow) -> bool:
        """Whether the kernel has let go of all fronts: nobody uses any."""
        if not self._maker.live_has_ended(row) or not self._maker.twin_has_ended(row):
            return False
        return not any(
            self._exists(front)
            for front in self._database.fronts(row.id)
            if front.kind == "sealed" or self._maker.serves_twin(row)
        )

    def may_be_had(self, kind: FrontKind) -> None:
        """Raises AtlasError (Unsupported) where this machine cannot have a front that was asked for
        by name."""
        answer = self._capabilities.all()[kind]
        if not self._capabilities.has(kind):
            raise AtlasError(
                errors.UNSUPPORTED,
                f"this machine cannot serve data sets {kind}",
                answer,
                hint="atlasctl node describe; --front auto takes the best that there is",
                unchanged="nothing was changed",
            )

    def _take_over(self, row: DatasetRow, instance: str) -> list[FrontRow]:
        """Sessions of an earlier node go on here where their descriptors are left; gives the fronts
        that somebody serves then, in the sealed case the kernel alone."""
        fronts = self._collect_superblocks(self._database.fronts(row.id))
        # With new tables the node ids that the kernel remembers would mean other files.
        kinds = {front.kind for front in fronts if front.instance in ("", instance)}
        if "live" not in kinds or not self._maker.take_over_live(row):
            self._maker.end_live(row)
            fronts = self._remove(fronts, "live")
        if "lazy" not in kinds or not self._take_over_twin(row):
            self._maker.end_twin(row)
            fronts = self._remove(fronts, "lazy")
        return fronts

    def _take_over_twin(self, row: DatasetRow) -> bool:
        try:
            return self._maker.take_over_twin(row)
        except AtlasError as error:
            # The image may be lost. The other fronts do not depend on it.
            logger.warning("data set %s: its lazy front is lost: %s", row.name, error)
            return False

    def _instance(self, row: DatasetRow) -> str:
        """Names the tables that the engine has open: it lies among them, and is lost with them."""
        path = self._home.datasets / row.id / "instance"
        try:
            # Empty after a power cut, it names nothing.
            if path.exists() and (known := path.read_text()):
                return known
            instance = secrets.token_hex(8)
            new = path.with_suffix(".new")
            with open(new, "w", encoding="ascii") as file:
                file.write(instance)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        except OSError as error:
            raise AtlasError(
                errors.NO_SPACE if error.errno == errno.ENOSPC else errors.INPUT_OUTPUT,
                f"data set {row.name} cannot be shown",
                f"its state cannot be written: {error}",
            ) from error
        return instance

    def _collect(self, row: DatasetRow) -> list[FrontRow]:
        """The fronts that there still are; sessions that have ended make room for others."""
        fronts = self._collect_superblocks(self._database.fronts(row.id))
        live = [front for front in fronts if front.kind == "live"]
        for ended in live[:-1]:
            # There is one live session at a time; a full disk had kept the row of another.
            self._database.remove_front(ended)
            fronts.remove(ended)
        if live and self._maker.live_has_ended(row):
            self._maker.end_live(row)
            fronts = self._remove(fronts, "live")
        lazy = any(front.kind == "lazy" for front in fronts)
        if not lazy and self._maker.serves_twin(row) and self._maker.twin_has_ended(row):
            self._maker.end_twin(row)
        return fronts

    def _collect_superblocks(self, fronts: list[FrontRow]) -> list[FrontRow]:
        kept = []
        for front in fronts:
            if front.superblock is None or self._exists(front):
                kept.append(front)
            else:
                self._database.remove_front(front)
        return kept

    def _remove(self, fronts: list[FrontRow], kind: FrontKind) -> list[FrontRow]:
        for front in fronts:
            if front.kind == kind:
                self._database.remove_front(front)
        return [front for front in fronts if front.kind != kind]

    def _exists(self, front: FrontRow) -> bool:
        if front.superblock is None or front.boot != self._boot:
            return False
        with failing("the kernel's list of images cannot be read"):
            return self._system.superblock_exists(front.superblock)

    def _status(self, row: DatasetRow) -> "_native.DatasetStatus":
        with failing(f"data set {row.name} cannot be looked at"):
            return self._engine.status(row.id)

    def _situation(
        self, row: DatasetRow, present: FrontRow | None, status: "_native.DatasetStatus"
    ) -> Situation:
        return Situation(
            setting=row.spec.front,
            present=None if present is None else present.kind,
            capabilities=self._capabilities.all(),
            scan=status["scan"]["state"],
            scan_error=status["scan"]["error"],
            image=status["image"]["state"],
            image_error=status["image"]["error"],
            sealable=status["sealable"],
            unsealed_reason=status["unsealed_reason"],
            sealed_trouble=status["sealed_trouble"],
            resting=time.monotonic() < self._state(row).next_seal,
        )

    def _trouble(
        self, row: DatasetRow, present: FrontRow | None, status: "_native.DatasetStatus"
    ) -> str | None:
        """Why the present front must go at once; None: it serves."""
        if present is None:
            return "it had ended"
        if present.kind == "live" and self._maker.live_has_ended(row):
            return "its connection has ended"
        if present.kind == "lazy" and self._maker.twin_has_ended(row):
            return "its connection has ended"
        return status["sealed_trouble"] if present.kind == "sealed" else None

    def _change(
        self,
        row: DatasetRow,
        fronts: list[FrontRow],
        kind: FrontKind,
        reason: str,
        broken: str | None,
    ) -> None:
        before = _attached(fronts)
        # A swap that was cut short may have done its work all the same.
        present = self._places.reconcile(row, fronts)
        if present is not None and present != before:
            self._state(row).unsettled = True
            return
        if broken is not None:
            self._replace_broken(row, fronts, broken)
            return
        self._swap(row, fronts, present, kind, reason)
        ascent = present is not None and (present.kind, kind) == ("live", "lazy")
        self._swapped(row, present, kind, reason, "the scan is complete" if ascent else reason)

    def _replace_broken(self, row: DatasetRow, fronts: list[FrontRow], broken: str | None) -> None:
        """The best front that can be had now, in the place of one that serves no more; why it does
        not (None: nobody is told)."""
        present = _attached(fronts)
        if present is not None and present.kind == "sealed" and broken is not None:
            self._state(row).next_seal = time.monotonic() + self._settings.reseal_rest
        kind, reason = choose(self._situation(row, None, self._status(row)))
        try:
            self._swap(row, fronts, present, kind, reason, broken=True)
        except AtlasError as error:
            if kind == "live":
                raise
            logger.warning("data set %s cannot be %s: %s", row.name, kind, error)
            kind, reason = "live", f"{kind} failed: {error}"
            self._swap(row, self._collect(row), present, kind, reason, broken=True)
        self._swapped(row, present, kind, reason, broken, broken=True)

    def _swapped(
        self,
        row: DatasetRow,
        before: FrontRow | None,
        kind: FrontKind,
        reason: str,
        why: str | None,
        broken: bool = False,
    ) -> None:
        state = self._state(row)
        state.reason = reason
        state.failures = 0
        if why is None:
            return
        state.next_swap = time.monotonic() + self._settings.swap_rest
        old = "none" if before is None else before.kind
        self._events.record(
            row.id, "Warning" if broken else "Normal", "FrontChanged", f"{old} -> {kind}: {why}"
        )

    def _fail(self, row: DatasetRow, error: AtlasError) -> None:
        state = self._state(row)
        longest = BROKEN_WAIT_SECONDS if state.broken else LONGEST_WAIT_SECONDS
        wait = min(longest, 2.0 ** min(state.failures, 10))
        state.failures += 1
        state.next_attempt = time.monotonic() + wait
        state.reason = f"another front cannot be had: {error}"
        self._events.record(row.id, "Warning", "FrontFailed", str(error))

    def _swap(
        self,
        row: DatasetRow,
        fronts: list[FrontRow],
        present: FrontRow | None,
        kind: FrontKind,
        reason: str,
        broken: bool = False,
    ) -> None:
        """Makes a front and shows it everywhere. Raises AtlasError after all has been put back, or,
        with `broken`, left as far as it came: there is nothing to go back to."""
        made = self._maker.make(row, kind)
        try:
            front = next((old for old in fronts if made.again and old.kind == kind), None)
            if front is None:
                if kind == "live":
                    # Of a session that ended just now.
                    fronts = self._remove(fronts, "live")
                front = self._database.add_front(
                    FrontRow(
                        row.id,
                        kind,
                        made.superblock,
                        made.device,
                        self._boot,
                        self._instance(row),
                        time.time(),
                        reason,
                    )
                )
                fronts = [*fronts, front]
            self._places.show(row, present, front, made.mount, reason, broken)
        finally:
            os.close(made.mount)

    def _state(self, row: DatasetRow) -> FrontState:
        return self._registry.entry(row.id).front


def _attached(fronts: list[FrontRow]) -> FrontRow | None:
    return next((front for front in fronts if front.attached), None)
