"""Where a data set's fronts are attached: paths change from one front to another here.

At each path the new front is attached beneath the old one, which is then detached: no moment
without the path. Where the kernel cannot do that, the new one covers the old, which stays below.
"""

import logging
import os
import time
from contextlib import suppress
from dataclasses import replace
from typing import Final

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.node.capabilities import Capabilities
from atlas.node.database import Database, DatasetRow, FrontRow
from atlas.node.events import Events
from atlas.node.mounting import LIVE, Entry, Mounting, from_the_top, shown_at
from atlas.node.registry import Registry

logger = logging.getLogger("atlas.node.front_places")

SETTLE_SECONDS: Final = 60.0
"""Before another attempt at a path that kept its front: somebody has put something there."""


class FrontPlaces:
    """The paths of data sets. Who calls holds the data set's lock."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        mounting: Mounting,
        events: Events,
        capabilities: Capabilities,
    ) -> None:
        self._database = database
        self._registry = registry
        self._mounting = mounting
        self._events = events
        self._capabilities = capabilities

    def show(
        self,
        row: DatasetRow,
        present: FrontRow | None,
        front: FrontRow,
        mount: int,
        reason: str,
        broken: bool,
    ) -> None:
        own_path = self._mounting.own_path(row.name)
        own = shown_at(self._mounting.entries(row.id)).get(own_path)
        spare = None
        if own is not None and present is not None and not broken and self._can_slip():
            spare = self._mounting.clone(own)
        try:
            if own is None:
                self.attach_own(row, mount)
            else:
                self._put(own, mount)
            self._database.set_attached(front, time.time(), reason)
            self.settle(row, strict=not broken)
        except Exception:
            if own is not None and present is not None and not broken:
                self._put_back(row, present, own, spare)
            raise
        finally:
            if spare is not None:
                os.close(spare)

    def _put_back(self, row: DatasetRow, present: FrontRow, was: Entry, spare: int | None) -> None:
        """After a swap that failed: as it was, as far as that can be done. What cannot, the next
        attempt finds in the mount table."""
        try:
            own = shown_at(self._mounting.entries(row.id)).get(was.path)
            if own is not None and own.id != was.id:
                if spare is not None:
                    self._mounting.attach_beneath(spare, own)
                self._mounting.unmount(own, detach=True)
            self._database.set_attached(present, present.since, present.reason)
            self.settle(row, strict=False)
        except AtlasError as error:
            self._registry.entry(row.id).front.unsettled = True
            logger.warning("data set %s: a swap is not undone: %s", row.name, error)

    def settle(self, row: DatasetRow, strict: bool) -> None:
        """All paths of the data set show what the node's own does. A mount that was moved or
        covered by somebody keeps its front. Raises AtlasError with `strict`, where a path cannot
        be changed."""
        state = self._registry.entry(row.id).front
        # Until it is done: whatever fails below, another look is needed.
        state.unsettled, settled = True, True
        shown = shown_at(self._mounting.entries(row.id))
        own = shown.get(self._mounting.own_path(row.name))
        for mount in self._database.mounts(row.id):
            entry = shown.get(mount.path)
            if own is None or entry is None or entry.device == own.device:
                continue
            try:
                copy = self._mounting.clone(own)
                try:
                    self._put(entry, copy)
                finally:
                    os.close(copy)
            except AtlasError as error:
                if strict and error.kind is not errors.NOT_FOUND:
                    raise
                settled = False
                state.next_settling = time.monotonic() + SETTLE_SECONDS
                self._events.record(
                    row.id, "Warning", "FrontKept", f"{mount.given} shows an earlier front: {error}"
                )
        state.unsettled = not settled

    def _put(self, entry: Entry, mount: int) -> None:
        """The mount takes the place of `entry`; at no moment shows the path nothing."""
        if self._can_slip():
            self._mounting.attach_beneath(mount, entry)
            self._mounting.unmount(entry, detach=True)
        else:
            self._mounting.cover(mount, entry)

    def attach_own(self, row: DatasetRow, mount: int) -> None:
        folder = self._mounting.open_own(row.name)
        try:
            self._mounting.attach(mount, folder)
        finally:
            os.close(folder)

    def attach_copy(self, row: DatasetRow, entry: Entry) -> None:
        copy = self._mounting.clone(entry)
        try:
            self.attach_own(row, copy)
        finally:
            os.close(copy)

    def unmount_dead(self, row: DatasetRow, fronts: list[FrontRow]) -> None:
        for entry in from_the_top(self._mounting.entries(row.id)):
            if front_of(entry, fronts) is None:
                # Covered by a living one, it stays below that.
                with suppress(AtlasError):
                    self._mounting.unmount(entry, detach=True)

    def reconcile(self, row: DatasetRow, fronts: list[FrontRow]) -> FrontRow | None:
        """The front that the node's own path shows, flagged so in its row; None for none that is
        served. Ends swaps that a kill cut short: of two mounts at one path the lower is the one
        that was being put there, or back."""
        entries = self._mounting.entries(row.id)
        if self._can_slip():
            for entry in from_the_top(entries):
                if any(entry.parent == below.id and entry.path == below.path for below in entries):
                    with suppress(AtlasError):
                        self._mounting.unmount(entry, detach=True)
            entries = self._mounting.entries(row.id)
        own = shown_at(entries).get(self._mounting.own_path(row.name))
        front = None if own is None else front_of(own, fronts)
        if own is not None and front is not None and front.device is None:
            self._database.set_device(front, own.device)
            front = replace(front, device=own.device)
        if front is not None and not front.attached:
            self._database.set_attached(front, front.since, front.reason)
            front = replace(front, attached=True)
        return front

    def _can_slip(self) -> bool:
        return self._capabilities.has("swap")


def front_of(entry: Entry, fronts: list[FrontRow]) -> FrontRow | None:
    """The newest of the fronts whose mount this is; None: nobody serves it."""
    for front in reversed(fronts):
        if front.device == entry.device or (
            front.device is None and front.kind == "live" and entry.type == LIVE
        ):
            return front
    return None
