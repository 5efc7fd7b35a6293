"""Making, serving and freeing one data set: the order of steps, and how each attempt is undone.

Who calls holds the data set's lock (see atlas.node.registry). The order of a creation:

    row `creating` -> engine tables -> /dev/fuse opened -> a copy with the keeper -> superblock
    -> engine serves -> the front's row -> attached at the node's own path -> attached at the user's
    -> row `present`

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
from atlas.node.capabilities import Capabilities
from atlas.node.database import Database, DatasetRow, MountRow
from atlas.node.events import Events
from atlas.node.fronts import Fronts
from atlas.node.mounting import Mounting, Target, shown_at
from atlas.node.native import Engine, System, failing, kind_of
from atlas.node.settings import Settings
from atlas.node.tiers import Tiers

if TYPE_CHECKING:
    from atlas import _native

logger = logging.getLogger("atlas.node.lifecycle")

RELEASE_SECONDS: Final = 5.0
"""How long the kernel may take to let go of a mount that nobody was found to use."""


class Lifecycle:
    """The steps, on the engine, the fronts, the mount table and the database together."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        system: System,
        engine: Engine,
        database: Database,
        mounting: Mounting,
        capabilities: Capabilities,
        fronts: Fronts,
        tiers: Tiers,
        events: Events,
    ) -> None:
        self._home = home
        self._node_settings = settings
        self._system = system
        self._engine = engine
        self._database = database
        self._mounting = mounting
        self._capabilities = capabilities
        self._fronts = fronts
        self._tiers = tiers
        self._events = events

    def create(self, row: DatasetRow, target: Target | None, mount: MountRow | None) -> None:
        """Makes the data set of a `creating` row that is in the database already.

        Raises AtlasError after everything, the row too, has been undone.
        """
        try:
            with failing(f"data set {row.name} cannot be created"):
                self._engine.create(self._settings(row))
            self._fronts.begin(row)
            if target is not None and mount is not None:
                self.attach(row, target, mount)
            self._database.set_phase(row.id, "present")
        except BaseException:
            self.remove(row)
            raise

    def bring_up(self, row: DatasetRow) -> None:
        """Serves a data set of an earlier node, with its fronts as far as they can go on.

        Raises AtlasError: readers that waited for this node get errors then, instead of waiting
        for ever; its bytes stay.
        """
        try:
            self._bring_up(row)
        except BaseException:
            self.shut(row, keep_mounts=False)
            raise

    def shut(self, row: DatasetRow, keep_mounts: bool) -> None:
        """Stops serving and keeps all data. The mounts go, in use or not, unless kept. Programs
        that have files of a sealed front open go on reading them: no process serves it."""
        if not keep_mounts:
            self._mounting.detach_all(row.id)
        try:
            self._fronts.end(row)
        finally:
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
            # It is known within milliseconds; there is nothing to wait on.
            time.sleep(0.01)
        self._free(row)
        return True

    def detach(self, row: DatasetRow) -> None:
        """Takes all mounts away at once; who uses one keeps it, and it is served on for them."""
        self._mounting.detach_all(row.id)

    def restore_mounts(self, row: DatasetRow) -> None:
        """Attaches again what an unmount that could not be finished has taken away."""
        self._fronts.show_own(row)
        self._reattach(row)

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
            self._attach_copy(row, target)
        except BaseException:
            self._database.remove_mount(mount.path)
            raise

    def look_at_origin(self, row: DatasetRow) -> None:
        """Raises AtlasError where the source cannot be opened now, by its creator. It may hang:
        what lies there is somebody else's file server."""
        source = row.spec.mounts[0].source
        with failing(f"the source {printable(source)} cannot be opened", errors.ORIGIN_GONE):
            os.close(self._system.open_folder_as(row.identity, source))

    def _bring_up(self, row: DatasetRow) -> None:
        self._tiers.reopen(row)
        # With new tables, made by the engine where it found none, no front can go on.
        with failing(f"data set {row.name} cannot be opened"):
            self._engine.open(self._settings(row))
        self._fronts.restore(row)
        if row.phase != "releasing":
            self._reattach(row)

    def _reattach(self, row: DatasetRow) -> None:
        """Attaches what the database knows and the mount table lacks. A user's folder that is no
        longer fit to be mounted on is an event, not a failure of the data set."""
        present = {entry.path for entry in self._mounting.entries(row.id)}
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
            self._attach_copy(row, target)
        finally:
            os.close(target.descriptor)

    def _attach_copy(self, row: DatasetRow, target: Target) -> None:
        own_path = self._mounting.own_path(row.name)
        own = shown_at(self._mounting.entries(row.id)).get(own_path)
        if own is None:
            raise AtlasError(
                errors.NOT_READY,
                f"data set {row.name} is not mounted at {own_path} now",
                "somebody has taken it away; it comes back",
                hint="the same command again",
            )
        copy = self._mounting.clone(own)
        try:
            self._mounting.attach(copy, target.descriptor)
        finally:
            os.close(copy)

    def _free(self, row: DatasetRow) -> None:
        self._fronts.end(row)
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
        """Whether the kernel has let go of all fronts: nobody uses the data set any more."""
        return self._fronts.have_ended(row)

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
            "label": self._mounting.source_of(row.name, row.id),
            # Whatever the setting, which may change while the data set is open.
            "mapped": self._capabilities.has("lazy")
            or self._capabilities.has("sealed")
            or self._fronts.has_mapped(row),
            "seal": self._capabilities.has("sealed"),
            "held": self._fronts.held(row),
            "scrub_period_seconds": self._node_settings.scrub_period,
            "scrub_bytes_per_second": self._node_settings.scrub_rate,
        }
