"""Who uses a data set, front by front: of the present one and of those that were detached."""

import os

from atlas.api.models import Holder
from atlas.node.database import Database, DatasetRow
from atlas.node.holders import Targets, find
from atlas.node.mounting import Entry, Mounting


class Usage:
    """Looks into /proc: as slow as there are processes, so not for lists."""

    def __init__(self, database: Database, mounting: Mounting) -> None:
        self._database = database
        self._mounting = mounting

    def holders(self, row: DatasetRow, viewer_uid: int) -> list[Holder]:
        """Processes that use any front of a data set, by pid; each once."""
        found: dict[int, Holder] = {}
        for device_holders in self.by_device(row, viewer_uid).values():
            for holder in device_holders:
                found.setdefault(holder.pid, holder)
        return sorted(found.values(), key=lambda holder: holder.pid)

    def by_device(self, row: DatasetRow, viewer_uid: int) -> dict[str, list[Holder]]:
        """The same for each of its file systems. `viewer_uid`: see atlas.node.holders."""
        mounts: dict[str, set[int]] = {}
        for front in self._database.fronts(row.id):
            if front.device is not None:
                mounts.setdefault(front.device, set()).update(front.mounts)
        for entry in self._mounting.entries(row.id):
            mounts.setdefault(entry.device, set()).add(entry.id)
        return {
            device: _find(ids, device, True, viewer_uid) for device, ids in sorted(mounts.items())
        }


def holders_of(entries: list[Entry], viewer_uid: int) -> list[Holder]:
    """Processes that use one of these mounts; not those of others of the same file systems."""
    mounts: dict[str, set[int]] = {}
    for entry in entries:
        mounts.setdefault(entry.device, set()).add(entry.id)
    return [
        holder
        for device, ids in sorted(mounts.items())
        for holder in _find(ids, device, False, viewer_uid)
    ]


def _find(ids: set[int], device: str, whole: bool, viewer_uid: int) -> list[Holder]:
    return find(Targets(ids, device, whole), viewer_uid, ignore={os.getpid()})
