"""Who uses a data set, front by front: of the present one and of those that were detached."""

import os

from atlas.api.models import Holder
from atlas.node.database import Database, DatasetRow
from atlas.node.holders import find_by_device, find_by_mount
from atlas.node.mounting import Entry, Mounting


class Usage:
    """Looks into /proc: as slow as there are processes, so not for lists."""

    def __init__(self, database: Database, mounting: Mounting) -> None:
        self._database = database
        self._mounting = mounting

    def holders(self, row: DatasetRow, viewer_uid: int) -> list[Holder]:
        """Processes that use any front of a data set, by pid; each once."""
        found: dict[int, Holder] = {}
        for holders in self.by_device(row, viewer_uid).values():
            for holder in holders:
                found.setdefault(holder.pid, holder)
        return sorted(found.values(), key=lambda holder: holder.pid)

    def by_device(self, row: DatasetRow, viewer_uid: int) -> dict[str, list[Holder]]:
        """The same for each of its file systems. `viewer_uid`: see atlas.node.holders."""
        devices = {front.device for front in self._database.fronts(row.id) if front.device}
        devices |= {entry.device for entry in self._mounting.entries(row.id)}
        return find_by_device(devices, viewer_uid, ignore={os.getpid()})


def holders_of(entries: list[Entry], viewer_uid: int) -> list[Holder]:
    """Processes that use one of these mounts; not those of others of the same file systems."""
    mounts = {entry.id: entry.device for entry in entries}
    return find_by_mount(mounts, viewer_uid, ignore={os.getpid()}) if mounts else []
