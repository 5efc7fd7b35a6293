"""Data sets as users order them: validate, create, list, delete."""

import os
import secrets
import shlex
import time
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.models import (
    Dataset,
    DatasetChanges,
    DatasetSpec,
    DatasetStatus,
    Deletion,
    Freed,
    FrontChoice,
    Holder,
    Source,
    TierSpec,
    TierStatus,
    to_builtins,
)
from atlas.api.units import check_name, format_size, printable
from atlas.node.caller import Caller
from atlas.node.database import Database, DatasetRow, MountRow
from atlas.node.events import Events
from atlas.node.fronts import Fronts
from atlas.node.lifecycle import Lifecycle
from atlas.node.mounting import (
    Mounting,
    Target,
    check_path,
    from_the_top,
    is_below,
    own_folders,
)
from atlas.node.native import Engine, System, failing
from atlas.node.registry import Registry
from atlas.node.tiers import Choice, Tiers, available_bytes
from atlas.node.usage import Usage
from atlas.node.views import Views, metadata_of

_LONGEST_PATTERN = 4096
_MOST_PATTERNS = 1000


@dataclass(frozen=True, slots=True)
class _Plan:
    """A create that was checked as far as it can be before anything is made."""

    spec: DatasetSpec
    choice: Choice
    source: str
    """Without links, for comparisons; the spec keeps what the user wrote."""


