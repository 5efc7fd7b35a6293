"""The API's objects. One definition for the command line, the node and its client.

Fields are camelCase in JSON and YAML; numbers are bytes and seconds, times RFC 3339 strings.
Specs refuse unknown fields, so that a wish this version cannot fulfil is an error, not silence;
answers accept them, so that a client reads a newer node.
"""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from atlas.api.errors import INVALID, AtlasError
from atlas.api.units import printable

API_VERSION: Final = "atlas.io/v1alpha1"
"""`apiVersion` of every object."""

HTTP_API: Final = "1"
"""Value of the Atlas-Api header: client and node must agree on it."""

LARGEST: Final = (1 << 63) - 1
"""Of all numbers of bytes, here and in the engine."""

Medium = Literal["MEM", "SSD", "HDD"]
FrontKind = Literal["live", "lazy", "sealed"]
FrontChoice = Literal["auto", "sealed", "lazy", "live"]
ImageState = Literal["None", "Building", "Ready", "Failed"]
DatasetPhase = Literal["Pending", "Bound", "Failed", "Releasing"]
LoadPhase = Literal["Pending", "Running", "Complete", "Partial", "Failed", "Stopped"]
ScanState = Literal["Running", "Complete", "Partial", "Failed"]
Bytes = Annotated[int, Meta(ge=0, le=LARGEST)]
Model = TypeVar("Model")


class Metadata(Struct, kw_only=True, rename="camel"):
    """Who an object is. `uid` is new for each object, also when a name is used again."""

    name: str = ""
    uid: str | None = None
    creation_timestamp: str | None = None


