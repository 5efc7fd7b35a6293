"""The engine, and the system calls that Python lacks. Conversion only: crates/atlas-py."""

from pathlib import Path
from typing import Literal, TypedDict

__version__: str

Identity = tuple[int, int, list[int]]
"""uid, gid, supplementary groups."""

class NativeError(Exception):
    """Every error of this module. `errno` is what a reader of a mount would see."""

    code: str
    kind: str
    errno: int

class TierSettings(TypedDict):
    medium: str
    folder: str
    uuid: str

class DatasetSettings(TypedDict):
    id: str
    state_folder: str
    source: str
    identity: Identity
    tier: TierSettings
    quota_bytes: int
    include: list[str]
    exclude: list[str]
    label: str
    mapped: bool
    seal: bool
    held: list[str]
    scrub_period_seconds: float
    scrub_bytes_per_second: int

class ScanStatus(TypedDict):
    state: Literal["Running", "Complete", "Partial", "Failed"]
    files: int
    error: str | None

class LeavingLinks(TypedDict):
    count: int
    names: list[str]

class ImageStatus(TypedDict):
    state: Literal["None", "Building", "Ready", "Failed"]
    bytes: int
    seconds: float
    error: str | None

class DatasetStatus(TypedDict):
    files: int
    folders: int
    links: int
    total_bytes: int
    cached_files: int
    cached_bytes: int
    used_bytes: int
    quota_bytes: int
    hit_bytes: int
    miss_bytes: int
    origin_requests: int
    origin_read_bytes: int
    scan: ScanStatus
    leaving_links: LeavingLinks
    degraded: str | None
    fuse_requests: dict[str, int]
    mounted: bool
    stale_files: int
    image: ImageStatus
    sealable: bool
    unsealed_reason: str
    sealed_trouble: str | None
    twin_requests: dict[str, int]
    damaged_extents: int
    verified_bytes: int

class LoadFailure(TypedDict):
    path: str
    reason: str

class LoadStatus(TypedDict):
    phase: Literal["Running", "Complete", "Partial", "Failed", "Stopped"]
    files: int
    bytes: int
    files_total: int | None
    bytes_total: int | None
    failed: list[LoadFailure]
    failed_count: int
    skipped_bytes: int

class Event(TypedDict):
    dataset: str
    time: float
    type: Literal["Normal", "Warning"]
    reason: str
    message: str

class MountEntry(TypedDict):
    id: int
    parent: int
    device: tuple[int, int]
    path: Path
    type: str
    source: str

class ImageMount(TypedDict):
    mount: int
    superblock: str
    device: tuple[int, int]

class ReadReport(TypedDict):
    files: int
    bytes: int
    seconds: float
    cpu_seconds: float

class Engine:
    """All data sets of one node. Every method may block on disks: call it off the event loop."""

    def __init__(self, live_folder: str) -> None: ...
    def create(self, dataset: DatasetSettings) -> None: ...
    def open(self, dataset: DatasetSettings) -> None: ...
    def serve(self, id: str, fuse: int, resume: bool) -> None:
        """Serve a duplicate of the descriptor; `resume`: another process served it before."""
    def status(self, id: str) -> DatasetStatus: ...
    def start_load(
        self, id: str, load: str, paths: list[bytes], parallel: int, bytes_per_second: int
    ) -> None:
        """Start or continue a load; 0 means the default parallelism, and no limit of the rate."""
    def load_status(self, id: str, load: str) -> LoadStatus: ...
    def stop_load(self, id: str, load: str) -> None: ...
    def events(self) -> list[Event]:
        """The events since the last call."""
    def close(self, id: str) -> None:
        """Stop serving; everything stays for the next `open`."""
    def free(self, id: str) -> tuple[int, int]:
        """Give up what is cached; (bytes freed, bytes behind sealed fronts in use: they follow)."""
    def destroy(self, id: str) -> None:
        """Free the tier, the tables and the live bits. The kernel must have let go of the mount."""
    def ended(self, id: str) -> bool:
        """Whether no live mount of the data set is left, not even a detached one that is used."""
    def stop_live(self, id: str) -> None:
        """Forget a live session that has ended, so that another can be served."""
    def serve_twin(self, id: str, fuse: int, resume: bool) -> None:
        """Serve the device slots of lazy images through a duplicate of the descriptor."""
    def twin_ended(self, id: str) -> bool:
        """Whether no image uses the twin connection any more; also where there is none."""
    def stop_twin(self, id: str) -> None: ...
    def mount_image(self, id: str, kind: Literal["lazy", "sealed"], twin: int) -> ImageMount:
        """A detached mount of the image; the mount's descriptor is the caller's to close.

        `twin`: of a lazy one a mount of the twin connection; -1 for a sealed one. The engine leases
        the segments of a sealed one until its superblock is gone.
        """

def open_folder_as(identity: Identity, path: str) -> int:
    """An O_PATH descriptor of a folder, opened with the rights of `identity`; follows links."""

def check_source(path: str) -> None:
    """Refuse a folder that lies in an Atlas mount or contains one."""

def open_tier(folder: str, medium: str, create: bool, uuid: str | None) -> str:
    """Open a tier folder, or make it one; returns its UUID. `uuid`: the one it must have."""

def open_fuse() -> int: ...
def mount_fuse(fuse: int, name: str, uid: int, gid: int) -> int:
    """A detached read-only mount of a FUSE descriptor; returns the mount's descriptor."""

def mount_twin(fuse: int) -> int:
    """A mount of a twin connection, attached nowhere. Its descriptor is the caller's to close: an
    image that uses the connection keeps it alive."""

def attach_mount(mount: int, folder: int) -> None: ...
def attach_beneath(mount: int, target: int) -> None:
    """Slip a detached mount beneath the one whose root `target` is (Linux 6.5)."""

def probe_mapped(folder: str) -> dict[str, str]:
    """Try `sealed`, `lazy` and `swap` with a tiny image in `folder`: "available", or why not."""

def device_behind(path: str) -> tuple[int, int] | None:
    """The file system that a link of /proc leads to, without a question to its server."""

def device_of(descriptor: int) -> tuple[int, int]:
    """The file system of an open descriptor, likewise."""

def superblock_exists(name: str) -> bool:
    """Whether an EROFS superblock ("erofs-N") is mounted, or detached but in use."""

def clone_mount(path: str) -> int: ...
def unmount(path: str, detach: bool) -> None: ...
def mount_table() -> list[MountEntry]: ...
def serve_slow_origin(
    source: str,
    target: str,
    latency_seconds: float,
    bytes_per_second: int,
    operations_per_second: int,
    ready: int,
) -> dict[str, int]:
    """Serve the emulated slow origin until SIGINT, SIGTERM or an unmount; returns request counts.

    One byte is written to the descriptor `ready` when the target is mounted.
    """

def read_files(paths: list[bytes], order: list[int]) -> ReadReport:
    """open + fstat + read + close of each file in `order` at the speed of C, on one thread."""

def stat_files(paths: list[bytes], order: list[int]) -> ReadReport: ...
