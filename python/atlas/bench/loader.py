"""Batches from several reader processes, in the order of a shuffled epoch.

The scheme is that of torch's DataLoader: each worker has a few batches in hand ahead of the
consumer, and batches are handed over in order whoever finished first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import cast

from atlas.bench.speech import Sample, load_sample
from atlas.bench.workers import Workers

AHEAD = 2
"""Batches that each worker may have in hand, as in torch (prefetch_factor)."""


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


def serve(connection: Connection, _worker: int, load: Callable[[str], Sample]) -> None:
    """Load the files of each list of paths that comes."""
    while True:
        path = ""
        try:
            samples = []
            for path in connection.recv():
                samples.append(load(path))
            connection.send(samples)
        except OSError as error:
            connection.send(f"{path}: {error.strerror}")


class Loader(Workers):
    """Worker processes, started once and used for several epochs."""

    def __init__(self, workers: int, load: Callable[[str], Sample] = load_sample) -> None:
        super().__init__(workers, serve, load)

    def epoch(self, paths: Sequence[str], order: Sequence[int], size: int) -> Iterator[Batch]:
        """Batches of `size` files in `order`. An epoch must be read to its end.

        Raises WorkerError when a file cannot be read.
        """
        batches = [list(order[start : start + size]) for start in range(0, len(order), size)]
        finished: dict[int, list[Sample]] = {}
        # What each worker has in hand, oldest first: it answers in that order.
        in_hand: dict[Connection, list[int]] = {one: [] for one in self.connections}
        sent = 0

        def send(connection: Connection) -> None:
            nonlocal sent
            connection.send([paths[index] for index in batches[sent]])
            in_hand[connection].append(sent)
            sent += 1

        for _ in range(AHEAD):
            for connection in self.connections:
                if sent < len(batches):
                    send(connection)
        for number, indices in enumerate(batches):
            while number not in finished:
                busy = [one for one, has in in_hand.items() if has]
                for ready in cast("list[Connection]", wait(busy)):
                    finished[in_hand[ready].pop(0)] = self.receive(ready)
                    if sent < len(batches):
                        send(ready)
            yield Batch(indices, finished.pop(number))
