"""Processes that a SIGKILL does not end.

A thread that waits for an answer on a FUSE connection cannot be killed once the request was taken.
Where its own process had taken it (it mounts images over its own connection), nobody else answers:
the thread keeps the descriptors of the process, so that the connection never ends either. Aborting
the connection frees it. Source: fs/fuse/dev.c, request_wait_answer.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_CONNECTION: Final = re.compile(rb"^fuse_connection:\s*(\d+)$", re.MULTILINE)
_CONTROL: Final = Path("/sys/fs/fuse/connections")


def connection_of(descriptor: int) -> int | None:
    """The number of the FUSE connection behind a descriptor; None where there is none, or where the
    kernel does not tell."""
    return _connection_in(Path(f"/proc/self/fdinfo/{descriptor}"))


def connections_of(process: int) -> set[int]:
    """The FUSE connections that a process has open, also one of which only a thread is left."""
    found = set()
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:
        return set()
    for thread in threads:
        folder = Path(f"/proc/{process}/task/{thread}/fdinfo")
        with suppress(OSError):
            found |= {_connection_in(folder / name) for name in os.listdir(folder)}
    return {connection for connection in found if connection is not None}


def waits_for_fuse(process: int) -> bool:
    """Whether a thread of the process waits for an answer of a FUSE file system."""
    for folder in Path(f"/proc/{process}/task").glob("*"):
        for name in ("wchan", "stack"):
            with suppress(OSError):
                if b"request_wait_answer" in (folder / name).read_bytes():
                    return True
    return False


def abort(connections: Iterable[int]) -> list[int]:
    """Ends FUSE connections: whoever waits for them, or asks later, gets an error. Gives those for
    which that worked."""
    done = []
    for connection in connections:
        with suppress(OSError):
            (_CONTROL / str(connection) / "abort").write_text("1")
            done.append(connection)
    return done


def _connection_in(path: Path) -> int | None:
    try:
        match = _CONNECTION.search(path.read_bytes())
    except OSError:
        return None
    return int(match[1]) if match else None
