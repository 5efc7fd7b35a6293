"""uvicorn on a unix socket, with the kernel's word about who calls on every connection."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Generator
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from atlas.api.errors import DENIED, AtlasError
from atlas.api.transport import peer_of
from atlas.node.caller import Caller, caller_of

CONNECTIONS_OF_A_USER: Final = 128
"""At a time, for each user but root and the node's own: nobody uses up the node's descriptors."""
_connections: Counter[int] = Counter()


class CallerProtocol(H11Protocol):
    """HTTP/1.1 whose requests carry `state.caller`: a Caller, or the error that it is none."""

    _counted: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        uid = peer_of(transport.get_extra_info("socket"))[1]
        if uid not in (0, os.geteuid()):
            if _connections[uid] >= CONNECTIONS_OF_A_USER:
                # Nothing is asked yet: the client sees a connection that broke, and tries again.
                transport.abort()
            else:
                _connections[uid] += 1
                self._counted = uid
        super().connection_made(transport)
        caller: Caller | AtlasError
        try:
            caller = caller_of(transport.get_extra_info("socket"))
        except AtlasError as error:
            caller = error
        except OSError as error:
            caller = AtlasError(DENIED, "the caller cannot be told", error.strerror)
        # A copy: the original is shared by all connections.
        self.app_state = {**self.app_state, "caller": caller}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._counted is not None:
            _connections[self._counted] -= 1
            if not _connections[self._counted]:
                del _connections[self._counted]


class HttpServer(Server):
    """A server that leaves signals to the node and never hangs at its end."""

    def __init__(self, application: Any) -> None:
        super().__init__(
            Config(
                application,
                http=CallerProtocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=2,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """The node has handlers of its own."""
        yield
