"""uvicorn on a unix socket, with the kernel's word about who calls on every connection."""

import asyncio
import contextlib
from collections.abc import Generator
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server

from atlas.api.errors import DENIED, AtlasError
from atlas.node.caller import Caller, caller_of


class CallerProtocol(H11Protocol):
    """HTTP/1.1 whose requests carry `state.caller`: a Caller, or the error that it is none."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
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
