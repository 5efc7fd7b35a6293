"""Tiers: which folder a data set's bytes go to, who may use it, and how much is left."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.models import Medium, NodeLimits, TierSpec, TierStatus
from atlas.api.units import format_size, printable
from atlas.node.caller import Caller
from atlas.node.database import Database, DatasetRow
from atlas.node.mounting import check_path
from atlas.node.native import System, failing, kind_of
from atlas.node.settings import Settings

MEDIA: tuple[Medium, ...] = ("MEM", "SSD", "HDD")


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a new data set goes. `uuid` is known where another one lies there already."""

    medium: Medium
    path: str
    uuid: str | None


class Tiers:
    """The node's tiers. A tier is remembered by its UUID as long as a data set lies on it."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        system: System,
        database: Database,
        used_bytes: Callable[[DatasetRow], int],
    ) -> None:
        self._home = home
        self._settings = settings
        self._system = system
        self._database = database
        self._used_bytes = used_bytes
        self.admission = threading.Lock()
        """Held from the check of the limits to the row that counts against them."""

    def choose(self, caller: Caller, spec: TierSpec) -> Choice:
        """The folder that a tier of a spec means. Raises AtlasError: Denied for an unregistered
        folder of anybody but root."""
        if len(spec.paths) > 1:
            raise AtlasError(errors.INVALID, "a tier has one folder", "several paths were given")
        own = str(self._home.tier(spec.medium))
        path = check_path(spec.paths[0], "the tier folder") if spec.paths else own
        registered = {own, *(str(folder) for folder in self._registered(spec.medium))}
        if path not in registered and not caller.is_root:
            raise AtlasError(
                errors.DENIED,
                f"{printable(path)} is not a registered tier folder",
                "only root may use others",
                hint="leave the path away, or have it registered in node.toml",
            )
        uuid = next((row.tier_uuid for row in self._database.datasets() if row.tier == path), None)
        return Choice(spec.medium, path, uuid)

    def check_limits(self, caller: Caller, choice: Choice, quota_bytes: int) -> None:
        """Raises AtlasError (QuotaExceeded) where a limit, or the disk, has no room for a quota."""
        rows = self._database.datasets()
        if not caller.is_root:
            own = [row for row in rows if row.uid == caller.uid]
            if len(own) >= self._settings.user_datasets:
                raise AtlasError(
                    errors.QUOTA,
                    f"you have {len(own)} data sets already",
                    f"the limit is {self._settings.user_datasets}",
                    hint="atlasctl cache delete NAME",
                )
            granted = sum(row.quota_bytes for row in own)
            self._check("your limit", self._settings.user_bytes, granted, quota_bytes)
        if choice.medium == "MEM":
            granted = sum(row.quota_bytes for row in rows if row.medium == "MEM")
            self._check(
                "the machine's limit on MEM", self._settings.memory_bytes, granted, quota_bytes
            )
        promised = sum(
            max(0, row.quota_bytes - self._used_bytes(row))
            for row in rows
            if row.tier == choice.path
        )
        available = available_bytes(choice.path)
        if quota_bytes > available - promised:
            raise AtlasError(
                errors.QUOTA,
                f"no space for {format_size(quota_bytes)} on the tier {printable(choice.path)}",
                f"{format_size(available)} are free, of which other data sets may still take"
                f" {format_size(promised)}",
                hint="a smaller --size, or another --medium",
            )

    def open(self, choice: Choice) -> str:
        """Opens the tier for a new data set, or makes it one; gives its UUID.

        Raises AtlasError: TierMissing where it is not the one it was (an unmounted disk).
        """
        # Only where nothing of ours lies on it yet may an empty folder become a tier: else an
        # unmounted disk's mount point would, and fill the disk below it.
        create = choice.uuid is None or choice.medium == "MEM"
        existed = os.path.lexists(choice.path)
        try:
            return self._open(choice.path, choice.medium, create, choice.uuid)
        except AtlasError:
            if not existed:
                with suppress(OSError):
                    os.rmdir(choice.path)
            raise

    def reopen(self, row: DatasetRow) -> None:
        """Checks the tier of a data set that lies on it. Raises AtlasError (TierMissing)."""
        self._open(row.tier, row.medium, row.medium == "MEM", row.tier_uuid)

    def status(self) -> list[TierStatus]:
        """The node's own, the registered ones, and those in use, with what is used and granted."""
        rows = self._database.datasets()
        known: dict[tuple[Medium, str], None] = dict.fromkeys(
            [(medium, str(self._home.tier(medium))) for medium in MEDIA]
        )
        known.update(dict.fromkeys((tier.medium, str(tier.path)) for tier in self._settings.tiers))
        known.update(dict.fromkeys((row.medium, row.tier) for row in rows))
        return [
            TierStatus(
                medium=medium,
                path=path,
                quota_bytes=sum(row.quota_bytes for row in rows if row.tier == path),
                used_bytes=sum(self._used_bytes(row) for row in rows if row.tier == path),
                available_bytes=available_bytes(path),
            )
            for medium, path in known
        ]

    def limits(self) -> NodeLimits:
        rows = self._database.datasets()
        return NodeLimits(
            memory_bytes=self._settings.memory_bytes,
            memory_granted_bytes=sum(row.quota_bytes for row in rows if row.medium == "MEM"),
            user_bytes=self._settings.user_bytes,
            user_datasets=self._settings.user_datasets,
        )

    def _registered(self, medium: Medium) -> list[Path]:
        return [tier.path for tier in self._settings.tiers if tier.medium == medium]

    def _open(self, path: str, medium: Medium, create: bool, uuid: str | None) -> str:
        try:
            with failing(f"the tier {printable(path)} cannot be used"):
                return self._system.open_tier(path, medium, create, uuid)
        except AtlasError as error:
            native = error.__cause__
            kind = kind_of(native) if isinstance(native, Exception) else None
            if uuid is not None and kind in (errors.PATH_NOT_FOUND, errors.BUSY):
                raise AtlasError(
                    errors.TIER_MISSING,
                    f"the tier {printable(path)} is not the one it was",
                    error.cause,
                    hint="mount its disk; atlasctl node describe",
                ) from error
            raise

    def _check(self, what: str, limit: int, granted: int, wanted: int) -> None:
        if granted + wanted > limit:
            raise AtlasError(
                errors.QUOTA,
                f"{format_size(wanted)} exceed {what}",
                f"{format_size(granted)} of {format_size(limit)} are granted already",
                hint="a smaller --size, or atlasctl cache delete NAME",
            )


def available_bytes(path: str) -> int:
    """Free for this user on the file system of `path`, or of what will be its parent; else 0."""
    for candidate in (path, os.path.dirname(path)):
        try:
            space = os.statvfs(candidate)
        except OSError:
            continue
        return space.f_bavail * space.f_frsize
    return 0
