"""A machine without a kernel of its own: mounts, FUSE descriptors, an engine and a keeper that a
test can look into, and that can die at any chosen step.

Disks are real folders, laid out as the engine's are, so that what is left behind can be seen.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from atlas.api import errors
from atlas.api.environment import Home, prepare
from atlas.api.errors import AtlasError
from atlas.api.models import Dataset, DatasetSpec, KeeperStatus, Metadata, Source, TierSpec
from atlas.node.application import Application
from atlas.node.caller import Caller
from atlas.node.mounting import IMAGE, LIVE
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
        self.images: dict[int, int] = {}
        """Superblocks of images, each with that of the twin which it reads through (0: sealed)."""
        self.capabilities = dict.fromkeys(("sealed", "lazy", "swap"), "available")
        self.status: dict[str, Any] = {}
        """What the engine says of data sets, where it differs from the usual."""
        self.fail_at = 0
        self.next_number = 1_000_000_000
        self.steps = 0
        self.kill_at = 0
        self.dead = False

    def step(self, failure: Exception | None = None) -> None:
        """One more thing done to the machine; the node may die just before it, or it may fail."""
        if self.dead:
            raise Killed
        self.steps += 1
        if self.steps == self.fail_at:
            raise failure or NativeError("ATL1001", 5, "this step fails")
        if self.steps == self.kill_at:
            self.dead = True
            raise Killed

    def number(self) -> int:
        self.next_number += 1
        return self.next_number

    def alive(self, superblock: int) -> bool:
        """Whether the kernel still has it: mounted, or held open by somebody."""
        mounted = any(entry["superblock"] == superblock for entry in self.mounted)
        used = any(twin == superblock and self.alive(image) for image, twin in self.images.items())
        return mounted or used or superblock in self.held

    def top(self, path: str) -> dict[str, Any] | None:
        """What a path shows: the mount there that no other covers."""
        here = [entry for entry in self.mounted if entry["path"] == path]
        covered = {entry["parent"] for entry in here}
        return next((entry for entry in here if entry["id"] not in covered), None)

    def node(self, settings: Settings | None = None) -> Application:
        """A new node process on this machine."""
        self.dead, self.kill_at, self.fail_at, self.steps = False, 0, 0, 0
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
        engine.system = self

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
        self.engine.key_of.pop(descriptor, None)
        return descriptor

    def mount_fuse(self, fuse: int, name: str, uid: int, gid: int) -> int:
        superblock = self._superblock(fuse)
        return self.mount_of({"superblock": superblock, "source": name, "type": LIVE})

    def mount_twin(self, fuse: int) -> int:
        superblock = self._superblock(fuse)
        return self.mount_of({"superblock": superblock, "source": "twin", "type": LIVE})

    def _superblock(self, fuse: int) -> int:
        """That of a FUSE descriptor, which has a new one at its first mount."""
        self.world.step()
        superblock = self.engine.superblock_of[fuse]
        if superblock and not self.world.alive(superblock):
            raise NativeError("ATL1001", 107, "the connection has ended")
        superblock = superblock or self.world.number()
        self.world.superblocks.add(superblock)
        self.engine.superblock_of[fuse] = superblock
        if fuse in self.engine.key_of:
            self.world.kept[self.engine.key_of[fuse]] = superblock
        return superblock

    def mount_of(self, mount: dict[str, Any]) -> int:
        descriptor = os.open("/dev/null", os.O_RDONLY)
        device = (999, mount["superblock"] % 1_000_000)
        self.detached[descriptor] = {**mount, "parent": 0, "device": device}
        return descriptor

    def attach_mount(self, mount: int, folder: int) -> None:
        self.world.step()
        path = os.readlink(f"/proc/self/fd/{folder}")
        below = self.world.top(path)
        self._attach(mount, path, below["id"] if below else 0)

    def attach_beneath(self, mount: int, target: int) -> None:
        self.world.step()
        assert self.world.capabilities["swap"] == "available"
        path = os.readlink(f"/proc/self/fd/{target}")
        above = self.world.top(path)
        assert above is not None
        above["parent"] = self._attach(mount, path, above["parent"])

    def _attach(self, mount: int, path: str, parent: int) -> int:
        number = self.world.number()
        entry = {**self.detached.pop(mount), "id": number, "path": path, "parent": parent}
        self.world.mounted.append(entry)
        return number

    def clone_mount(self, path: str) -> int:
        self.world.step()
        entry = self.world.top(os.path.realpath(path))
        if entry is None:
            raise NativeError("ATL1006", 22, f"nothing is mounted at {path}")
        return self.mount_of(entry)

    def probe_mapped(self, folder: str) -> dict[str, str]:
        self.world.step()
        assert Path(folder).is_dir()
        return self.world.capabilities

    def device_of(self, descriptor: int) -> tuple[int, int]:
        device: tuple[int, int] = self.detached[descriptor]["device"]
        return device

    def superblock_exists(self, name: str) -> bool:
        self.world.step()
        return self.world.alive(int(name.removeprefix("erofs-")))

    def unmount(self, path: str, detach: bool) -> None:
        self.world.step()
        real = os.path.realpath(path)
        if real in self.world.busy and not detach:
            raise NativeError("ATL1007", 16, f"unmount {real}: busy")
        gone = self.world.top(real)
        assert gone is not None
        self.world.mounted.remove(gone)

    def mount_table(self) -> Any:
        self.world.step()
        return list(self.world.mounted)


class Engine:
    """The engine of one node process. Lays files out as atlas-store does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.system: System
        self.superblock_of: dict[int, int] = {}
        self.key_of: dict[int, str] = {}
        self.served: dict[str, int] = {}
        self.twins: dict[str, int] = {}
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
        assert id not in self.served
        self.served[id] = self.superblock_of[fuse]

    def serve_twin(self, id: str, fuse: int, resume: bool) -> None:
        self.world.step()
        self._known(id)
        assert self.superblock_of[fuse], "a session needs a superblock"
        assert id not in self.twins
        if self.status(id)["image"]["state"] != "Ready":
            raise NativeError("ATL1004", 2, "there is no image yet")
        self.twins[id] = self.superblock_of[fuse]

    def stop_live(self, id: str) -> None:
        if not self.ended(id):
            raise NativeError("ATL1007", 16, "the live session goes on")
        del self.served[id]

    def twin_ended(self, id: str) -> bool:
        self.world.step()
        self._known(id)
        return id not in self.twins or not self.world.alive(self.twins[id])

    def stop_twin(self, id: str) -> None:
        assert self.twin_ended(id)
        del self.twins[id]

    def mount_image(self, id: str, kind: str, twin: int) -> Any:
        self.world.step()
        status = self.status(id)
        assert status["image"]["state"] == "Ready"
        if kind == "sealed" and not status["sealable"]:
            raise NativeError("ATL1007", 16, status["unsealed_reason"])
        assert (twin == -1) == (kind == "sealed")
        superblock = self.world.number()
        below = 0 if twin == -1 else self.system.detached[twin]["superblock"]
        assert below == 0 or below == self.twins[id], "nobody serves the twin"
        self.world.images[superblock] = below
        label = self.open_[id]["label"]
        mount = self.system.mount_of({"superblock": superblock, "source": label, "type": IMAGE})
        device = self.system.detached[mount]["device"]
        return {"mount": mount, "superblock": f"erofs-{superblock}", "device": device}

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
            "image": {"state": "None", "bytes": 0, "seconds": 0.0, "error": None},
            "sealable": False,
            "unsealed_reason": "1 file is not cached",
            "sealed_trouble": "1 file is not cached",
            "twin_requests": {"read": 2},
            "damaged_extents": 0,
            "verified_bytes": 500,
            **self.world.status,
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
        self.twins.pop(id, None)

    def free(self, id: str) -> tuple[int, int]:
        self.world.step()
        self._known(id)
        sealed = any(twin == 0 and self.world.alive(image) for image, twin in self.images())
        if not sealed:
            self.world.status = {**self.world.status, "cached_files": 0, "cached_bytes": 0}
        self.world.status = {
            **self.world.status,
            "sealable": False,
            "unsealed_reason": "what is cached is being freed",
            "sealed_trouble": "what is cached is being freed",
        }
        return (0, 500) if sealed else (500, 0)

    def destroy(self, id: str) -> None:
        dataset = self._known(id)
        assert self.ended(id)
        assert self.twin_ended(id)
        assert not any(twin == 0 and self.world.alive(image) for image, twin in self.images())
        for folder in self._files(dataset):
            self.world.step()
            shutil.rmtree(folder, ignore_errors=True)
        (self.world.home.live / f"{id}.live").unlink()
        self.world.step()
        del self.open_[id]

    def images(self) -> list[tuple[int, int]]:
        return list(self.world.images.items())

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
        self.world.step(AtlasError(errors.TEMPORARY, "the keeper does not answer"))
        self.engine.key_of[descriptor] = key
        self.world.kept[key] = 0

    def get(self, key: str) -> int | None:
        self.world.step(AtlasError(errors.TEMPORARY, "the keeper does not answer"))
        if key not in self.world.kept:
            return None
        descriptor = os.open("/dev/null", os.O_RDONLY)
        self.engine.key_of.pop(descriptor, None)
        self.engine.superblock_of[descriptor] = self.world.kept[key]
        return descriptor

    def drop(self, key: str) -> None:
        self.world.step(AtlasError(errors.TEMPORARY, "the keeper does not answer"))
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
