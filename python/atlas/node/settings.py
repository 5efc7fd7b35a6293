"""Settings of a node: data only, each with its unit and why it has its default.

Read from `node.toml` of the home (see atlas.api.environment), for instance:

    memory_bytes = "16Gi"
    scrub_period = "1d"
    [[tiers]]
    medium = "SSD"
    path = "/nvme0/atlas"
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.api.errors import INVALID, AtlasError
from atlas.api.models import Medium, convert
from atlas.api.units import parse_duration, parse_size


@dataclass(frozen=True, slots=True)
class RegisteredTier:
    """A tier folder that every user of the node may name; all others need root."""

    medium: Medium
    path: Path


@dataclass(frozen=True)
class Settings:
    """Limits hold for the sum of quotas, not for what is used: a promise that can be kept."""

    memory_bytes: int
    """Of all MEM quotas together. Default: half of the machine's (or the cgroup's) memory, so that
    a full cache leaves the other half to the training it serves."""

    user_bytes: int
    """Of one user's quotas on all tiers; root has no limit. Default: none but the tiers' own."""

    user_datasets: int = 64
    """Data sets of one user other than root. Each costs descriptors and a few threads."""

    scrub_period: float = 7 * 86400.0
    """Seconds in which all cached bytes of a data set are read and compared with their checksums
    once; 0: never. Default: a week, within which a disk's own silent errors stay few."""

    scrub_rate: int = 64 << 20
    """Bytes a second that this reading takes at most; 0: no limit. Default: 64 MiB, a few percent
    of an SSD and of a processor."""

    swap_rest: float = 10.0
    """Seconds between two changes of a data set's front, unless the present one is broken: each
    gives up the kernel's warm pages."""

    reseal_rest: float = 30.0
    """Seconds after a sealed front had to be left before there is another: what broke it (a failing
    disk) tends to come back."""

    tiers: tuple[RegisteredTier, ...] = ()


def load(path: Path) -> Settings:
    """The settings in the file at `path`; without one the defaults.

    Raises AtlasError (Invalid) that names the file for anything it does not understand.
    """
    values: dict[str, Any] = {}
    if path.exists():
        import tomllib

        try:
            values = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise AtlasError(INVALID, f"{path} cannot be read", str(error)) from error
    tables = convert(values.pop("tiers", []), list[dict[str, str]], f"{path}: tiers")
    tiers = tuple(
        RegisteredTier(
            convert(entry.get("medium"), Medium, f"{path}: medium of a tier"),  # type: ignore[arg-type]
            Path(entry.get("path", "")),
        )
        for entry in tables
    )
    for tier in tiers:
        if not tier.path.is_absolute():
            raise AtlasError(INVALID, f"{path}: the path of a tier must be absolute")
    memory = values.pop("memory_bytes", None)
    user = values.pop("user_bytes", None)
    datasets = values.pop("user_datasets", Settings.user_datasets)
    durations = {
        name: _duration(path, name, values.pop(name, getattr(Settings, name)))
        for name in ("scrub_period", "swap_rest", "reseal_rest")
    }
    scrub_rate = _size(path, str(values.pop("scrub_rate", Settings.scrub_rate)).removesuffix("/s"))
    if values:
        raise AtlasError(INVALID, f"{path}: unknown setting {next(iter(values))!r}")
    if not isinstance(datasets, int) or datasets < 0:
        raise AtlasError(INVALID, f"{path}: user_datasets must be a number")
    return Settings(
        memory_bytes=machine_memory() // 2 if memory is None else _size(path, memory),
        user_bytes=(1 << 62) if user is None else _size(path, user),
        user_datasets=datasets,
        scrub_rate=scrub_rate,
        tiers=tiers,
        **durations,
    )


def _duration(path: Path, name: str, value: object) -> float:
    """Seconds: a number of them, or a text as in "30s"."""
    try:
        return parse_duration(str(value))
    except AtlasError as error:
        raise AtlasError(INVALID, f"{path}: {name}: {error.message}", error.cause) from error


def _size(path: Path, value: object) -> int:
    try:
        return parse_size(str(value))
    except AtlasError as error:
        raise AtlasError(INVALID, f"{path}: {error.message}", error.cause) from error


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less by a cgroup's limit."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """Memory limits of this process's cgroup (v2 or v1) and of those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base, file = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            base, file = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        folder = base / name.lstrip("/")
        for candidate in (folder, *folder.parents):
            if not candidate.is_relative_to(base):
                break
            try:
                text = (candidate / file).read_text().strip()
            except OSError:
                continue
            if text.isdigit() and int(text) > 0:
                limits.append(int(text))
    return limits
