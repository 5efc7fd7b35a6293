"""Who calls: the kernel's word about the process at the other end of a unix socket."""

import array
import ctypes
import errno
import os
import select
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from atlas.api.errors import DENIED, AtlasError
from atlas.api.transport import peer_of
from atlas.node.native import Identity

# socket.h; Python has no names for them.
_SO_PEERGROUPS: Final = 59
_SO_PEERPIDFD: Final = 77


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity with which the origin is read and mount folders are resolved."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @property
    def identity(self) -> Identity:
        """As the native module takes it."""
        return self.uid, self.gid, list(self.groups)

    @property
    def owner(self) -> str:
        """ "UID:GID", as a data set's spec names its owner."""
        return f"{self.uid}:{self.gid}"


def caller_of(connection: socket.socket) -> Caller:
    """The process that connected. Raises AtlasError (Denied) for one that cannot be trusted.

    Ids of another user namespace mean nothing here: a process there may have dropped groups that
    deny it access, and an id without a mapping appears as the overflow id, which is everybody's.
    """
    pid, uid, gid = peer_of(connection)
    groups = _groups_of(connection)
    if uid == overflow_id("uid") or overflow_id("gid") in (gid, *groups):
        raise AtlasError(
            DENIED, "the caller has ids that mean nothing here", f"uid {uid}, gid {gid}"
        )
    # uid 0 here is root of this very namespace; others are compared with it.
    if uid != 0 and not _in_own_user_namespace(connection, pid):
        raise AtlasError(DENIED, "the caller lives in another user namespace, or has ended")
    return Caller(pid, uid, gid, groups)


@cache
def overflow_id(kind: str) -> int:
    """The id ("uid" or "gid") that stands for all that have no mapping into this namespace."""
    return int(Path(f"/proc/sys/kernel/overflow{kind}").read_text())


def _groups_of(connection: socket.socket) -> tuple[int, ...]:
    """Supplementary groups; Linux permits 65,536 of them, getsockopt in Python 1,024 bytes."""
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        library = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(65536 * 4)
        length = ctypes.c_uint32(len(buffer))
        result = library.getsockopt(
            connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)
        )
        if result != 0:
            raise OSError(ctypes.get_errno(), "read the caller's groups") from error
        data = buffer.raw[: length.value]
    return tuple(array.array("I", data))


def _in_own_user_namespace(connection: socket.socket, pid: int) -> bool:
    try:
        process = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        # Before Linux 6.5. The id could in theory belong to another process by now.
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return False
    try:
        theirs = os.readlink(f"/proc/{pid}/ns/user")
        # Still alive after the look: then it was this process that was looked at.
        alive = not select.select([process], [], [], 0)[0]
    except OSError:
        return False
    finally:
        os.close(process)
    return alive and theirs == os.readlink("/proc/self/ns/user")
