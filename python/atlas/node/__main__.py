"""The node process: `python -m atlas.node KEEPER_DESCRIPTOR`, started by the keeper.

The link to the keeper, and with it the watchdog's answer, comes first; data sets are served
again while the HTTP server is still being imported, because readers are waiting for them.
"""

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from atlas.api import errors
from atlas.api.environment import Home, own_home, prepare
from atlas.api.errors import AtlasError
from atlas.api.transport import SocketAddress
from atlas.node.descriptors import KeeperLink
from atlas.node.keeper import STOP_SIGNALS

if TYPE_CHECKING:
    from atlas.node.application import Application

logger = logging.getLogger("atlas.node")

LISTEN_KEY: Final = "listen"
_BACKLOG: Final = 128


def main(arguments: list[str]) -> int:
    """Runs a node until it is stopped. Gives the exit status."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    os.umask(0o077)
    descriptor = int(arguments[0])
    os.set_inheritable(descriptor, False)
    keeper = KeeperLink(socket.socket(fileno=descriptor))
    keeper.start()
    try:
        home = own_home()
        prepare(home)
        # Held until the process ends: two nodes on one state would free each other's bytes.
        lock = _lock(home)
        application = _application(home, keeper)
        asyncio.run(_serve(application, home, keeper))
    except AtlasError as error:
        logger.error("cannot start: %s", error)
        keeper.failed(error)
        return 1
    except Exception as error:
        logger.exception("cannot start")
        keeper.failed(AtlasError(errors.INTERNAL, "the node cannot start", repr(error)))
        return 1
    application.shut_down()
    with suppress(OSError):
        home.socket.unlink()
    os.close(lock)
    logger.info("stopped")
    # Threads that hang in a file system, a slow origin's above all, must not hold the exit up.
    sys.stderr.flush()
    os._exit(0)


def _application(home: Home, keeper: KeeperLink) -> "Application":
    from atlas import _native
    from atlas.node.application import Application
    from atlas.node.settings import load

    return Application(home, load(home.settings), _native, _native.Engine(str(home.live)), keeper)


async def _serve(application: "Application", home: Home, keeper: KeeperLink) -> None:
    """Answers requests until a stop is asked for by request or signal."""
    loop = asyncio.get_running_loop()
    restored = loop.run_in_executor(None, application.start)
    listener = _listen(home, keeper)

    from atlas.node.http import HttpServer
    from atlas.node.server import Api

    def begin_stop() -> None:
        keeper.stopping()
        server.should_exit = True

    server = HttpServer(Api(application, begin_stop, os.getpid()).starlette())
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, begin_stop)
    # The keeper has them blocked until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    await restored
    logger.info("ready")
    keeper.ready()
    await server.serve(sockets=[listener])


def _lock(home: Home) -> int:
    descriptor = os.open(
        home.node_lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AtlasError(
            errors.TEMPORARY, "a node of this home is still running", hint="the same command again"
        ) from None
    return descriptor


def _listen(home: Home, keeper: KeeperLink) -> socket.socket:
    """The listening socket: the one that the keeper holds, so that a client which calls while a
    node is being replaced waits instead of failing; else a new one, which the keeper gets."""
    kept = keeper.get(LISTEN_KEY)
    if kept is not None:
        if home.socket.is_socket():
            return socket.socket(fileno=kept)
        os.close(kept)
    with suppress(FileNotFoundError):
        home.socket.unlink()  # of a dead node: the lock is ours
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with SocketAddress(home.socket) as name:
        listener.bind(name)
    # Everybody may call the system's node: who calls is known, and decides what is done.
    os.chmod(home.socket, 0o666 if os.geteuid() == 0 else 0o600)
    listener.listen(_BACKLOG)
    keeper.put(LISTEN_KEY, listener.fileno())
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
