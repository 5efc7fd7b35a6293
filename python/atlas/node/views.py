"""What users see of a data set: the API's object, made from its row, the engine and the mounts."""

from typing import TYPE_CHECKING

from atlas.api.models import (
    Condition,
    Dataset,
    DatasetPhase,
    DatasetStatus,
    Front,
    Holder,
    ImageStatus,
    LeavingLinks,
    Metadata,
    Mount,
    MountSpec,
    MountStatus,
    ScanStatus,
    TierStatus,
)
from atlas.api.units import format_time
from atlas.node.database import Database, DatasetRow
from atlas.node.mounting import Entry, Mounting, shown_at
from atlas.node.native import Engine, kind_of
from atlas.node.registry import Registry
from atlas.node.tiers import available_bytes

if TYPE_CHECKING:
    from atlas import _native


class Views:
    """Reads only; takes no data set's lock, so that a list never waits for a stuck one."""

    def __init__(
        self, database: Database, engine: Engine, registry: Registry, mounting: Mounting
    ) -> None:
        self._database = database
        self._engine = engine
        self._registry = registry
        self._mounting = mounting

    def datasets(self, rows: list[DatasetRow]) -> list[Dataset]:
        """Many objects, for one look at the mount table."""
        table = self._mounting.table()
        return [self.dataset(row, table) for row in rows]

    def dataset(
        self,
        row: DatasetRow,
        table: list[Entry] | None = None,
        users: dict[str, list[Holder]] | None = None,
    ) -> Dataset:
        """The object as it is now. `users` of each device, where somebody has looked for them."""
        status = DatasetStatus(
            phase=self._phase(row),
            cache_capacity_bytes=row.quota_bytes,
            mount_paths=self._paths(row, table),
        )
        if status.mount_paths:
            # The user's own choice, where there is one: the node's own path comes first.
            status.mount_path = status.mount_paths[-1]
        engine = self._engine_status(row)
        if engine is not None:
            _fill(status, engine)
        status.tiers = [
            TierStatus(
                medium=row.medium,
                path=row.tier,
                quota_bytes=row.quota_bytes,
                used_bytes=0 if engine is None else engine["used_bytes"],
                available_bytes=available_bytes(row.tier),
            )
        ]
        status.fronts = self._fronts(row, table, users)
        attached = next((front for front in status.fronts if front.attached), None)
        if attached is not None and status.phase == "Bound":
            status.front, status.front_reason = attached.front, attached.reason
        status.conditions = self._conditions(row, status, engine)
        return Dataset(metadata=metadata_of(row), spec=row.spec, status=status)

    def used_bytes(self, row: DatasetRow) -> int:
        """What a data set holds of its quota; 0 while it is not open."""
        engine = self._engine_status(row)
        return 0 if engine is None else engine["used_bytes"]

    def mounts(self, row: DatasetRow, table: list[Entry] | None = None) -> list[Mount]:
        """The node's own first, then the users' in the order they were made."""
        attached = {entry.path for entry in self._mounting.entries(row.id, table)}
        own = self._mounting.own_path(row.name)
        paths = [(own, own, row.created)] if row.phase == "present" else []
        paths += [
            (mount.path, mount.given, mount.created) for mount in self._database.mounts(row.id)
        ]
        return [
            Mount(
                metadata=Metadata(
                    name=row.name, uid=row.id, creation_timestamp=format_time(created)
                ),
                spec=MountSpec(dataset=row.name, path=given),
                status=MountStatus(own=path == own, attached=path in attached),
            )
            for path, given, created in paths
        ]

    def _fronts(
        self, row: DatasetRow, table: list[Entry] | None, users: dict[str, list[Holder]] | None
    ) -> list[Front]:
        """The one that the paths show first, then what is left of others, the newest first."""
        shown = shown_at(self._mounting.entries(row.id, table))
        fronts = []
        for kept in reversed(self._database.fronts(row.id)):
            holders = None if users is None else users.get(kept.device or "", [])
            now = self._registry.entry(row.id).front.reason if kept.attached else ""
            fronts.append(
                Front(
                    front=kept.kind,
                    attached=kept.attached,
                    mount_paths=sorted(
                        path for path, entry in shown.items() if entry.device == kept.device
                    ),
                    since=format_time(kept.since),
                    reason=now or kept.reason,
                    users=None if holders is None else len(holders),
                    holders=holders or [],
                )
            )
        return sorted(fronts, key=lambda front: not front.attached)

    def _phase(self, row: DatasetRow) -> DatasetPhase:
        if row.phase in ("deleting", "releasing", "freeing"):
            return "Releasing"
        if row.phase == "creating":
            return "Pending"
        state = self._registry.entry(row.id).state
        return {"starting": "Pending", "serving": "Bound", "failed": "Failed"}[state]  # type: ignore[return-value]

    def _paths(self, row: DatasetRow, table: list[Entry] | None) -> list[str]:
        return [mount.spec.path for mount in self.mounts(row, table) if mount.status.attached]

    def _engine_status(self, row: DatasetRow) -> "_native.DatasetStatus | None":
        try:
            return self._engine.status(row.id)
        except Exception as error:
            if kind_of(error) is None:
                raise
            return None

    def _conditions(
        self, row: DatasetRow, status: DatasetStatus, engine: "_native.DatasetStatus | None"
    ) -> list[Condition]:
        entry = self._registry.entry(row.id)
        if entry.failure is not None:
            ready = ("False", entry.failure.kind.reason, str(entry.failure))
        elif status.phase != "Bound":
            ready = ("False", status.phase, "")
        elif self._mounting.own_path(row.name) not in status.mount_paths:
            ready = ("False", "Unmounted", "the node's own mount was taken away by somebody")
        else:
            ready = ("True", "Serving", "")
        conditions = [self._registry.condition(row.id, "Ready", *ready)]  # type: ignore[arg-type]
        if engine is None:
            return conditions
        if entry.origin_failure is not None:
            conditions.append(
                self._registry.condition(
                    row.id, "OriginReachable", "False", "OriginGone", str(entry.origin_failure)
                )
            )
        scan = engine["scan"]
        conditions.append(
            self._registry.condition(
                row.id,
                "Scanned",
                "True" if scan["state"] == "Complete" else "False",
                scan["state"],
                scan["error"] or "",
            )
        )
        if status.front is not None and row.spec.front in ("auto", "sealed"):
            sealed = status.front == "sealed"
            conditions.append(
                self._registry.condition(
                    row.id,
                    "Sealed",
                    "True" if sealed else "False",
                    "Verified"
                    if sealed
                    else "NotSealable"
                    if not engine["sealable"]
                    else "Waiting",
                    status.front_reason or "",
                    status.fronts[0].since,
                )
            )
        if engine["degraded"] is not None:
            conditions.append(
                self._registry.condition(
                    row.id, "Degraded", "True", "TierDegraded", engine["degraded"]
                )
            )
        if engine["leaving_links"]["count"]:
            message = (
                f"{engine['leaving_links']['count']} links lead out of the data set:"
                " reads through them bypass the cache"
            )
            conditions.append(
                self._registry.condition(row.id, "LeavingLinks", "True", "LinksLeave", message)
            )
        return conditions


