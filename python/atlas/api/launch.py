"""Starting a node on first use: at most one, and no polling.

The node is a child of the keeper, which is what is started here. Both inherit the environment,
from which they find the same home.
"""

import errno
import fcntl
import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from atlas.api import errors
from atlas.api.client import DEFAULT_TIMEOUT_SECONDS, NodeAbsentError, NodeClient
from atlas.api.environment import Home, own_folder, own_home
from atlas.api.errors import AtlasError
from atlas.api.units import printable

READY_DESCRIPTOR: Final = 3
"""The keeper finds its end of the pipe here."""
_LARGEST_LOG_BYTES: Final = 16 << 20


def ensure_node(home: Home, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> NodeClient:
    """A client of the node at `home`, which is started if none runs there.

    Only the user's own home can be started; `home` of the system's node must be running already.
    Raises AtlasError: what kept the node from starting, or TimedOut.
    """
    client = NodeClient(home, timeout_seconds)
    try:
        client.version()
    except NodeAbsentError:
        start_node(home, timeout_seconds)
        client.version()
    return client


def start_node(home: Home, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> bool:
    """Starts the node at `home` and waits until it serves. False where one served already.

    Raises AtlasError: what the node reported, NotReady with the log's place, TimedOut, or what
    keeps the node's folders from being made.
    """
    if home != own_home():
        raise AtlasError(
            errors.NOT_READY,
            "the system's node is not running, and only root may start it",
            f"nothing listens at {home.socket}",
        )
    try:
        own_folder(home.run, 0o755)
        own_folder(home.log, 0o700)
        _refuse_nobody()
        return _start_locked(home, time.monotonic() + timeout_seconds)
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise AtlasError(
            errors.DENIED if denied else errors.INPUT_OUTPUT,
            "the node cannot be started",
            printable(str(error)),
            hint="atlasctl doctor",
        ) from error


def _refuse_nobody() -> None:
    """A node of an id that every unmapped id looks like could not tell its owner from others: it
    would refuse every command, also the one that stops it."""
    for kind, identity in (("uid", os.geteuid()), ("gid", os.getegid())):
        nobody = int(Path(f"/proc/sys/kernel/overflow{kind}").read_text())
        if identity == nobody:
            raise AtlasError(
                errors.DENIED,
                "no node is started here",
                f"{kind} {nobody} is what every id without a meaning here looks like",
                hint="run the command as another user",
            )


def _start_locked(home: Home, deadline: float) -> bool:
    with _locked(home.start_lock, deadline):
        try:
            # Another command may have started it while this one waited for the lock.
            NodeClient(home, max(0.1, deadline - time.monotonic())).version()
        except NodeAbsentError:
            pass
        else:
            return False
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                starter = _spawn_keeper(home, writing)
            finally:
                os.close(writing)
            # It forks the keeper and ends at once, so that no child is left to be waited for.
            os.waitpid(starter, 0)
            _await_ready(home, reading, deadline)
        finally:
            os.close(reading)
    return True


def _spawn_keeper(home: Home, writing: int) -> int:
    log = _open_log(home.node_log)
    try:
        return os.posix_spawn(
            sys.executable,
            [
                sys.executable,
                # Without the working folder in the search path: it may be anybody's, and root is
                # the one who starts the system's node.
                "-P",
                "-m",
                "atlas.node.keeper",
                str(home.keeper_lock),
                str(READY_DESCRIPTOR),
            ],
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, writing, READY_DESCRIPTOR),
            ],
            setsid=True,
        )
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """The caller's environment, in which the child finds this very package."""
    environment = dict(os.environ)
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(
        [package, *filter(None, [environment.get("PYTHONPATH")])]
    )
    return environment


def _open_log(path: Path) -> int:
    """The log, for appending; one that has grown large becomes `node.log.1` first."""
    try:
        if path.stat().st_size > _LARGEST_LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _await_ready(home: Home, reading: int, deadline: float) -> None:
    message = b""
    while not message.endswith(b"\n"):
        remaining = max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], remaining)[0]:
            raise AtlasError(
                errors.TIMED_OUT, "the node has not become ready in time",
                hint=f"tail {home.node_log}",
            )  # fmt: skip
        part = os.read(reading, 65536)
        if not part:
            raise AtlasError(
                errors.NOT_READY, "the node ended before it was ready", hint=f"tail {home.node_log}"
            )
        message += part
    answer = json.loads(message)
    if "error" in answer:
        raise errors.from_body(answer, 503)


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """An exclusive lock on the file at `path`. Raises AtlasError (TimedOut) at the deadline."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait_for_lock(descriptor, deadline)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, deadline: float) -> None:
    """Waits in a thread, since flock() has no time limit. A thread that is left behind does no
    harm: its caller closes the descriptor, so that a lock which comes too late is gone at once."""
    waiting = threading.Thread(target=fcntl.flock, args=(descriptor, fcntl.LOCK_EX), daemon=True)
    waiting.start()
    waiting.join(max(0.0, deadline - time.monotonic()))
    if waiting.is_alive():
        raise AtlasError(
            errors.TIMED_OUT,
            "another command is starting the node, and has not done so in time",
            hint="the same command again",
        )
