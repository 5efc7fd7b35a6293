"""Batches from several reader processes, in the order of a shuffled epoch.

The scheme is that of torch's DataLoader: each worker has a few batches in hand ahead of the
consumer, and batches are handed over in order whoever finished first.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import cast

from atlas.bench.speech import Sample, load_sample

AHEAD = 2
"""Batches that each worker may have in hand, as in torch (prefetch_factor)."""


class WorkerError(Exception):
    """A worker process failed or died; the message says on which file and why."""


@dataclass(frozen=True)
class Batch:
    """Samples by position in the epoch's order: `samples[i]` is file `indices[i]`."""

    indices: list[int]
    samples: list[Sample]


def shuffled(count: int, seed: int) -> list[int]:
    """The order of one epoch: the same for the same seed."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def serve(connection: Connection, load: Callable[[str], Sample]) -> None:
    """A worker's life: load the files of each list of paths that comes, until there is no more."""
    # The parent ends the workers; a Ctrl-C of the whole group must not print four tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            path = ""
            try:
                samples = []
                for path in connection.recv():
                    samples.append(load(path))
                connection.send(samples)
            except OSError as error:
                connection.send(f"{path}: {error.strerror}")


class Loader:
    """Worker processes, started once and used for several epochs."""

    def __init__(self, workers: int, load: Callable[[str], Sample] = load_sample) -> None:
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        # Not fork: the parent may run threads, and a worker shares nothing with it.
        context = multiprocessing.get_context("spawn")
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, load), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._connections.append(ours)
            for connection in self._connections:
                self._receive(connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, also in the midst of a read."""
        for process in self._processes:
            process.terminate()
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join()

    def epoch(self, paths: Sequence[str], order: Sequence[int], size: int) -> Iterator[Batch]:
        """Batches of `size` files in `order`. An epoch must be read to its end.

        Raises WorkerError when a file cannot be read.
        """
        batches = [list(order[start : start + size]) for start in range(0, len(order), size)]
        finished: dict[int, list[Sample]] = {}
        # What each worker has in hand, oldest first: it answers in that order.
        in_hand: dict[Connection, list[int]] = {one: [] for one in self._connections}
        sent = 0

        def send(connection: Connection) -> None:
            nonlocal sent
            connection.send([paths[index] for index in batches[sent]])
            in_hand[connection].append(sent)
            sent += 1

        for _ in range(AHEAD):
            for connection in self._connections:
                if sent < len(batches):
                    send(connection)
        for number, indices in enumerate(batches):
            while number not in finished:
                busy = [one for one, has in in_hand.items() if has]
                for ready in cast("list[Connection]", wait(busy)):
                    answer = self._receive(ready)
                    finished[in_hand[ready].pop(0)] = answer or []
                    if sent < len(batches):
                        send(ready)
            yield Batch(indices, finished.pop(number))

    def _receive(self, connection: Connection) -> list[Sample] | None:
        try:
            answer: list[Sample] | str | None = connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerError("a worker process died") from None
        if isinstance(answer, str):
            raise WorkerError(answer)
        return answer
