"""A machine without a kernel of its own: mounts, FUSE descriptors, an engine and a keeper that a
test can look into, and that can die at any chosen step.

Disks are real folders, laid out as the engine's are, so that what is left behind can be seen.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from atlas.api.environment import Home, prepare
from atlas.api.models import Dataset, DatasetSpec, KeeperStatus, Metadata, Source, TierSpec
from atlas.node.application import Application
from atlas.node.caller import Caller
from atlas.node.mounting import FILESYSTEM
from atlas.node.settings import Settings

ROOT = Caller(1, 0, 0, (0,))
USER = Caller(2, 2001, 2001, ())
OTHER = Caller(3, 2002, 2002, ())


class NativeError(Exception):
    """As `_native.NativeError`."""

    def __init__(self, code: str, errno: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.errno = errno
        self.kind = ""


class Killed(BaseException):
    """The process was killed: no handler of it runs any more, since each step raises again."""


class World:
    """What survives a node process: the kernel's mounts, the keeper's descriptors, the disks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(
            run=folder / "run",
            state=folder / "state",
            log=folder / "log",
            tiers=folder / "tiers",
            settings=folder / "node.toml",
            shared_memory=folder / "shm",
        )
        self.source = folder / "source"
        self.source.mkdir()
        self.mounted: list[dict[str, Any]] = []
        self.kept: dict[str, int] = {}
        self.busy: set[str] = set()
        """Paths whose unmount fails with EBUSY."""
        self.held: set[int] = set()
        """Superblocks that outlive their last mount: somebody has a file open."""
        self.superblocks: set[int] = set()
        self.next_number = 1_000_000_000
        self.steps = 0
        self.kill_at = 0
        self.dead = False

    def step(self) -> None:
        """One more thing done to the machine; the node may die just before it."""
        if self.dead:
            raise Killed
        self.steps += 1
        if self.steps == self.kill_at:
            self.dead = True
            raise Killed

    def number(self) -> int:
        self.next_number += 1
        return self.next_number

    def alive(self, superblock: int) -> bool:
        """Whether the kernel still has it: mounted, or held open by somebody."""
        mounted = any(entry["superblock"] == superblock for entry in self.mounted)
        return mounted or superblock in self.held

    def node(self, settings: Settings | None = None) -> Application:
        """A new node process on this machine."""
        self.dead, self.kill_at, self.steps = False, 0, 0
        prepare(self.home)
        engine = Engine(self)
        return Application(
            self.home,
            settings or Settings(memory_bytes=1 << 30, user_bytes=1 << 29, user_datasets=3),
            System(self, engine),
            engine,
            Keeper(self, engine),
        )

    def left_behind(self) -> list[str]:
        """Everything that no data set should leave."""
        folders = [self.home.datasets, self.home.live, self.home.mounts]
        files = [
            f"{folder.name}/{name}"
            for folder in folders
            if folder.exists()
            for name in os.listdir(folder)
        ]
        for tier in (self.home.memory_tier, self.home.tiers / "ssd"):
            if tier.exists():
                files += [f"{tier}/{name}" for name in os.listdir(tier) if name != "marker"]
        return [*files, *map(str, self.mounted), *self.kept]


class System:
    """The native module's functions. A mount's descriptor is a number that only this class knows,
    doubled by a real descriptor, because the node closes it."""

    def __init__(self, world: World, engine: "Engine") -> None:
        self.world = world
        self.engine = engine
        self.detached: dict[int, dict[str, Any]] = {}

    def open_folder_as(self, identity: Any, path: str) -> int:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise NativeError("ATL1004", error.errno or 0, f"open {path}") from error
        status = os.fstat(descriptor)
        if identity[0] not in (0, status.st_uid) and not status.st_mode & 0o001:
            os.close(descriptor)
            raise NativeError("ATL1003", 13, f"open {path}: Permission denied")
        return descriptor

    def check_source(self, path: str) -> None:
        for entry in self.world.mounted:
            if path.startswith(entry["path"]):
                raise NativeError("ATL1006", 40, f"{path} lies in an Atlas mount")

    def open_tier(self, folder: str, medium: str, create: bool, uuid: str | None) -> str:
        self.world.step()
        marker = Path(folder) / "marker"
        if not marker.exists():
            if not create:
                raise NativeError("ATL1004", 2, "no marker: disk not mounted?")
            Path(folder).mkdir(exist_ok=True)
            marker.write_text(uuid or f"uuid-{self.world.number()}")
        found = marker.read_text()
        if uuid not in (None, found):
            raise NativeError("ATL1007", 16, "another tier lies there")
        return found

    def open_fuse(self) -> int:
        self.world.step()
        descriptor = os.open("/dev/null", os.O_RDONLY)
        self.engine.superblock_of[descriptor] = 0
        return descriptor

    def mount_fuse(self, fuse: int, name: str, uid: int, gid: int) -> int:
        self.world.step()
        superblock = self.world.number()
        self.world.superblocks.add(superblock)
        self.engine.superblock_of[fuse] = superblock
        for key, kept in self.world.kept.items():
            if kept == 0 and name.endswith(key.removeprefix("dataset:")):
                self.world.kept[key] = superblock
        return self._detached({"superblock": superblock, "source": name, "type": FILESYSTEM})

    def _detached(self, mount: dict[str, Any]) -> int:
        descriptor = os.open("/dev/null", os.O_RDONLY)
        self.detached[descriptor] = {**mount, "parent": 0}
        return descriptor

    def attach_mount(self, mount: int, folder: int) -> None:
        self.world.step()
        path = os.readlink(f"/proc/self/fd/{folder}")
        entry = {**self.detached[mount], "id": self.world.number(), "path": path}
        self.world.mounted.append({**entry, "device": (999, entry["superblock"] % 1000)})

    def clone_mount(self, path: str) -> int:
        self.world.step()
        for entry in self.world.mounted:
            if entry["path"] == path:
                return self._detached(entry)
        raise NativeError("ATL1006", 22, f"nothing is mounted at {path}")

    def unmount(self, path: str, detach: bool) -> None:
        self.world.step()
        real = os.path.realpath(path)
        if real in self.world.busy and not detach:
            raise NativeError("ATL1007", 16, f"unmount {real}: busy")
        kept = [entry for entry in self.world.mounted if entry["path"] != real]
        assert len(kept) < len(self.world.mounted)
        self.world.mounted[:] = kept

    def mount_table(self) -> Any:
        self.world.step()
        return list(self.world.mounted)


