"""What `atlasctl doctor` looks at. Nothing here changes or starts anything."""

from __future__ import annotations

import os
import platform
import shlex
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atlas.api import errors, keeper, models
from atlas.api.environment import Home, client_home, own_home
from atlas.api.errors import AtlasError
from atlas.api.units import format_size
from atlas.api.version import VERSION
from atlas.cli import machine
from atlas.cli.run import Run
from atlas.cli.session import Client, running

OK: Final = "OK"
WARN: Final = "WARN"
FAIL: Final = "FAIL"

_SMALL_TMPFS_BYTES = 256 << 20
_STAT_SECONDS = 2.0
# What a user goes without, where the machine lacks it: nothing but speed or comfort, mostly.
_LACKS = {
    "live": "no data set can be served",
    "resend": "reads that wait while the node dies may hang or fail",
    "lazy": "data sets are served live until they are sealed: right, but slower to open files",
    "sealed": "data sets that are cached whole still need a living node: right, but slower",
    "swap": "a new front covers the old one instead of taking its place: the old one stays mounted"
    " below, and nothing else changes",
}
# Conditions that mean trouble when they have this status; what the scan says is looked at apart.
_TROUBLES = {"Ready": "False", "OriginReachable": "False", "Degraded": "True"}


@dataclass(frozen=True)
class Check:
    """One finding: `cause` says what was seen, `hint` is a command that helps."""

    name: str
    state: str
    cause: str
    hint: str | None = None

    def plain(self) -> dict[str, str | None]:
        """The finding as in JSON."""
        return {"name": self.name, "state": self.state, "cause": self.cause, "try": self.hint}


@dataclass
class _Seen:
    """What the node says, as far as it does."""

    node: models.Node | None = None
    datasets: Sequence[models.Dataset] = ()
    mounts: Sequence[models.Mount] = ()


def all_checks(run: Run) -> list[Check]:
    """All findings, the machine's first."""
    home = client_home()
    seen = _Seen()
    node_checks = [*check_node(run, home, seen)]
    return [
        check_fuse(Path("/dev/fuse"), seen.node),
        check_rights(home, seen.node),
        *check_kernel(seen.node),
        check_tmpfs(Path("/dev/shm")),
        check_memory(seen.node, Path("/")),
        *check_folders(home),
        *node_checks,
        *(check_datasets(seen.datasets) if seen.node else ()),
        *check_mounts(seen.mounts),
    ]


def check_fuse(device: Path, node: models.Node | None) -> Check:
    """/dev/fuse, without which nothing can be mounted."""
    hint = "modprobe fuse (in a container: docker run --device /dev/fuse --cap-add SYS_ADMIN)"
    try:
        mode = device.stat().st_mode
    except OSError as error:
        return Check("fuse", FAIL, f"{device}: {error.strerror}", hint)
    if not stat.S_ISCHR(mode):
        return Check("fuse", FAIL, f"{device} is no device", hint)
    if os.access(device, os.R_OK | os.W_OK):
        return Check("fuse", OK, f"{device} is there")
    if node is not None:
        return Check("fuse", OK, f"{device} is the node's; you may not open it, nor need to")
    return Check("fuse", FAIL, f"{device} may not be opened by you", "sudo atlasctl node start")


def check_rights(home: Home, node: models.Node | None) -> Check:
    """The right to mount, which a node of one's own needs."""
    if machine.may_mount():
        return Check("rights", OK, "this user may mount")
    if node is not None and home != own_home():
        return Check("rights", OK, "the system's node mounts for you")
    return Check("rights", FAIL, "mounting needs root (CAP_SYS_ADMIN)", "sudo atlasctl node start")


