"""Who uses a mount: found in /proc, without a question to the file system itself.

A stat of an open file would be a FUSE request, which a slow origin could hold; mount ids, device
numbers and the targets of /proc links come from the kernel's own memory.
"""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from atlas.api.models import Holder
from atlas.api.units import printable

_COMMAND_LENGTH: Final = 120
_MOUNT_ID: Final = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)


@dataclass(slots=True)
class Targets:
    """What to look for: mounts by id, and their file system by device ("MAJOR:MINOR").

    With `whole` any use of the device counts, also in other mount namespaces; without, only that
    of the mounts named: of one mount among several. An id that was remembered may have become that
    of another mount: those found in a mount table with another device are left out.
    """

    mount_ids: set[int]
    device: str
    whole: bool
    _seen_namespaces: set[str] = field(default_factory=set)


def find(targets: Targets, viewer_uid: int, ignore: Collection[int] = ()) -> list[Holder]:
    """Processes that keep the mounts busy, by pid. `viewer_uid` decides whose arguments are shown:
    a user sees those of the own processes, root all; of others only the program's name."""
    holders: list[Holder] = []
    targets._seen_namespaces.add(_link("/proc/self/ns/mnt"))
    _leave_out_others(_mount_table("self"), targets)
    processes = sorted(
        int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) not in ignore
    )
    if targets.whole:
        for pid in processes:
            holders.extend(_in_other_namespace(pid, targets, viewer_uid))
    for pid in processes:
        use = next(_uses(pid, targets), None)
        if use is not None:
            holders.append(Holder(pid=pid, command=command_of(pid, viewer_uid), use=use))
    return sorted(holders, key=lambda holder: holder.pid)


def command_of(pid: int, viewer_uid: int) -> str:
    """The command line of a process, or its program's name where `viewer_uid` may not see more;
    control characters are escaped. Empty for one that has ended."""
    try:
        if viewer_uid in (0, os.stat(f"/proc/{pid}").st_uid):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            text = " ".join(map(printable, arguments))
            if text:
                return text if len(text) <= _COMMAND_LENGTH else text[: _COMMAND_LENGTH - 3] + "..."
        return printable(Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n"))
    except OSError:
        return ""


def _uses(pid: int, targets: Targets) -> Iterator[str]:
    """How a process uses the mounts. One that ends meanwhile uses nothing."""
    for name, use in (("cwd", "working folder"), ("root", "root folder")):
        if _mount_id_behind(f"/proc/{pid}/{name}") in targets.mount_ids:
            yield use
    try:
        descriptors = os.listdir(f"/proc/{pid}/fdinfo")
    except OSError:
        return
    for descriptor in descriptors:
        if _mount_id_in(f"/proc/{pid}/fdinfo/{descriptor}") in targets.mount_ids:
            yield "open file"
    try:
        maps = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return
    major, minor = map(int, targets.device.split(":"))
    wanted = b" %02x:%02x " % (major, minor)
    for line in maps.splitlines():
        if wanted in line and (targets.whole or _is_mapped_from(pid, line, targets)):
            yield "mapped file"


def _is_mapped_from(pid: int, line: bytes, targets: Targets) -> bool:
    addresses = line.split(b" ", 1)[0].decode("ascii")
    return _mount_id_behind(f"/proc/{pid}/map_files/{addresses}") in targets.mount_ids


def _in_other_namespace(pid: int, targets: Targets, viewer_uid: int) -> Iterator[Holder]:
    """The mounts as another mount namespace has them, looked at once per namespace.

    One that follows ours (shared or slave) lets go when we do, and is no holder; but its
    processes' open files are, so the ids of its mounts join those to look for.
    """
    namespace = _link(f"/proc/{pid}/ns/mnt")
    if not namespace or namespace in targets._seen_namespaces:
        return
    targets._seen_namespaces.add(namespace)
    table = _mount_table(str(pid))
    _leave_out_others(table, targets)
    for fields in table:
        if fields[2].decode("ascii") != targets.device:
            continue
        targets.mount_ids.add(int(fields[0]))
        options = fields[6 : fields.index(b"-")]
        if not any(option.startswith((b"shared:", b"master:")) for option in options):
            yield Holder(
                pid=pid,
                command=command_of(pid, viewer_uid),
                use="mounted in its mount namespace",
            )
            return


def _mount_table(process: str) -> list[list[bytes]]:
    """The fields of each line (proc(5), mountinfo); none for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/mountinfo").read_bytes().splitlines()
    except OSError:
        return []
    return [fields for line in lines if len(fields := line.split(b" ")) >= 7]


def _leave_out_others(table: list[list[bytes]], targets: Targets) -> None:
    targets.mount_ids.difference_update(
        int(fields[0]) for fields in table if fields[2].decode("ascii") != targets.device
    )


def _mount_id_behind(link: str) -> int:
    """The id of the mount that a /proc link leads to; -1 for none."""
    try:
        descriptor = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        return _mount_id_in(f"/proc/self/fdinfo/{descriptor}")
    finally:
        os.close(descriptor)


def mount_id_of(descriptor: int) -> int:
    """The id of the mount that an open descriptor lies on; -1 where /proc does not say."""
    return _mount_id_in(f"/proc/self/fdinfo/{descriptor}")


def _mount_id_in(path: str) -> int:
    try:
        match = _MOUNT_ID.search(Path(path).read_bytes())
    except OSError:
        return -1
    return int(match[1]) if match else -1


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
