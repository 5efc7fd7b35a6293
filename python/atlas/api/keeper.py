"""The keeper as a process: found by its lock, and ended, where the node itself cannot be asked."""

import fcntl
import os
import select
import signal
from contextlib import suppress

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError


def is_locked(home: Home) -> bool:
    """Whether a keeper of this home lives. Nothing is waited for, nothing changed."""
    try:
        descriptor = os.open(home.keeper_lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def stop_keeper(home: Home, timeout_seconds: float) -> int | None:
    """Ends the keeper of this home, and with it the node, whose mounts go whoever uses them.

    Gives its pid, None where no keeper lives. Raises AtlasError: Temporary where the one that lives
    cannot be told, Denied, TimedOut.
    """
    if not is_locked(home):
        return None
    pid, process = _open(home)
    try:
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except ProcessLookupError:
            return pid
        except PermissionError as error:
            raise AtlasError(errors.DENIED, f"the keeper (pid {pid}) is not yours") from error
        if not select.select([process], [], [], timeout_seconds)[0]:
            raise AtlasError(
                errors.TIMED_OUT,
                f"the keeper (pid {pid}) has not ended within {timeout_seconds:g} s",
                hint=f"tail {home.node_log}",
            )
    finally:
        os.close(process)
    return pid


def _open(home: Home) -> tuple[int, int]:
    """(pid, process descriptor) of the keeper. The number in the lock's file may be a dead one's,
    and another process's by now: only one that has that very file open is taken for it."""
    with suppress(OSError, ValueError):
        pid = int(home.keeper_lock.read_text())
        # First: from here on the number cannot become another process's.
        process = os.pidfd_open(pid)
        with suppress(OSError):
            if _has_open(pid, home.keeper_lock.stat()):
                return pid, process
        os.close(process)
    raise AtlasError(
        errors.TEMPORARY,
        "a keeper of this node runs that cannot be found",
        f"it holds the lock {home.keeper_lock}, which names no process that does",
        hint="the same command again",
    )


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), wanted):
                return True
    return False
