"""One training epoch seen by its consumer: how fast samples came, and how long it waited."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from atlas.bench.loader import Loader, shuffled
from atlas.bench.speech import list_files


@dataclass(frozen=True)
class Job:
    """A training job. `step_seconds` is how long the simulated accelerator takes for a batch."""

    workers: int = 4
    batch_files: int = 32
    step_seconds: float = 0.04
    seed: int = 20


@dataclass
class Epoch:
    """What was measured. Seconds count from the moment the job began to list the folder."""

    files: int = 0
    read_bytes: int = 0
    seconds: float = 0.0
    first_sample_seconds: float = 0.0
    waited_seconds: float = 0.0
    progress: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, files so far) after each batch."""
    digests: dict[str, bytes] = field(default_factory=dict)
    """By path below the root, of the bytes as they were read."""

    @property
    def files_per_second(self) -> float:
        return self.files / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        return self.read_bytes / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """The share of its time in which the consumer had no batch to work on."""
        return self.waited_seconds / self.seconds if self.seconds else 0.0


def run_epoch(
    root: Path, job: Job, loader: Loader, step: Callable[[float], None] = time.sleep
) -> Epoch:
    """List `root`, read all of its files once in shuffled order, and consume them.

    `step` stands for the accelerator's work, which uses none of this machine's processors. The
    waiting time holds everything in which a batch was wanted and not there, the listing included.
    """
    epoch = Epoch()
    started = time.monotonic()
    paths = list_files(root)
    batches = loader.epoch(paths, shuffled(len(paths), job.seed), job.batch_files)
    wanted = started
    for batch in batches:
        got = time.monotonic()
        epoch.waited_seconds += got - wanted
        if not epoch.files:
            epoch.first_sample_seconds = got - started
        for index, sample in zip(batch.indices, batch.samples, strict=True):
            epoch.files += 1
            epoch.read_bytes += sample.size
            epoch.digests[paths[index][len(str(root)) + 1 :]] = sample.digest
        epoch.progress.append((got - started, epoch.files))
        step(job.step_seconds)
        wanted = time.monotonic()
    epoch.seconds = time.monotonic() - started
    return epoch


def differing(one: Epoch, other: Epoch) -> list[str]:
    """The paths that only one of the two epochs read, or that differ in a byte."""
    return sorted(
        path
        for path in one.digests.keys() | other.digests.keys()
        if one.digests.get(path) != other.digests.get(path)
    )
