"""The node's end of its link to the keeper: descriptors that outlive the node, and the watchdog."""

import array
import json
import logging
import queue
import socket
import threading
from typing import Any, Final, Protocol

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import KeeperStatus
from atlas.node.keeper import LARGEST_MESSAGE_BYTES

_ANSWER_SECONDS: Final = 20.0
"""The keeper does nothing that lasts; one that is silent for longer is stopped or gone, even on a
machine that has no processor to spare. Without it new mounts do not outlive this node."""

logger = logging.getLogger("atlas.node.descriptors")


class DescriptorStore(Protocol):
    """Where descriptors outlive the node. `put` has taken its copy when it returns."""

    def put(self, key: str, descriptor: int) -> None: ...
    def get(self, key: str) -> int | None: ...
    def drop(self, key: str) -> None: ...
    def held(self) -> list[str]: ...
    def status(self) -> KeeperStatus: ...


class KeeperLink:
    """A SOCK_SEQPACKET pair with the keeper; see atlas.node.keeper for the messages.

    A thread of its own answers pings, whatever the rest of the node is doing. When the keeper
    dies the node goes on without: `put` and `drop` do nothing, `get` and `keys` find nothing.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[dict[str, Any], int | None] | None] = (
            queue.SimpleQueue()
        )
        self._alive = True
        self._pid: int | None = None
        self._restarts = 0

    def start(self) -> None:
        """Starts the answering thread and introduces the node."""
        threading.Thread(target=self._receive, name="atlas-watchdog", daemon=True).start()
        answer = self._ask({"op": "hello"})
        if answer is not None:
            self._pid = int(answer[0]["pid"])
            self._restarts = int(answer[0]["restarts"])

    def put(self, key: str, descriptor: int) -> None:
        """Leaves a copy of `descriptor`; acknowledged when this returns.

        Raises AtlasError (Temporary) where the keeper lives but does not answer.
        """
        self._ask({"op": "put", "key": key}, descriptor)

    def get(self, key: str) -> int | None:
        """A copy of the descriptor left under `key`, owned by the caller."""
        answer = self._ask({"op": "get", "key": key})
        return None if answer is None else answer[1]

    def drop(self, key: str) -> None:
        """The keeper closes its copy."""
        self._ask({"op": "drop", "key": key})

    def held(self) -> list[str]:
        answer = self._ask({"op": "keys"})
        return [] if answer is None else [str(key) for key in answer[0]["keys"]]

    def ready(self) -> None:
        """Whoever started the node may use it."""
        self._tell({"op": "ready"})

    def failed(self, error: AtlasError) -> None:
        """The node cannot start; the error goes to whoever waits for it."""
        self._tell({"op": "failed", **error.body()})

    def stopping(self) -> None:
        """The node ends on purpose: no other is to be started."""
        self._tell({"op": "stopping"})

    def status(self) -> KeeperStatus:
        return KeeperStatus(pid=self._pid, alive=self._alive, restarts=self._restarts)

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._link.send(json.dumps(message).encode())
        except OSError:
            self._alive = False

    def _ask(
        self, message: dict[str, Any], descriptor: int | None = None
    ) -> tuple[dict[str, Any], int | None] | None:
        rights = []
        if descriptor is not None:
            payload = array.array("i", [descriptor])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)]
        with self._asking:
            if not self._alive:
                return None
            try:
                self._link.sendmsg([json.dumps(message).encode()], rights)
            except OSError:
                self._alive = False
                return None
            try:
                return self._answers.get(timeout=_ANSWER_SECONDS)
            except queue.Empty:
                # A late answer would be taken for that of the next question.
                self._alive = False
                self._link.shutdown(socket.SHUT_RDWR)
                raise AtlasError(
                    errors.TEMPORARY, "the keeper of the node does not answer"
                ) from None

    def _receive(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self._link.recvmsg(
                    LARGEST_MESSAGE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
            except OSError:
                data, ancillary = b"", []
            if not data:
                break
            message = json.loads(data)
            if message["op"] == "ping":
                self._tell({"op": "pong"})
                continue
            descriptor = None
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptor = array.array("i", payload)[0]
            self._answers.put((message, descriptor))
        self._alive = False
        self._answers.put(None)
        logger.warning("the keeper is gone: mounts would not survive this node's death")