class Engine:
    """The engine of one node process. Lays files out as atlas-store does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.superblock_of: dict[int, int] = {}
        self.served: dict[str, int] = {}
        self.open_: dict[str, dict[str, Any]] = {}
        self.loads: dict[str, dict[str, Any]] = {}

    def _files(self, dataset: Any) -> list[Path]:
        return [
            Path(dataset["tier"]["folder"]) / dataset["id"],
            Path(dataset["state_folder"]),
        ]

    def create(self, dataset: Any) -> None:
        for folder in self._files(dataset):
            self.world.step()
            folder.mkdir()
        (self.world.home.live / f"{dataset['id']}.live").touch()
        self.world.step()
        self.open_[dataset["id"]] = dataset

    def open(self, dataset: Any) -> None:
        self.world.step()
        if not all(folder.is_dir() for folder in self._files(dataset)):
            raise NativeError("ATL1004", 2, f"open {dataset['id']}")
        self.open_[dataset["id"]] = dataset

    def _known(self, id: str) -> Any:
        if id not in self.open_:
            raise NativeError("ATL1004", 2, f"data set {id} is not known")
        return self.open_[id]

    def serve(self, id: str, fuse: int, resume: bool) -> None:
        self.world.step()
        self._known(id)
        assert self.superblock_of[fuse], "a session needs a superblock"
        self.served[id] = self.superblock_of[fuse]

    def status(self, id: str) -> Any:
        self._known(id)
        return {
            "files": 2,
            "folders": 1,
            "links": 0,
            "total_bytes": 1000,
            "cached_files": 1,
            "cached_bytes": 500,
            "used_bytes": 4096,
            "quota_bytes": 1 << 20,
            "hit_bytes": 0,
            "miss_bytes": 0,
            "origin_requests": 3,
            "origin_read_bytes": 500,
            "scan": {"state": "Complete", "files": 2, "error": None},
            "leaving_links": {"count": 0, "names": []},
            "degraded": None,
            "fuse_requests": {"init": 1},
            "mounted": True,
            "stale_files": 0,
        }

    def start_load(
        self, id: str, load: str, paths: list[bytes], parallel: int, bytes_per_second: int
    ) -> None:
        self._known(id)
        self.loads[load] = {
            "phase": "Running",
            "files": 0,
            "bytes": 0,
            "files_total": None,
            "bytes_total": None,
            "failed": [],
            "failed_count": 0,
            "skipped_bytes": 0,
            "paths": paths,
        }

    def load_status(self, id: str, load: str) -> Any:
        self._known(id)
        return self.loads[load]

    def stop_load(self, id: str, load: str) -> None:
        self.loads[load]["phase"] = "Stopped"

    def events(self) -> list[Any]:
        return []

    def close(self, id: str) -> None:
        self.world.step()
        self._known(id)
        del self.open_[id]
        self.served.pop(id, None)

    def destroy(self, id: str) -> None:
        dataset = self._known(id)
        assert self.ended(id)
        for folder in self._files(dataset):
            self.world.step()
            shutil.rmtree(folder, ignore_errors=True)
        (self.world.home.live / f"{id}.live").unlink()
        self.world.step()
        del self.open_[id]

    def ended(self, id: str) -> bool:
        self.world.step()
        self._known(id)
        return id not in self.served or not self.world.alive(self.served[id])


class Keeper:
    """The keeper's store: superblocks by key, as a descriptor stands for one."""

    def __init__(self, world: World, engine: Engine) -> None:
        self.world = world
        self.engine = engine

    def put(self, key: str, descriptor: int) -> None:
        self.world.step()
        self.world.kept[key] = 0

    def get(self, key: str) -> int | None:
        self.world.step()
        if key not in self.world.kept:
            return None
        descriptor = os.open("/dev/null", os.O_RDONLY)
        self.engine.superblock_of[descriptor] = self.world.kept[key]
        return descriptor

    def drop(self, key: str) -> None:
        self.world.step()
        self.world.kept.pop(key, None)

    def held(self) -> list[str]:
        return list(self.world.kept)

    def status(self) -> KeeperStatus:
        return KeeperStatus(pid=7, alive=True)


def wanted(world: World, name: str = "wav", **changes: Any) -> Dataset:
    """A create as a client asks for it."""
    spec = DatasetSpec(
        mounts=[Source(source=str(world.source))], tiers=[TierSpec(medium="MEM", quota=1 << 20)]
    )
    for key, value in changes.items():
        setattr(spec, key, value)
    return Dataset(metadata=Metadata(name=name), spec=spec)
