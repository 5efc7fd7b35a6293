"""Reader processes that open, stat, read and close files, at the speed of C or as Python does."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from atlas import _native
from atlas.bench.workers import Workers


@dataclass(frozen=True)
class Pass:
    """All readers reading all files once each, every reader in an order of its own.

    `seconds` is from the first start to the last end; `cpu_seconds` is the readers' alone.
    """

    files: int
    bytes: int
    seconds: float
    cpu_seconds: float

    @property
    def microseconds_per_file(self) -> float:
        return 1e6 * self.seconds / self.files

    @property
    def cpu_microseconds_per_file(self) -> float:
        return 1e6 * self.cpu_seconds / self.files


@dataclass(frozen=True)
class _Answer:
    started: float
    ended: float
    report: _native.ReadReport


def read_in_python(paths: Sequence[bytes], order: Sequence[int]) -> _native.ReadReport:
    """The same as `_native.read_files` with `open` and `read`, as most programs do it."""
    size = 0
    started, cpu_started = time.perf_counter(), time.thread_time()
    for index in order:
        with open(paths[index], "rb") as file:
            size += len(file.read())
    return {
        "files": len(order),
        "bytes": size,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.thread_time() - cpu_started,
    }


def serve(connection: Connection, worker: int, sets: Sequence[Sequence[bytes]]) -> None:
    """For each (set, pass number, in Python?) that comes, read the set in a new order."""
    while True:
        index, number, in_python = connection.recv()
        paths = list(sets[index])
        order = list(range(len(paths)))
        random.Random(number * 1_000 + worker).shuffle(order)
        # All are ready before any begins: the shuffle is no part of the pass.
        connection.send(None)
        connection.recv()
        started = time.monotonic()
        try:
            report = (read_in_python if in_python else _native.read_files)(paths, order)
        except (_native.NativeError, OSError) as error:
            connection.send(str(error))
        else:
            connection.send(_Answer(started, time.monotonic(), report))


class Readers(Workers):
    """Processes that know `sets` of paths and read one of them when asked."""

    def __init__(self, count: int, sets: Sequence[Sequence[bytes]]) -> None:
        super().__init__(count, serve, sets)

    def read(self, index: int, number: int, in_python: bool = False) -> Pass:
        """Pass `number` over the set `index`. Raises WorkerError."""
        for connection in self.connections:
            connection.send((index, number, in_python))
        for connection in self.connections:
            self.receive(connection)
        for connection in self.connections:
            connection.send(None)
        answers: list[_Answer] = [self.receive(connection) for connection in self.connections]
        return Pass(
            files=sum(answer.report["files"] for answer in answers),
            bytes=sum(answer.report["bytes"] for answer in answers),
            seconds=max(one.ended for one in answers) - min(one.started for one in answers),
            cpu_seconds=sum(answer.report["cpu_seconds"] for answer in answers),
        )
