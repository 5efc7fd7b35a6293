"""Mounts of a data set's fronts, and the two FUSE sessions behind them: made, taken over, ended.

`live` is a FUSE session of its own; all lazy images of a data set read through one more, the twin,
which is attached nowhere; sealed images need none. A copy of each descriptor is with the keeper
before there is a superblock, so that a node that dies leaves nothing that waits for it for ever.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import FrontKind
from atlas.node.database import DatasetRow
from atlas.node.descriptors import DescriptorStore
from atlas.node.mounting import Mounting
from atlas.node.native import Engine, System, failing

_LIVE: Final = "dataset"
_TWIN: Final = "twin"
_END_SECONDS: Final = 0.5
"""Within which the engine has learned from the kernel that a session has ended."""


def identifier_of(key: str) -> str | None:
    """The data set that a key of the keeper belongs to."""
    kind, _, identifier = key.partition(":")
    return identifier if kind in (_LIVE, _TWIN) else None


def _live_key(row: DatasetRow) -> str:
    return f"{_LIVE}:{row.id}"


def _twin_key(row: DatasetRow) -> str:
    return f"{_TWIN}:{row.id}"


@dataclass(frozen=True, slots=True)
class Made:
    """A detached mount: its descriptor, whoever asked for it closes. `again`: of a superblock that
    there was. See FrontRow for the others."""

    mount: int
    device: str
    again: bool = False
    superblock: str | None = None


class FrontMaker:
    """The sessions of this process, by data set. Who calls holds the data set's lock."""

    def __init__(
        self, system: System, engine: Engine, keeper: DescriptorStore, mounting: Mounting
    ) -> None:
        self._system = system
        self._engine = engine
        self._keeper = keeper
        self._mounting = mounting
        self._live: set[str] = set()
        self._twins: set[str] = set()

    def make(self, row: DatasetRow, kind: FrontKind) -> Made:
        """One more mount of a served data set that is open in the engine. Raises AtlasError after
        undoing what was begun."""
        if kind == "live":
            return self._mount_live(row)
        if kind == "sealed":
            return self._mount_image(row, "sealed", -1)
        twin = self._mount_twin(row)
        try:
            return self._mount_image(row, "lazy", twin)
        finally:
            # The image has the connection's files open: it needs no mount of it any more.
            os.close(twin)

    def take_over_live(self, row: DatasetRow) -> bool:
        """Serves the live session of an earlier node; False where its descriptor is lost."""
        return self._take_over(row, _live_key(row), self._engine.serve, self._live)

    def take_over_twin(self, row: DatasetRow) -> bool:
        """As `take_over_live`, for the twin."""
        return self._take_over(row, _twin_key(row), self._engine.serve_twin, self._twins)

    def live_has_ended(self, row: DatasetRow) -> bool:
        """Whether no live mount is left, or none was."""
        return self._ended(row, self._engine.ended)

    def twin_has_ended(self, row: DatasetRow) -> bool:
        """Whether no lazy image is left, or none was."""
        return self._ended(row, self._engine.twin_ended)

    def serves_live(self, row: DatasetRow) -> bool:
        """Whether there is a live session, ended or not."""
        return row.id in self._live

    def serves_twin(self, row: DatasetRow) -> bool:
        return row.id in self._twins

    def end_live(self, row: DatasetRow) -> None:
        """Forgets a live session that has ended, or one of an earlier node that nobody can serve:
        its readers get errors then, instead of waiting for ever."""
        # First: where it fails, the session is still known, and is ended later.
        self._keeper.drop(_live_key(row))
        if row.id in self._live:
            with failing(f"the live front of {row.name} cannot be ended"):
                self._engine.stop_live(row.id)
            self._live.discard(row.id)

    def end_twin(self, row: DatasetRow) -> None:
        """As `end_live`, for the twin."""
        self._keeper.drop(_twin_key(row))
        if row.id in self._twins:
            with failing(f"the lazy front of {row.name} cannot be ended"):
                self._engine.stop_twin(row.id)
            self._twins.discard(row.id)

    def forget(self, row: DatasetRow) -> None:
        """The engine is closing the data set: its sessions go with it, and nobody shall go on."""
        self._keeper.drop(_live_key(row))
        self._keeper.drop(_twin_key(row))
        self._live.discard(row.id)
        self._twins.discard(row.id)

    def _mount_live(self, row: DatasetRow) -> Made:
        def mount(fuse: int) -> int:
            source = self._mounting.source_of(row.name, row.id)
            uid, gid, _ = row.identity
            return self._system.mount_fuse(fuse, source, uid, gid)

        if self.serves_live(row):
            made = self._mount_again(row, _live_key(row), mount, self.live_has_ended)
            if made is not None:
                return Made(made, self._device_of(made), again=True)
            self.end_live(row)
        made = self._mount_anew(row, _live_key(row), mount, self._engine.serve)
        self._live.add(row.id)
        return Made(made, self._device_of(made))

    def _device_of(self, mount: int) -> str:
        try:
            with failing("a mount cannot be looked at"):
                return "{}:{}".format(*self._system.device_of(mount))
        except AtlasError:
            os.close(mount)
            raise

    def _mount_twin(self, row: DatasetRow) -> int:
        mount = self._system.mount_twin
        if self.serves_twin(row):
            made = self._mount_again(row, _twin_key(row), mount, self.twin_has_ended)
            if made is not None:
                return made
            self.end_twin(row)
        made = self._mount_anew(row, _twin_key(row), mount, self._engine.serve_twin)
        self._twins.add(row.id)
        return made

    def _mount_image(self, row: DatasetRow, kind: FrontKind, twin: int) -> Made:
        assert kind != "live"
        with failing(f"the {kind} image of {row.name} cannot be mounted", errors.CANNOT_MOUNT):
            made = self._engine.mount_image(row.id, kind, twin)
        device = "{}:{}".format(*made["device"])
        return Made(made["mount"], device, superblock=made["superblock"])

    def _mount_again(
        self,
        row: DatasetRow,
        key: str,
        mount: Callable[[int], int],
        has_ended: Callable[[DatasetRow], bool],
    ) -> int | None:
        """Another mount of a session that this process serves; None where it has ended."""
        if has_ended(row):
            return None
        fuse = self._keeper.get(key)
        if fuse is None:
            raise AtlasError(
                errors.TEMPORARY,
                f"data set {row.name} cannot be mounted once more",
                "the keeper, which held its descriptor, is gone",
                hint="atlasctl node stop && atlasctl node start",
            )
        try:
            with failing(f"data set {row.name} cannot be mounted once more", errors.CANNOT_MOUNT):
                return mount(fuse)
        except AtlasError:
            # The kernel refuses what has ended before the engine has heard of it.
            deadline = time.monotonic() + _END_SECONDS
            while not has_ended(row):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            return None
        finally:
            os.close(fuse)

    def _mount_anew(
        self,
        row: DatasetRow,
        key: str,
        mount: Callable[[int], int],
        serve: Callable[[str, int, bool], None],
    ) -> int:
        """A new session. It needs the superblock; nobody may find a mount that is not served."""
        with failing(
            f"data set {row.name} cannot be mounted", errors.CANNOT_MOUNT, "atlasctl doctor"
        ):
            fuse = self._system.open_fuse()
        try:
            self._keeper.put(key, fuse)
            try:
                with failing(
                    f"data set {row.name} cannot be mounted", errors.CANNOT_MOUNT, "atlasctl doctor"
                ):
                    made = mount(fuse)
                try:
                    with failing(f"data set {row.name} cannot be served"):
                        serve(row.id, fuse, False)
                except BaseException:
                    os.close(made)
                    raise
            except BaseException:
                self._keeper.drop(key)
                raise
        finally:
            os.close(fuse)
        return made

    def _take_over(
        self,
        row: DatasetRow,
        key: str,
        serve: Callable[[str, int, bool], None],
        served: set[str],
    ) -> bool:
        fuse = self._keeper.get(key)
        if fuse is None:
            return False
        try:
            with failing(f"data set {row.name} cannot be served again"):
                serve(row.id, fuse, True)
        finally:
            os.close(fuse)
        served.add(row.id)
        return True

    def _ended(self, row: DatasetRow, ended: Callable[[str], bool]) -> bool:
        try:
            with failing(f"data set {row.name} cannot be looked at"):
                return ended(row.id)
        except AtlasError as error:
            if error.kind is errors.PATH_NOT_FOUND:
                return True  # not open here: no session of this process can be in the way
            raise
