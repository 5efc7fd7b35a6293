"""A few child processes, each with a pipe to its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self


class WorkerError(Exception):
    """A worker process failed or died; the message says on what and why."""


def _main(
    connection: Connection, worker: int, serve: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    # The parent ends its workers; a Ctrl-C of the whole group must not print their tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(None)
    with contextlib.suppress(EOFError):
        serve(connection, worker, *arguments)


class Workers:
    """`count` processes, as a context; all are up when it is entered.

    Each runs ``serve(connection, worker, *arguments)``, which answers what comes until the pipe
    closes (EOFError).
    """

    def __init__(self, count: int, serve: Callable[..., None], *arguments: Any) -> None:
        self._processes: list[BaseProcess] = []
        self.connections: list[Connection] = []
        # Not fork: the parent may run threads, and a worker shares nothing with it.
        context = multiprocessing.get_context("spawn")
        try:
            for worker in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_main, args=(theirs, worker, serve, arguments), daemon=True
                )
                process.start()
                theirs.close()
                self._processes.append(process)
                self.connections.append(ours)
            for connection in self.connections:
                self.receive(connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, also in the midst of a read."""
        for process in self._processes:
            process.kill()
        for connection in self.connections:
            connection.close()
        for process in self._processes:
            process.join()

    def receive(self, connection: Connection) -> Any:
        """The next answer of a worker; text is an error. Raises WorkerError."""
        try:
            answer = connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerError("a worker process died") from None
        if isinstance(answer, str):
            raise WorkerError(answer)
        return answer