def check_kernel(node: models.Node | None) -> Iterator[Check]:
    """What the kernel can do: as the node found out, else tried here."""
    release = platform.release()
    if node is None:
        answer = machine.try_mount()
        if answer is None:
            yield Check("kernel", OK, f"Linux {release}; a mount was made and dropped")
        else:
            yield Check("kernel", WARN, f"Linux {release}; {answer}", "sudo atlasctl node start")
        return
    missing = {
        name: answer for name, answer in node.status.capabilities.items() if answer != "available"
    }
    if not missing:
        yield Check("kernel", OK, f"Linux {release}; all that the node tried works")
    for name, answer in missing.items():
        lack = f" ({_LACKS[name]})" if name in _LACKS else ""
        yield Check(
            "kernel", WARN, f"Linux {release}; {name}: {answer}{lack}", "atlasctl node describe"
        )


def check_tmpfs(folder: Path) -> Check:
    """The file system of the MEM tier and of the live bitmaps."""
    if machine.file_system(folder) != "tmpfs":
        return Check(
            "tmpfs", FAIL, f"{folder} is no tmpfs", f"mount -t tmpfs -o mode=1777 tmpfs {folder}"
        )
    space = os.statvfs(folder)
    total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    cause = f"{folder} has {format_size(free)} free of {format_size(total)}"
    if total < _SMALL_TMPFS_BYTES:
        hint = f"mount -o remount,size=50% {folder} (in a container: docker run --shm-size 8g)"
        return Check("tmpfs", WARN, cause, hint)
    return Check("tmpfs", OK, cause)


def check_memory(node: models.Node | None, root: Path) -> Check:
    """The memory limit of the node's control group, which MEM tiers count against."""
    limit = machine.memory_limit(node.status.pid if node else None, root)
    total = machine.memory_total(root)
    granted = node.status.limits.memory_granted_bytes if node else 0
    bound = min(limit, total) if limit is not None else total
    where = "a limit of the control group" if limit is not None and limit < total else "memory"
    cause = f"{format_size(granted)} granted to MEM tiers; {format_size(bound)} is {where}"
    if granted > bound * 9 // 10:
        return Check(
            "memory", WARN, f"{cause}; full caches would leave too little", "atlasctl cache list"
        )
    return Check("memory", OK, cause)


def check_folders(home: Home) -> Iterator[Check]:
    """The node's folders: there, ours, and not open to others. Those of another user's node are
    not ours to judge."""
    if home != own_home():
        return
    for name, folder, mode in (
        ("run folder", home.run, 0o755),
        ("state folder", home.state, 0o700),
        ("log folder", home.log, 0o700),
    ):
        yield _check_folder(name, folder, mode)


def _check_folder(name: str, folder: Path, mode: int) -> Check:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        above = next(parent for parent in folder.parents if parent.exists())
        read_only = os.statvfs(above).f_flag & os.ST_RDONLY
        if os.access(above, os.W_OK | os.X_OK) and not read_only:
            return Check(name, OK, f"{folder} is made by the first start")
        return Check(
            name, FAIL, f"{folder} cannot be made: {above} is not writable", f"ls -ld {above}"
        )
    except OSError as error:
        return Check(name, FAIL, f"{folder}: {error.strerror}", f"ls -ld {folder}")
    if not stat.S_ISDIR(status.st_mode):
        return Check(name, FAIL, f"{folder} is no folder", f"ls -ld {folder}")
    if status.st_uid != os.geteuid():
        return Check(name, FAIL, f"{folder} belongs to uid {status.st_uid}", f"ls -ld {folder}")
    open_bits = stat.S_IMODE(status.st_mode) & ~mode
    if open_bits:
        return Check(
            name,
            WARN,
            f"{folder} has mode {stat.S_IMODE(status.st_mode):04o}, more than {mode:04o}",
            f"chmod {mode:04o} {folder}",
        )
    free = os.statvfs(folder)
    # The flag besides the right: root has every right, also where nothing can be written.
    if free.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
        return Check(
            name, FAIL, f"{folder} cannot be written to", f"findmnt -T {shlex.quote(str(folder))}"
        )
    if free.f_bavail * free.f_frsize < 16 << 20 or (free.f_files and not free.f_favail):
        return Check(name, FAIL, f"{folder} is on a full disk", f"df -h {folder}")
    return Check(name, OK, f"{folder}")


