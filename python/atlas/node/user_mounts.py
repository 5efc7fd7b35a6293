"""Mounts besides the node's own: added, listed and taken away by users."""

import os

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import Metadata, Mount, MountSpec, MountStatus
from atlas.api.units import format_time, printable
from atlas.node.caller import Caller
from atlas.node.database import Database, DatasetRow, MountRow
from atlas.node.datasets import Datasets, in_use, may_use, mount_row
from atlas.node.events import Events
from atlas.node.lifecycle import Lifecycle
from atlas.node.mounting import Entry, Mounting, check_path, stacks_at
from atlas.node.registry import Registry
from atlas.node.usage import holders_of
from atlas.node.views import Views


class UserMounts:
    """The service behind /v1/mounts. Every method may block; each raises AtlasError."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        mounting: Mounting,
        lifecycle: Lifecycle,
        datasets: Datasets,
        views: Views,
        events: Events,
    ) -> None:
        self._database = database
        self._registry = registry
        self._mounting = mounting
        self._lifecycle = lifecycle
        self._datasets = datasets
        self._views = views
        self._events = events

    def visible(self, caller: Caller) -> list[Mount]:
        """Of the caller's data sets, or of all for root."""
        table = self._mounting.table()
        return [
            mount
            for row in self._database.datasets()
            if may_use(caller, row)
            for mount in self._views.mounts(row, table)
        ]

    def add(self, caller: Caller, wanted: MountSpec, dry_run: bool) -> tuple[Mount, bool]:
        """(the mount, whether it is new). Where it is already: unchanged."""
        given = check_path(wanted.path, "the mount folder")
        row = self._datasets.find(caller, wanted.dataset)
        # Before the lock: it hangs as long as the source does, which others need not wait for.
        source = os.path.realpath(row.spec.mounts[0].source)
        with self._registry.hold(wanted.dataset):
            row = self._datasets.find(caller, wanted.dataset)
            for mount in self._views.mounts(row):
                if given == mount.spec.path and mount.status.attached:
                    return mount, False
            if self._registry.entry(row.id).state != "serving":
                raise AtlasError(
                    errors.NOT_READY,
                    f"data set {row.name} is not served now",
                    hint=f"atlasctl cache describe {row.name}",
                )
            self._forget_unattached(row, given)
            target = self._mounting.open_target(caller.identity, given, source)
            try:
                new = mount_row(row, target, caller)
                if not dry_run:
                    self._lifecycle.attach(row, target, new)
                    self._events.record(row.id, "Normal", "Mounted", f"at {given}")
            finally:
                os.close(target.descriptor)
            return _object(row, new, attached=not dry_run), True

    def remove(
        self, caller: Caller, path: str | None, dataset: str | None, force: bool, dry_run: bool
    ) -> list[Mount]:
        """Takes away the mount at `path`, or all users' mounts of `dataset`; gives those."""
        if (path is None) == (dataset is None):
            raise AtlasError(errors.INVALID, "name either a mount folder or a data set")
        row, _ = self._chosen(caller, path, dataset)
        with self._registry.hold(row.name):
            # Again: while this one waited, the folder may have become another data set's.
            found, mounts = self._chosen(caller, path, dataset)
            if found.id != row.id:
                raise AtlasError(
                    errors.TEMPORARY,
                    f"data set {row.name} has changed meanwhile",
                    hint="the same command again",
                )
            attached = stacks_at(self._mounting.entries(row.id))
            chosen = [(mount, attached.get(mount.path, [])) for mount in mounts]
            if not force and not dry_run:
                stacks = [stack for _, stack in chosen]
                holders = holders_of([entry for stack in stacks for entry in stack], caller.uid)
                if holders:
                    raise in_use(row.name, holders, "the same command with --force")
            removed = []
            for mount, stack in chosen:
                if not dry_run:
                    self._remove_one(caller, row, mount, stack, force)
                removed.append(_object(row, mount, attached=bool(stack) and dry_run))
            return removed

    def _chosen(
        self, caller: Caller, path: str | None, dataset: str | None
    ) -> tuple[DatasetRow, list[MountRow]]:
        if path is None:
            row = self._datasets.find(caller, dataset or "")
            return row, self._database.mounts(row.id)
        given = check_path(path, "the mount folder")
        for mount in self._database.mounts():
            if given not in (mount.path, mount.given):
                continue
            owner = self._database.dataset(mount.dataset)
            if owner is not None and may_use(caller, owner):
                return owner, [mount]
        for row in self._database.datasets():
            if given == self._mounting.own_path(row.name) and may_use(caller, row):
                raise AtlasError(
                    errors.CONFLICT,
                    f"{given} is the node's own mount of data set {row.name}",
                    "it lives as long as the data set",
                    hint=f"atlasctl cache delete {row.name}",
                )
        raise AtlasError(
            errors.NOT_FOUND,
            f"nothing is mounted at {printable(given)}",
            hint="atlasctl cache mounts",
        )

    def _remove_one(
        self, caller: Caller, row: DatasetRow, mount: MountRow, stack: list[Entry], force: bool
    ) -> None:
        for entry in stack:
            try:
                self._mounting.unmount(entry, detach=force)
            except AtlasError as error:
                if error.kind is not errors.BUSY:
                    raise
                raise in_use(
                    row.name, holders_of([entry], caller.uid), "the same command with --force"
                ) from error
        self._database.remove_mount(mount.path)
        self._events.record(row.id, "Normal", "Unmounted", f"from {mount.given}")

    def _forget_unattached(self, row: DatasetRow, given: str) -> None:
        """A mount that somebody has taken away by other means does not keep its place."""
        attached = {entry.path for entry in self._mounting.entries(row.id)}
        for mount in self._database.mounts(row.id):
            if given in (mount.path, mount.given) and mount.path not in attached:
                self._database.remove_mount(mount.path)


def _object(row: DatasetRow, mount: MountRow, attached: bool) -> Mount:
    return Mount(
        metadata=Metadata(name=row.name, uid=row.id, creation_timestamp=format_time(mount.created)),
        spec=MountSpec(dataset=row.name, path=mount.given),
        status=MountStatus(own=False, attached=attached),
    )