class Datasets:
    """The service behind /v1/datasets. Every method may block; each raises AtlasError."""

    def __init__(
        self,
        home: Home,
        system: System,
        engine: Engine,
        database: Database,
        registry: Registry,
        mounting: Mounting,
        tiers: Tiers,
        lifecycle: Lifecycle,
        fronts: Fronts,
        views: Views,
        usage: Usage,
        events: Events,
    ) -> None:
        self._home = home
        self._system = system
        self._engine = engine
        self._database = database
        self._registry = registry
        self._mounting = mounting
        self._tiers = tiers
        self._lifecycle = lifecycle
        self._fronts = fronts
        self._views = views
        self._usage = usage
        self._events = events

    def visible(self, caller: Caller) -> list[Dataset]:
        """The caller's own, or all for root; by name."""
        return self._views.datasets(
            [row for row in self._database.datasets() if may_use(caller, row)]
        )

    def get(self, caller: Caller, name: str, users: bool = False) -> Dataset:
        """With `users` those of each of its fronts are looked for, which takes a while."""
        row = self.find(caller, name)
        return self._views.dataset(
            row, users=self._usage.by_device(row, caller.uid) if users else None
        )

    def find(self, caller: Caller, name: str) -> DatasetRow:
        """The row of a data set that the caller may use. One of another user is not there."""
        row = self._database.dataset_named(name)
        if row is None or not may_use(caller, row):
            raise AtlasError(
                errors.NOT_FOUND,
                f"there is no data set {printable(name)!r}",
                hint="atlasctl cache list",
            )
        return row

    def create(
        self, caller: Caller, wanted: Dataset, mount: str | None, dry_run: bool
    ) -> tuple[Dataset, bool]:
        """(the data set, whether it is new). The same again changes nothing, except that a mount
        that is missing is added; another spec under the name is a Conflict with the differences.
        """
        name = check_name(wanted.metadata.name)
        with self._registry.hold(name):
            existing = self._database.dataset_named(name)
            if existing is not None:
                if existing.phase != "present":
                    raise AtlasError(
                        errors.TEMPORARY,
                        f"a data set {name} is still being freed",
                        hint="the same command again; atlasctl cache list",
                    )
                self._check_same(caller, existing, wanted.spec)
                if mount is not None and not dry_run:
                    self._add_mount(caller, existing, mount)
                return self._views.dataset(existing), False
            plan = self._plan(caller, wanted.spec)
            target = (
                None
                if mount is None
                else self._mounting.open_target(caller.identity, mount, plan.source)
            )
            try:
                if dry_run:
                    return self._preview(name, plan), True
                return self._create(caller, name, plan, target), True
            finally:
                if target is not None:
                    os.close(target.descriptor)

    def update(self, caller: Caller, name: str, changes: DatasetChanges, dry_run: bool) -> Dataset:
        """Changes the spec of a data set that stays; what follows from it follows by itself."""
        with self._registry.hold(name):
            row = self.find(caller, name)
            if changes.front is None or changes.front == row.spec.front:
                return self._views.dataset(row)
            self._check_front(changes.front)
            spec = structs.replace(row.spec, front=changes.front)
            if not dry_run:
                self._database.set_spec(row.id, spec)
                self._events.record(
                    row.id, "Normal", "Updated", f"spec.front: {row.spec.front} -> {spec.front}"
                )
            return self._views.dataset(replace(row, spec=spec))

    def free(self, caller: Caller, name: str, dry_run: bool) -> Freed:
        """Gives up what is cached of a data set that stays. A sealed front is left for one that
        needs no bytes; what programs read through it follows when the last of them has left."""
        with self._registry.hold(name):
            row = self.find(caller, name)
            if self._registry.entry(row.id).state != "serving":
                raise AtlasError(
                    errors.NOT_READY,
                    f"data set {name} is not served now",
                    hint=f"atlasctl cache describe {name}",
                )
            seen = self._views.dataset(row).status
            result = Freed(metadata=metadata_of(row), files=seen.cached_files, dry_run=dry_run)
            if dry_run:
                result.bytes = seen.cached_bytes
                return result
            result.bytes, result.held_bytes = self._free(row)
            if result.held_bytes:
                # The data set's own mounts may be all that uses the sealed front.
                self._fronts.advance(row)
                more, result.held_bytes = self._free(row)
                result.bytes += more
            self._events.record(row.id, "Normal", "Freed", f"{format_size(result.bytes)}")
            return result

    def _free(self, row: DatasetRow) -> tuple[int, int]:
        with failing(f"data set {row.name} cannot be freed"):
            return self._engine.free(row.id)

    def delete(self, caller: Caller, name: str, force: bool, dry_run: bool) -> Deletion:
        """Unmounts and frees a data set. In use: InUse with the holders, or with `force` its name
        is free at once, and its bytes when the last user has left."""
        with self._registry.hold(name):
            row = self.find(caller, name)
            seen = self._views.dataset(row)
            result = Deletion(
                metadata=metadata_of(row),
                bytes=seen.status.tiers[0].used_bytes,
                files=seen.status.cached_files,
                dry_run=dry_run,
                holders=self.holders(caller, row),
                mount_paths=seen.status.mount_paths,
            )
            if dry_run:
                return result
            if force:
                result.releasing = self._delete_forced(row)
            else:
                self._unmount_unused(caller, row, result.holders)
                self._delete_unmounted(row)
                result.releasing = self._database.dataset(row.id) is not None
            return result

    def holders(self, caller: Caller, row: DatasetRow) -> list[Holder]:
        """Processes that use any front of a data set, attached or not."""
        return self._usage.holders(row, caller.uid)

    def refuse_hidden_users(self, row: DatasetRow, hint: str) -> None:
        """Raises AtlasError (InUse) where an earlier front goes on though nobody was found to use
        it: a process that /proc does not show to this node, or a mapping behind another."""
        if self._registry.entry(row.id).state == "serving" and self._fronts.left_in_use(row):
            raise AtlasError(
                errors.IN_USE,
                f"data set {row.name} is in use",
                "programs that this node cannot see have files of an earlier front open",
                hint=hint,
                unchanged=f"data set {row.name} stays mounted",
            )

    def _plan(self, caller: Caller, spec: DatasetSpec) -> _Plan:
        """Checks everything about a new data set that does not need to be tried."""
        choice = self._tiers.choose(caller, spec.tiers[0])
        complete = self._complete(caller, spec, choice)
        source = self._check_source(caller, complete.mounts[0].source)
        self._tiers.check_limits(caller, choice, spec.tiers[0].quota)
        return _Plan(complete, choice, source)

    def _complete(self, caller: Caller, spec: DatasetSpec, choice: Choice) -> DatasetSpec:
        """The spec with everything filled in that the user left to the node."""
        if spec.owner not in (None, caller.owner):
            raise AtlasError(
                errors.DENIED,
                f"a data set belongs to its creator, {caller.owner}",
                f"the spec names {printable(str(spec.owner))}",
                hint="run the command as that user",
            )
        self._check_front(spec.front)
        patterns = [*spec.include, *spec.exclude]
        if len(patterns) > _MOST_PATTERNS or any(
            not 0 < len(pattern) <= _LONGEST_PATTERN or "\0" in pattern for pattern in patterns
        ):
            raise AtlasError(errors.INVALID, "a pattern is empty or too long, or they are too many")
        return DatasetSpec(
            mounts=[Source(source=check_path(spec.mounts[0].source, "the source"))],
            tiers=[TierSpec(medium=choice.medium, quota=spec.tiers[0].quota, paths=[choice.path])],
            include=spec.include,
            exclude=spec.exclude,
            sync=spec.sync,
            front=spec.front,
            owner=caller.owner,
        )

    def _check_front(self, wanted: FrontChoice) -> None:
        if wanted != "auto":
            self._fronts.may_be_had(wanted)

    def _check_source(self, caller: Caller, source: str) -> str:
        """The source without links, if it may be one."""
        shown = printable(source)
        with failing(f"the source {shown} cannot be opened"):
            descriptor = self._system.open_folder_as(caller.identity, source)
        try:
            real = os.readlink(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        with failing(f"the source {shown} cannot be used", errors.INVALID):
            self._system.check_source(real)
        for own in own_folders(self._home):
            if is_below(real, str(own)) or is_below(str(own), real):
                raise AtlasError(
                    errors.INVALID,
                    f"the source {shown} cannot be used",
                    f"it lies in the node's own folder {own}, or contains it",
                )
        return real

    def _check_same(self, caller: Caller, existing: DatasetRow, spec: DatasetSpec) -> None:
        if not may_use(caller, existing):
            raise AtlasError(
                errors.CONFLICT,
                f"the name {existing.name} is taken by another user",
                hint="another name",
            )
        choice = self._tiers.choose(caller, spec.tiers[0])
        differences = diff(existing.spec, self._complete(caller, spec, choice))
        if differences:
            raise AtlasError(
                errors.CONFLICT,
                f"data set {existing.name} exists and differs",
                hint=_hint(existing.name, differences, spec),
                unchanged=f"data set {existing.name} stays as it is",
                details=differences,
            )

    def _preview(self, name: str, plan: _Plan) -> Dataset:
        tier = plan.spec.tiers[0]
        status = DatasetStatus(
            cache_capacity_bytes=tier.quota,
            mount_paths=[self._mounting.own_path(name)],
            mount_path=self._mounting.own_path(name),
            tiers=[
                TierStatus(
                    medium=tier.medium,
                    path=plan.choice.path,
                    quota_bytes=tier.quota,
                    used_bytes=0,
                    available_bytes=available_bytes(plan.choice.path),
                )
            ],
        )
        preview = Dataset(metadata=metadata_of(self._row(name, plan, "")), spec=plan.spec)
        preview.metadata.uid = None
        preview.status = status
        return preview

    def _create(self, caller: Caller, name: str, plan: _Plan, target: Target | None) -> Dataset:
        uuid = self._tiers.open(plan.choice)
        row = self._row(name, plan, uuid, caller)
        with self._tiers.admission:
            # Again, now that no other create can come between the check and the row.
            self._tiers.check_limits(caller, plan.choice, row.quota_bytes)
            self._database.add_dataset(row)
        mount = None if target is None else mount_row(row, target, caller)
        self._lifecycle.create(row, target, mount)
        self._registry.entry(row.id).state = "serving"
        self._events.record(
            row.id,
            "Normal",
            "Created",
            f"from {plan.spec.mounts[0].source}, {format_size(row.quota_bytes)} on {row.medium}",
        )
        created = self._database.dataset(row.id)
        return self._views.dataset(created or row)

    def _row(self, name: str, plan: _Plan, uuid: str, caller: Caller | None = None) -> DatasetRow:
        return DatasetRow(
            id=secrets.token_hex(8),
            name=name,
            phase="creating",
            identity=(0, 0, []) if caller is None else caller.identity,
            spec=plan.spec,
            created=time.time(),
            medium=plan.choice.medium,
            tier=plan.choice.path,
            tier_uuid=uuid,
        )

    def _add_mount(self, caller: Caller, row: DatasetRow, path: str) -> None:
        given = check_path(path, "the mount folder")
        attached = {entry.path for entry in self._mounting.entries(row.id)}
        for mount in self._database.mounts(row.id):
            if given in (mount.path, mount.given):
                if mount.path in attached:
                    return
                # Somebody has taken it away by other means.
                self._database.remove_mount(mount.path)
        source = os.path.realpath(row.spec.mounts[0].source)
        target = self._mounting.open_target(caller.identity, given, source)
        try:
            self._lifecycle.attach(row, target, mount_row(row, target, caller))
        finally:
            os.close(target.descriptor)

    def _unmount_unused(self, caller: Caller, row: DatasetRow, holders: list[Holder]) -> None:
        """Unmounts all, the node's own last; where one turns out to be in use, all come back."""
        if holders:
            raise in_use(row.name, holders, f"atlasctl cache delete {row.name} --force")
        self.refuse_hidden_users(row, f"atlasctl cache delete {row.name} --force")
        own = self._mounting.own_path(row.name)
        entries = from_the_top(self._mounting.entries(row.id))
        entries.sort(key=lambda entry: entry.path == own)
        for entry in entries:
            try:
                self._mounting.unmount(entry, detach=False)
            except AtlasError as error:
                if error.kind not in (errors.BUSY, errors.NOT_FOUND):
                    raise
                # Somebody came between the look and the unmount, or lies on top of it.
                self._lifecycle.restore_mounts(row)
                if error.kind is errors.NOT_FOUND:
                    raise AtlasError(
                        errors.CONFLICT,
                        f"data set {row.name} cannot be unmounted from {printable(entry.path)}",
                        "something else is mounted over it",
                        hint=f"umount {shlex.quote(entry.path)}, then the same command again",
                        unchanged=f"data set {row.name} stays mounted",
                    ) from error
                found = self.holders(caller, row)
                raise in_use(
                    row.name, found, f"atlasctl cache delete {row.name} --force"
                ) from error

    def _delete_unmounted(self, row: DatasetRow) -> None:
        if self._registry.entry(row.id).state == "failed":
            # Its tier may be missing: then nothing may be deleted half.
            try:
                self._tiers.reopen(row)
            except AtlasError as error:
                if error.kind is errors.TIER_MISSING:
                    error.hint = (
                        f"mount its disk; or, to leave its bytes there: atlasctl cache delete"
                        f" {row.name} --force"
                    )
                raise
        self._database.set_phase(row.id, "deleting")
        if self._lifecycle.remove(row):
            self._registry.drop(row.id)

    def _delete_forced(self, row: DatasetRow) -> bool:
        """Gives whether bytes are still to be released."""
        if self._registry.entry(row.id).state == "failed":
            try:
                self._tiers.reopen(row)
            except AtlasError:
                self._lifecycle.forget(row)
                self._registry.drop(row.id)
                return False
        # From here on the name is free, whatever happens to this process.
        self._database.begin_release(row.id)
        self._lifecycle.detach(row)
        if self._lifecycle.release(row):
            self._registry.drop(row.id)
            return False
        return True


def may_use(caller: Caller, row: DatasetRow) -> bool:
    """Until sharing is built, a data set is its creator's alone; root sees all."""
    return caller.is_root or caller.uid == row.uid


def mount_row(row: DatasetRow, target: Target, caller: Caller) -> MountRow:
    return MountRow(target.path, target.given, row.id, caller.identity, time.time())


def in_use(name: str, holders: list[Holder], hint: str) -> AtlasError:
    """The error of a data set that cannot be unmounted, naming who uses it."""
    lines = [f"{holder.pid} {holder.command} ({holder.use})" for holder in holders]
    cause = (
        f"used by {len(lines)} process{'es' if len(lines) > 1 else ''}: {', '.join(lines[:3])}"
        if lines
        else "used by the kernel (a loop device, an overlay), or by a process that has just left"
    )
    return AtlasError(
        errors.IN_USE,
        f"data set {name} is in use",
        cause,
        hint=hint,
        unchanged=f"data set {name} stays mounted",
        details=lines,
    )


def _hint(name: str, differences: list[str], wanted: DatasetSpec) -> str:
    if len(differences) == 1 and differences[0].startswith("spec.front:"):
        return f"atlasctl cache update {name} --front {wanted.front}"
    return f"atlasctl cache describe {name}"


def diff(present: DatasetSpec, wanted: DatasetSpec) -> list[str]:
    """One line for each field that differs: "spec.tiers[0].quota: 1 -> 2"."""
    lines: list[str] = []
    _compare("spec", to_builtins(present), to_builtins(wanted), lines)
    return lines


def _compare(path: str, present: Any, wanted: Any, lines: list[str]) -> None:
    if isinstance(present, dict) and isinstance(wanted, dict):
        for key in sorted({*present, *wanted}):
            _compare(f"{path}.{key}", present.get(key), wanted.get(key), lines)
    elif (
        isinstance(present, list) and isinstance(wanted, list) and len(present) == len(wanted) != 0
    ):
        for index, pair in enumerate(zip(present, wanted, strict=True)):
            _compare(f"{path}[{index}]", *pair, lines)
    elif present != wanted:
        lines.append(f"{path}: {printable(str(present))} -> {printable(str(wanted))}")
