"""Making, serving and freeing one data set: the order of steps, and how each attempt is undone.

Who calls holds the data set's lock (see atlas.node.registry). The order of a creation:

    row `creating` -> /dev/fuse opened -> a copy with the keeper -> engine tables -> superblock
    -> engine serves -> attached at the node's own path -> attached at the user's -> row `present`

The copy is with the keeper before there is a superblock: a node that dies at any point leaves
either nothing that waits for it, or something that the next node can serve. The row is written
before anything else and goes last, so that whatever is left has a row that names it.
"""

import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.units import printable
from atlas.node.database import Database, DatasetRow, MountRow
from atlas.node.descriptors import DescriptorStore
from atlas.node.events import Events
from atlas.node.mounting import Entry, Mounting, Target
from atlas.node.native import Engine, System, failing, kind_of
from atlas.node.tiers import Tiers

if TYPE_CHECKING:
    from atlas import _native

logger = logging.getLogger("atlas.node.lifecycle")

RELEASE_SECONDS: Final = 5.0
"""How long the kernel may take to let go of a mount that nobody was found to use."""


def key_of(identifier: str) -> str:
    """What the keeper calls a data set's descriptor."""
    return f"dataset:{identifier}"


def identifier_of(key: str) -> str | None:
    """The data set that a key of the keeper belongs to."""
    kind, _, identifier = key.partition(":")
    return identifier if kind == "dataset" else None


