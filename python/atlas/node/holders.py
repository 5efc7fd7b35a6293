"""Who uses a mount: found in /proc, without a question to the file system itself.

A stat of an open file would be a FUSE request, which a slow origin could hold; mount ids, device
numbers and the targets of /proc links come from the kernel's own memory.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from atlas import _native
from atlas.api.models import Holder
from atlas.api.units import printable

_COMMAND_LENGTH: Final = 120
_MOUNT_ID: Final = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)


def find_by_device(
    devices: Collection[str], viewer_uid: int, ignore: Collection[int] = ()
) -> dict[str, list[Holder]]:
    """Processes that use these file systems ("MAJOR:MINOR"), for each by pid, through whatever
    mount, in whatever mount namespace. `viewer_uid` decides whose arguments are shown: a user sees
    those of the own processes, root all; of others only the program's name."""
    found: dict[str, dict[int, str]] = {device: {} for device in devices}
    namespaces = {_link("/proc/self/ns/mnt")}
    for pid in _processes(ignore):
        for device, use in _uses_of_devices(pid, found):
            found[device].setdefault(pid, use)
        namespace = _link(f"/proc/{pid}/ns/mnt")
        if namespace and namespace not in namespaces:
            namespaces.add(namespace)
            for device in _kept_in_namespace(pid):
                if device in found:
                    found[device].setdefault(pid, "mounted in its mount namespace")
    return {device: _holders(uses, viewer_uid) for device, uses in found.items()}


def find_by_mount(
    mounts: Mapping[int, str], viewer_uid: int, ignore: Collection[int] = ()
) -> list[Holder]:
    """Processes that use these mounts (the device of each by its id), and not others of the same
    file systems; otherwise as `find_by_device`."""
    found: dict[int, str] = {}
    for pid in _processes(ignore):
        use = next(_uses_of_mounts(pid, mounts), None)
        if use is not None:
            found[pid] = use
    return _holders(found, viewer_uid)


def _processes(ignore: Collection[int]) -> list[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return sorted(pid for pid in pids if pid not in ignore)


def _holders(uses: dict[int, str], viewer_uid: int) -> list[Holder]:
    return [
        Holder(pid=pid, command=command_of(pid, viewer_uid), use=use)
        for pid, use in sorted(uses.items())
    ]


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


def _links(pid: int) -> Iterator[tuple[str, str]]:
    """What a process holds open: links of /proc, with their use. One that ends meanwhile holds
    nothing."""
    for name, use in (("cwd", "working folder"), ("root", "root folder")):
        yield f"/proc/{pid}/{name}", use
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for descriptor in descriptors:
        yield f"/proc/{pid}/fd/{descriptor}", "open file"


def _uses_of_devices(pid: int, devices: Collection[str]) -> Iterator[tuple[str, str]]:
    for link, use in _links(pid):
        device = _native.device_behind(link)
        if device is not None and (name := "{}:{}".format(*device)) in devices:
            yield name, use
    for device_name, _ in _mappings(pid):
        if device_name in devices:
            yield device_name, "mapped file"


def _uses_of_mounts(pid: int, mounts: Mapping[int, str]) -> Iterator[str]:
    for link, use in _links(pid):
        if _mount_id_behind(link) in mounts:
            yield use
    devices = set(mounts.values())
    for device, addresses in _mappings(pid):
        # Of a mapping, which may be all that is left of a descriptor, the device comes for less.
        if device in devices and _mount_id_behind(f"/proc/{pid}/map_files/{addresses}") in mounts:
            yield "mapped file"


def _mappings(pid: int) -> Iterator[tuple[str, str]]:
    """The device and the addresses of each mapped file (proc(5), maps)."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        addresses, _, _, device, _ = line.split(None, 4)
        if device != b"00:00":
            major, minor = (int(part, 16) for part in device.split(b":"))
            yield f"{major}:{minor}", addresses.decode("ascii")


def _kept_in_namespace(pid: int) -> Iterator[str]:
    """The devices of the mounts that only the process's own mount namespace can let go of: one that
    follows ours (shared or slave) does when we do."""
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(b" ")
        options = fields[6 : fields.index(b"-")]
        if not any(option.startswith((b"shared:", b"master:")) for option in options):
            yield fields[2].decode("ascii")


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