class Source(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One origin mount: `source` is an absolute folder, shown at `path` of the data set."""

    source: str
    path: Literal["/"] = "/"


class TierSpec(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A place for cached bytes: `quota` in bytes; without `paths` the node's own folder."""

    medium: Medium
    quota: Annotated[int, Meta(gt=0, le=LARGEST)]
    paths: list[str] = []


class DatasetSpec(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a user wants. `owner` ("UID:GID") is filled in by the node from the caller.

    Patterns without "/" match the last name at any depth; `exclude` hides whole subtrees.
    """

    mounts: Annotated[list[Source], Meta(min_length=1, max_length=1)]
    tiers: Annotated[list[TierSpec], Meta(min_length=1, max_length=1)]
    include: list[str] = []
    exclude: list[str] = []
    sync: Literal["never"] = "never"
    front: FrontChoice = "auto"
    owner: str | None = None


class TierStatus(Struct, kw_only=True, rename="camel"):
    medium: Medium
    path: str
    quota_bytes: int
    used_bytes: int
    available_bytes: int | None = None


class ScanStatus(Struct, kw_only=True, rename="camel"):
    state: ScanState = "Running"
    files: int = 0
    error: str | None = None


class LeavingLinks(Struct, kw_only=True, rename="camel"):
    """Links whose target lies outside the data set: reads through them bypass the cache."""

    count: int = 0
    names: list[str] = []


class Condition(Struct, kw_only=True, rename="camel"):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str = ""


class ImageStatus(Struct, kw_only=True, rename="camel"):
    """The image that the mapped fronts show: its size, and the seconds that it took to write."""

    state: ImageState = "None"
    bytes: int = 0
    seconds: float = 0.0
    error: str | None = None


class Holder(Struct, kw_only=True, rename="camel"):
    """A process that uses a mount; `use` says how (open file, working folder, ...)."""

    pid: int
    command: str
    use: str


class Front(Struct, kw_only=True, rename="camel"):
    """One way in which a data set is served. `attached`: the one that its paths show.

    An earlier one stays for those that use it: `users` processes, named in `holders`. Lists do not
    look for them: `users` is null there.
    """

    front: FrontKind
    attached: bool
    mount_paths: list[str] = []
    since: str = ""
    reason: str = ""
    users: int | None = None
    holders: list[Holder] = []


class DatasetStatus(Struct, kw_only=True, rename="camel"):
    """What is. `mountPath` is the one to use; `mountPaths` are all, the node's own included.

    Totals grow while the scan runs; `hitBytes` are those the engine served from the cache
    (the kernel's own page cache answers warm reads without asking). `fuseRequests` are what the
    live front, `twinRequests` what lazy ones have asked of the engine. `verifiedBytes` were found
    right by checksum, `damagedExtents` not.
    """

    phase: DatasetPhase = "Pending"
    front: FrontKind | None = None
    front_reason: str | None = None
    fronts: list[Front] = []
    generation: int = 1
    mount_path: str | None = None
    mount_paths: list[str] = []
    files: int = 0
    folders: int = 0
    links: int = 0
    total_bytes: int = 0
    cached_files: int = 0
    cached_bytes: int = 0
    cache_capacity_bytes: int = 0
    cached_percentage: float = 0.0
    tiers: list[TierStatus] = []
    hit_bytes: int = 0
    miss_bytes: int = 0
    origin_requests: int = 0
    origin_read_bytes: int = 0
    stale_files: int = 0
    scan: ScanStatus = field(default_factory=ScanStatus)
    leaving_links: LeavingLinks = field(default_factory=LeavingLinks)
    fuse_requests: dict[str, int] = {}
    twin_requests: dict[str, int] = {}
    image: ImageStatus = field(default_factory=ImageStatus)
    damaged_extents: int = 0
    verified_bytes: int = 0
    conditions: list[Condition] = []


class Dataset(Struct, kw_only=True, rename="camel"):
    api_version: str = API_VERSION
    kind: Literal["Dataset"] = "Dataset"
    metadata: Metadata
    spec: DatasetSpec
    status: DatasetStatus = field(default_factory=DatasetStatus)


class DatasetChanges(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What of a spec may be changed later; null: it stays."""

    front: FrontChoice | None = None


class DatasetPatch(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The body of an update."""

    spec: DatasetChanges


class DatasetList(Struct, kw_only=True, rename="camel"):
    api_version: str = API_VERSION
    kind: Literal["DatasetList"] = "DatasetList"
    items: list[Dataset] = []


class LoadSpec(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A warm-up. `paths` below the data set's root ("/a/b"; none = all of it).

    `parallel` readers (0 = the engine's choice), `bytesPerSecond` at most (0 = no limit).
    """

    dataset: str = ""
    paths: list[str] = []
    parallel: Annotated[int, Meta(ge=0, le=1024)] = 0
    bytes_per_second: Bytes = 0


class FailedFile(Struct, kw_only=True, rename="camel"):
    path: str
    reason: str


class LoadStatus(Struct, kw_only=True, rename="camel"):
    """`filesTotal` and `bytesTotal` are null until the scan has counted what the load names.

    `failed` names the first files that could not be loaded, `failedCount` counts all;
    `skippedBytes` did not fit into the quota and are served from the origin.
    """

    phase: LoadPhase = "Pending"
    files: int = 0
    bytes: int = 0
    files_total: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float = 0.0
    eta_seconds: float | None = None
    failed: list[FailedFile] = []
    failed_count: int = 0
    skipped_bytes: int = 0
    start_time: str | None = None
    completion_time: str | None = None
    message: str | None = None


class DataLoad(Struct, kw_only=True, rename="camel"):
    """A load job; `metadata.name` is its id."""

    api_version: str = API_VERSION
    kind: Literal["DataLoad"] = "DataLoad"
    metadata: Metadata
    spec: LoadSpec
    status: LoadStatus = field(default_factory=LoadStatus)


class DataLoadList(Struct, kw_only=True, rename="camel"):
    api_version: str = API_VERSION
    kind: Literal["DataLoadList"] = "DataLoadList"
    items: list[DataLoad] = []


class MountSpec(Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where a data set is shown: an absolute, empty folder of the caller's."""

    dataset: str
    path: str


class MountStatus(Struct, kw_only=True, rename="camel"):
    """`own` marks the node's own path, which lives as long as the data set."""

    own: bool = False
    attached: bool = True


class Mount(Struct, kw_only=True, rename="camel"):
    api_version: str = API_VERSION
    kind: Literal["Mount"] = "Mount"
    metadata: Metadata
    spec: MountSpec
    status: MountStatus = field(default_factory=MountStatus)


class MountList(Struct, kw_only=True, rename="camel"):
    api_version: str = API_VERSION
    kind: Literal["MountList"] = "MountList"
    items: list[Mount] = []


class Event(Struct, kw_only=True, rename="camel"):
    """Something that happened to a data set; `count` times up to `time`."""

    dataset: str
    time: str
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    count: int = 1


class EventList(Struct, kw_only=True, rename="camel"):
    api_version: str = API_VERSION
    kind: Literal["EventList"] = "EventList"
    items: list[Event] = []


class Deletion(Struct, kw_only=True, rename="camel"):
    """What a delete did, or would do (`dryRun`).

    `releasing`: still in use; its `bytes` are freed when the last user has left.
    """

    api_version: str = API_VERSION
    kind: Literal["Deletion"] = "Deletion"
    metadata: Metadata
    bytes: int = 0
    files: int = 0
    releasing: bool = False
    dry_run: bool = False
    holders: list[Holder] = []
    mount_paths: list[str] = []


class Freed(Struct, kw_only=True, rename="camel"):
    """What a free gave up, or would give up (`dryRun`), in bytes of the tiers.

    `heldBytes`: programs read them through a sealed front that they have open; they follow when the
    last of these has left.
    """

    api_version: str = API_VERSION
    kind: Literal["Freed"] = "Freed"
    metadata: Metadata
    bytes: int = 0
    held_bytes: int = 0
    files: int = 0
    dry_run: bool = False


class NodeLimits(Struct, kw_only=True, rename="camel"):
    """The MEM tier's limit for the machine and what one user other than root may have."""

    memory_bytes: int
    memory_granted_bytes: int
    user_bytes: int
    user_datasets: int


class KeeperStatus(Struct, kw_only=True, rename="camel"):
    """Without the keeper the node serves on, but its mounts would not survive its death."""

    pid: int | None
    alive: bool
    restarts: int = 0


class NodeStatus(Struct, kw_only=True, rename="camel"):
    """`capabilities` maps what was tried on this machine to "available" or why not."""

    pid: int
    version: str
    uptime_seconds: float
    socket: str
    keeper: KeeperStatus
    capabilities: dict[str, str] = {}
    tiers: list[TierStatus] = []
    limits: NodeLimits
    datasets: int = 0
    uid: int = 0
    log: str = ""
    state: str = ""


class Node(Struct, kw_only=True, rename="camel"):
    api_version: str = API_VERSION
    kind: Literal["Node"] = "Node"
    metadata: Metadata
    status: NodeStatus


class Version(Struct, kw_only=True, rename="camel"):
    """`api` must equal the client's; `version` may differ."""

    version: str
    api: str = HTTP_API
    pid: int = 0


def to_json(value: Any) -> bytes:
    """JSON of an object of this module."""
    return msgspec.json.encode(value)


def to_builtins(value: Any) -> Any:
    """Dictionaries and lists of an object of this module, named as in JSON."""
    return msgspec.to_builtins(value)


def decode(data: bytes, model: type[Model], what: str) -> Model:
    """The object in a JSON body; `what` names it in the error (Invalid) of a body that is none."""
    try:
        return msgspec.json.decode(data, type=model)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AtlasError(INVALID, f"{what} is not understood", printable(str(error))) from error


def convert(value: object, model: type[Model], what: str) -> Model:
    """As `decode`, from dictionaries and lists (a YAML file, an answer of the engine)."""
    try:
        return msgspec.convert(value, type=model)
    except msgspec.MsgspecError as error:
        raise AtlasError(INVALID, f"{what} is not understood", printable(str(error))) from error
