"""Questions to the operating system, for `atlasctl doctor`."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def try_mount() -> str | None:
    """Makes a FUSE mount that is attached nowhere, and drops it. None: it works; else why not."""
    try:
        from atlas import _native
    except ImportError as error:
        return f"the engine cannot be loaded: {error}"
    descriptors: list[int] = []
    try:
        descriptors.append(_native.open_fuse())
        descriptors.append(_native.mount_fuse(descriptors[0], "doctor", os.geteuid(), os.getegid()))
    except _native.NativeError as error:
        return str(error)
    finally:
        for descriptor in reversed(descriptors):
            os.close(descriptor)
    return None


def file_system(folder: Path) -> str | None:
    """The type of the file system that `folder` itself is a mount point of or lies in."""
    try:
        device = os.stat(folder).st_dev
    except OSError:
        return None
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split()
        if fields[2] == f"{os.major(device)}:{os.minor(device)}":
            found = fields[fields.index("-") + 1]
    return found


def atlas_mounts(table: Path) -> list[str]:
    """Paths of all Atlas mounts in a mountinfo table (proc(5)); the names' escapes are undone.

    One that covers another at the same path is what the path shows: each path comes once.
    """
    paths: dict[str, None] = {}
    for line in table.read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        kind, source = fields[fields.index("-") + 1 :][:2]
        # Images are of a type that others use too.
        if kind == "fuse.atlas" or (kind == "erofs" and source.startswith("atlas:")):
            path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            paths[path] = None
    return list(paths)


def memory_total(root: Path) -> int:
    """Bytes of this machine's memory."""
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def memory_limit(pid: int | None, root: Path) -> int | None:
    """The smallest memory limit of a process's control groups (both versions), in bytes.

    `pid` None asks for this process. None: no limit, or none that can be seen from here.
    """
    try:
        groups = (root / "proc" / (str(pid) if pid else "self") / "cgroup").read_text()
    except OSError:
        return None
    limits = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A group is bound by all above it. In a container the path may be the host's: the root
        # that is visible here is then the container's own group.
        here = base / path.lstrip("/")
        for folder in [here, *here.parents]:
            limits += _limit_of(folder / name)
            if folder == base:
                break
    return min(limits, default=None)


def _limit_of(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    # Version 1 writes a number near 2^63 for "no limit".
    return [int(text)] if text.isdigit() and int(text) < 1 << 60 else []