def check_node(run: Run, home: Home, seen: _Seen) -> Iterator[Check]:
    """Whether a node answers, and in the same version. Fills `seen`."""
    log = f"tail {shlex.quote(str(home.node_log))}"
    try:
        client = running(run)
        if client is None:
            if home == own_home() and keeper.is_locked(home):
                yield Check(
                    "node",
                    FAIL,
                    f"its keeper runs, nothing listens at {home.socket}",
                    "atlasctl node stop",
                )
            else:
                yield Check("node", OK, "not running; the first command that needs it starts it")
            return
        seen.node = client.node()
        _see(client, seen)
    except AtlasError as error:
        if error.kind is errors.TIMED_OUT and run.remaining() == 0:
            raise
        name = "version" if error.kind is errors.VERSION_MISMATCH else "node"
        yield Check(name, FAIL, str(error), error.hint or log)
        return
    status = seen.node.status
    yield Check("node", OK, f"pid {status.pid} answers at {status.socket}")
    if status.keeper.alive:
        yield Check("keeper", OK, f"pid {status.keeper.pid} watches the node")
    else:
        yield Check(
            "keeper",
            WARN,
            "gone: mounts would not survive the death of the node",
            "atlasctl node stop && atlasctl node start",
        )
    if status.version == VERSION:
        yield Check("version", OK, f"command and node are {VERSION}")
    else:
        yield Check(
            "version",
            WARN,
            f"the command is {VERSION}, the node {status.version}; they fit together",
            "atlasctl node stop && atlasctl node start",
        )


def _see(client: Client, seen: _Seen) -> None:
    seen.datasets = client.datasets()
    seen.mounts = client.mounts()


def check_datasets(datasets: Sequence[models.Dataset]) -> Iterator[Check]:
    """Data sets that do not serve, or not well; one line for all that do."""
    well = 0
    for dataset in datasets:
        name, status = dataset.metadata.name, dataset.status
        troubles = [
            f"{condition.type}: {condition.message or condition.reason}"
            for condition in status.conditions
            if condition.status == _TROUBLES.get(condition.type)
        ]
        hint = f"atlasctl cache describe {name}"
        label = f"data set {name}"
        if status.phase == "Failed":
            yield Check(label, FAIL, "; ".join(["Failed", *troubles]), hint)
        elif status.phase != "Bound" or status.scan.state in ("Failed", "Partial") or troubles:
            scan = f"scan {status.scan.state}" + (
                f" ({status.scan.error})" if status.scan.error else ""
            )
            yield Check(label, WARN, "; ".join([status.phase, scan, *troubles]), hint)
        else:
            well += 1
    if well or not datasets:
        yield Check("data sets", OK, f"{well} serve well" if well else "none")


def check_mounts(known: Sequence[models.Mount]) -> Iterator[Check]:
    """Atlas mounts of this machine that nobody answers any more."""
    paths = machine.atlas_mounts(Path("/proc/self/mountinfo"))
    served = {mount.spec.path for mount in known}
    dead = 0
    for path in paths:
        trouble = _stat_trouble(path)
        if trouble is not None:
            dead += 1
            yield Check(f"mount {path}", FAIL, trouble, f"umount -l {shlex.quote(path)}")
    lost = [path for path in sorted(served) if path not in paths]
    for path in lost:
        yield Check(
            f"mount {path}",
            WARN,
            "the node shows it, but it is not among this process's mounts (another namespace)",
            "atlasctl cache mounts",
        )
    if not dead:
        yield Check("mounts", OK, f"{len(paths)} Atlas mounts on this machine, none of them dead")


def _stat_trouble(path: str) -> str | None:
    """Why a mount's root cannot be looked at. A thread asks: a file system may never answer."""
    troubles: list[str | None] = []

    def look() -> None:
        try:
            os.statvfs(path)
        except PermissionError:
            troubles.append(None)  # somebody else's, and alive enough to say so
        except OSError as error:
            troubles.append(error.strerror or str(error))
        else:
            troubles.append(None)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_STAT_SECONDS)
    return troubles[0] if troubles else f"no answer within {_STAT_SECONDS:g} s"
