"""Unix sockets at any path: names longer than the kernel's 107 bytes, and who is behind one."""

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Final

_LONGEST_NAME: Final = 107
"""Bytes of sun_path without its closing zero (unix(7))."""


class SocketAddress:
    """A name for `path` that fits into sun_path, as long as the object is open.

    A long path goes through a descriptor of its folder: /proc/self/fd/N/NAME.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        encoded = os.fsencode(path)
        if len(encoded) <= _LONGEST_NAME:
            self.name = encoded
            return
        self._descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.name = b"/proc/self/fd/%d/%s" % (self._descriptor, os.fsencode(path.name))

    def __enter__(self) -> bytes:
        return self.name

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def connect(path: Path, timeout_seconds: float | None) -> socket.socket:
    """A stream connection to the socket at `path`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Of the kernel's: with Python's the call would fail at once where the queue of the one who
        # listens is full, instead of waiting for its turn.
        if timeout_seconds is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_seconds))
        with SocketAddress(path) as name:
            try:
                connection.connect(name)
            except BlockingIOError:
                raise TimeoutError(errno.ETIMEDOUT, "no connection in time") from None
        connection.settimeout(timeout_seconds)
    except BaseException:
        connection.close()
        raise
    return connection


def _timeval(seconds: float) -> bytes:
    # Zero would mean no limit.
    microseconds = max(1, int(seconds * 1e6))
    return struct.pack("@ll", *divmod(microseconds, 1_000_000))


def peer_of(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the process that listens at the other end (or connected to ours).

    The kernel noted them when it called listen() or connect(): they cannot be forged.
    """
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return pid, uid, gid