class Lifecycle:
    """The steps, on the engine, the keeper, the mount table and the database together."""

    def __init__(
        self,
        home: Home,
        system: System,
        engine: Engine,
        database: Database,
        keeper: DescriptorStore,
        mounting: Mounting,
        tiers: Tiers,
        events: Events,
    ) -> None:
        self._home = home
        self._system = system
        self._engine = engine
        self._database = database
        self._keeper = keeper
        self._mounting = mounting
        self._tiers = tiers
        self._events = events

    def create(self, row: DatasetRow, target: Target | None, mount: MountRow | None) -> None:
        """Makes the data set of a `creating` row that is in the database already.

        Raises AtlasError after everything, the row too, has been undone.
        """
        try:
            fuse = self._open_fuse(row)
            try:
                with failing(f"data set {row.name} cannot be created"):
                    self._engine.create(self._settings(row))
                self._show(row, fuse)
            finally:
                os.close(fuse)
            if target is not None and mount is not None:
                self.attach(row, target, mount)
            self._database.set_phase(row.id, "present")
        except BaseException:
            self.remove(row)
            raise

    def bring_up(self, row: DatasetRow) -> None:
        """Serves a data set of an earlier node, with the keeper's descriptor where it has one.

        Raises AtlasError: readers that waited for this node get errors then, instead of waiting
        for ever; its bytes stay.
        """
        try:
            self._bring_up(row)
        except BaseException:
            self.shut(row, keep_mounts=False)
            raise

    def shut(self, row: DatasetRow, keep_mounts: bool) -> None:
        """Stops serving and keeps all data. The mounts go, in use or not, unless kept."""
        if not keep_mounts:
            self._mounting.detach_all(row.id)
        self._keeper.drop(key_of(row.id))
        self._close(row)

    def remove(self, row: DatasetRow) -> bool:
        """Frees everything of a data set, whatever state it is in. May be repeated.

        False where the kernel has not let go of a mount: the row is `releasing` then, and
        `release` finishes it later. Raises AtlasError where bytes could not be freed.
        """
        self._mounting.detach_all(row.id)
        deadline = time.monotonic() + RELEASE_SECONDS
        while not self.has_ended(row):
            if time.monotonic() > deadline:
                self._database.begin_release(row.id)
                return False
            # The engine learns it from the kernel within milliseconds; there is nothing to wait on.
            time.sleep(0.01)
        self._free(row)
        return True

    def detach(self, row: DatasetRow) -> None:
        """Takes all mounts away at once; who uses one keeps it, and it is served on for them."""
        self._mounting.detach_all(row.id)

    def restore_mounts(self, row: DatasetRow) -> None:
        """Attaches again what an unmount that could not be finished has taken away."""
        entries = self._mounting.entries(row.id)
        if entries:
            self._reattach(row, entries)

    def release(self, row: DatasetRow) -> bool:
        """Frees a `releasing` data set if its last user has gone."""
        if self._mounting.entries(row.id) or not self.has_ended(row):
            return False
        # Half freed it cannot be opened again: the next node must know that it need not be.
        self._database.set_phase(row.id, "freeing")
        self._free(row)
        return True

    def forget(self, row: DatasetRow) -> None:
        """Gives up a data set whose tier is missing: its bytes there stay, all else goes."""
        self.shut(row, keep_mounts=False)
        self._purge(row, tier=False)
        self._mounting.remove_own(row.name)
        self._database.remove_dataset(row.id)

    def attach(self, row: DatasetRow, target: Target, mount: MountRow) -> None:
        """Shows a served data set at one more folder. Raises AtlasError after undoing it."""
        self._database.add_mount(mount)
        try:
            copy = self._mounting.clone(self._mounting.own_path(row.name))
            try:
                self._mounting.attach(copy, target.descriptor)
            finally:
                os.close(copy)
        except BaseException:
            self._database.remove_mount(mount.path)
            raise

    def look_at_origin(self, row: DatasetRow) -> None:
        """Raises AtlasError where the source cannot be opened now, by its creator. It may hang:
        what lies there is somebody else's file server."""
        source = row.spec.mounts[0].source
        with failing(f"the source {printable(source)} cannot be opened", errors.ORIGIN_GONE):
            os.close(self._system.open_folder_as(row.identity, source))

    def heal(self, row: DatasetRow) -> None:
        """Puts the node's own mount back where somebody has taken it away. Raises AtlasError."""
        entries = self._mounting.entries(row.id)
        own = self._mounting.own_path(row.name)
        if any(entry.path == own for entry in entries):
            return  # it was only just being mounted when the caller looked
        if entries:
            self._attach_own_copy(row, entries[0])
        elif self.has_ended(row):
            self._close(row)
            self._keeper.drop(key_of(row.id))
            self._open(row)
            self._mount_anew(row)
        else:
            return
        self._events.record(row.id, "Warning", "Remounted", f"{own} had been unmounted")

    def _bring_up(self, row: DatasetRow) -> None:
        self._tiers.reopen(row)
        self._open(row)
        if row.phase == "releasing":
            # The node that wrote the phase may have died before it did this.
            self._mounting.detach_all(row.id)
        fuse = self._keeper.get(key_of(row.id))
        entries = self._mounting.entries(row.id)
        # With new tables the node ids that the kernel remembers would mean other files.
        kept = not self._events.has_lost_cache(row.id)
        if fuse is not None and kept and (entries or row.phase == "releasing"):
            try:
                with failing(f"data set {row.name} cannot be served again"):
                    self._engine.serve(row.id, fuse, True)
            finally:
                os.close(fuse)
            if row.phase != "releasing":
                self._reattach(row, entries)
            return
        # Without a descriptor what is mounted is dead; without a mount the descriptor is useless.
        if fuse is not None:
            os.close(fuse)
        self._keeper.drop(key_of(row.id))
        self._mounting.detach_all(row.id)
        if row.phase != "releasing":
            self._mount_anew(row)

    def _open(self, row: DatasetRow) -> None:
        """The tables of an earlier node, or new ones where a reboot has taken them."""
        with failing(f"data set {row.name} cannot be opened"):
            self._engine.open(self._settings(row))

    def _open_fuse(self, row: DatasetRow) -> int:
        with failing(
            f"data set {row.name} cannot be mounted",
            errors.CANNOT_MOUNT,
            "atlasctl doctor",
        ):
            fuse = self._system.open_fuse()
        try:
            self._keeper.put(key_of(row.id), fuse)
        except BaseException:
            os.close(fuse)
            raise
        return fuse

    def _mount_anew(self, row: DatasetRow) -> None:
        """A new superblock, at the node's own path and wherever users had asked for it."""
        fuse = self._open_fuse(row)
        try:
            self._show(row, fuse)
        finally:
            os.close(fuse)
        self._reattach(row, self._mounting.entries(row.id))

    def _show(self, row: DatasetRow, fuse: int) -> None:
        """Mounts `fuse`, serves it, and attaches it at the node's own path: a session needs the
        superblock, and nobody may find a mount that is not served."""
        with failing(
            f"data set {row.name} cannot be mounted", errors.CANNOT_MOUNT, "atlasctl doctor"
        ):
            source = self._mounting.source_of(row.name, row.id)
            uid, gid, _ = row.identity
            mount = self._system.mount_fuse(fuse, source, uid, gid)
        try:
            with failing(f"data set {row.name} cannot be served"):
                self._engine.serve(row.id, fuse, False)
            folder = self._mounting.open_own(row.name)
            try:
                self._mounting.attach(mount, folder)
            finally:
                os.close(folder)
        finally:
            os.close(mount)

    def _attach_own_copy(self, row: DatasetRow, entry: Entry) -> None:
        copy = self._mounting.clone(entry.path)
        try:
            folder = self._mounting.open_own(row.name)
            try:
                self._mounting.attach(copy, folder)
            finally:
                os.close(folder)
        finally:
            os.close(copy)

    def _reattach(self, row: DatasetRow, entries: list[Entry]) -> None:
        """Attaches what the database knows and the mount table lacks. A user's folder that is no
        longer fit to be mounted on is an event, not a failure of the data set."""
        present = {entry.path for entry in entries}
        if self._mounting.own_path(row.name) not in present:
            self._attach_own_copy(row, entries[0])
        for mount in self._database.mounts(row.id):
            if mount.path in present:
                continue
            try:
                self._reattach_one(row, mount)
            except AtlasError as error:
                self._events.record(
                    row.id, "Warning", "MountLost", f"{mount.given} is not mounted: {error}"
                )

    def _reattach_one(self, row: DatasetRow, mount: MountRow) -> None:
        source = row.spec.mounts[0].source
        target = self._mounting.open_target(mount.identity, mount.path, source)
        try:
            copy = self._mounting.clone(self._mounting.own_path(row.name))
            try:
                self._mounting.attach(copy, target.descriptor)
            finally:
                os.close(copy)
        finally:
            os.close(target.descriptor)

    def _free(self, row: DatasetRow) -> None:
        self._keeper.drop(key_of(row.id))
        opened = True
        try:
            self._engine.destroy(row.id)
        except Exception as error:
            if kind_of(error) is not errors.PATH_NOT_FOUND:
                raise AtlasError(
                    kind_of(error) or errors.INTERNAL,
                    f"data set {row.name} cannot be freed",
                    printable(str(error)),
                ) from error
            opened = False  # not open here: an earlier node had begun to make or to free it
        if not opened:
            # The marker is looked at before anything below the tier's path is removed. (A MEM
            # tier that is gone was emptied by a reboot.)
            if row.medium != "MEM" or Path(row.tier).exists():
                self._tiers.reopen(row)
            self._purge(row, tier=True)
        current = self._database.dataset_named(row.name)
        if current is None or current.id == row.id:
            self._mounting.remove_own(row.name)
        self._database.remove_dataset(row.id)

    def _purge(self, row: DatasetRow, tier: bool) -> None:
        """Removes the files of a data set that no engine has open: the layout of atlas-store
        (volume ID in the tier, ID.live among the live bitmaps) and the state folder."""
        if tier:
            shutil.rmtree(Path(row.tier) / row.id, ignore_errors=True)
        (self._home.live / f"{row.id}.live").unlink(missing_ok=True)
        shutil.rmtree(self._home.datasets / row.id, ignore_errors=True)

    def has_ended(self, row: DatasetRow) -> bool:
        """Whether the kernel has let go of the file system: nobody uses it any more."""
        try:
            return self._engine.ended(row.id)
        except Exception as error:
            if kind_of(error) is errors.PATH_NOT_FOUND:
                return True  # not open here: no session of this process can be in the way
            raise

    def _close(self, row: DatasetRow) -> None:
        try:
            self._engine.close(row.id)
        except Exception as error:
            if kind_of(error) is not errors.PATH_NOT_FOUND:
                raise

    def _settings(self, row: DatasetRow) -> "_native.DatasetSettings":
        return {
            "id": row.id,
            "state_folder": str(self._home.datasets / row.id),
            "source": row.spec.mounts[0].source,
            "identity": row.identity,
            "tier": {"medium": row.medium, "folder": row.tier, "uuid": row.tier_uuid},
            "quota_bytes": row.quota_bytes,
            "include": row.spec.include,
            "exclude": row.spec.exclude,
        }