def metadata_of(row: DatasetRow) -> Metadata:
    return Metadata(name=row.name, uid=row.id, creation_timestamp=format_time(row.created))


def _fill(status: DatasetStatus, engine: "_native.DatasetStatus") -> None:
    status.files = engine["files"]
    status.folders = engine["folders"]
    status.links = engine["links"]
    status.total_bytes = engine["total_bytes"]
    status.cached_files = engine["cached_files"]
    status.cached_bytes = engine["cached_bytes"]
    status.cached_percentage = percentage(engine)
    status.hit_bytes = engine["hit_bytes"]
    status.miss_bytes = engine["miss_bytes"]
    status.origin_requests = engine["origin_requests"]
    status.origin_read_bytes = engine["origin_read_bytes"]
    status.stale_files = engine["stale_files"]
    status.fuse_requests = dict(engine["fuse_requests"])
    status.twin_requests = dict(engine["twin_requests"])
    status.image = ImageStatus(**engine["image"])
    status.damaged_extents = engine["damaged_extents"]
    status.verified_bytes = engine["verified_bytes"]
    scan = engine["scan"]
    status.scan = ScanStatus(state=scan["state"], files=scan["files"], error=scan["error"])
    links = engine["leaving_links"]
    status.leaving_links = LeavingLinks(count=links["count"], names=links["names"])


def percentage(engine: "_native.DatasetStatus") -> float:
    """Cached bytes of all that is known; 100 only when it is true: when the scan has found all that
    there is, and never by rounding."""
    total, cached = engine["total_bytes"], engine["cached_bytes"]
    complete = engine["scan"]["state"] == "Complete"
    if total == 0:
        return 100.0 if complete else 0.0
    if cached >= total and complete:
        return 100.0
    return min(99.9, round(100 * cached / total, 1))
