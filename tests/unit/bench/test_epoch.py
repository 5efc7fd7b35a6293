"""Loader processes and the consumer's accounts."""

import os
import sys
from pathlib import Path

import pytest

from atlas.bench.epoch import Epoch, Job, differing, run_epoch
from atlas.bench.loader import Loader, shuffled
from atlas.bench.workers import WorkerError


def make_folder(root: Path, count: int) -> dict[str, bytes]:
    contents = {f"{index % 3}/{index:03}": os.urandom(100 + index) for index in range(count)}
    for name, data in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    return contents


def test_shuffled_is_a_permutation_fixed_by_its_seed() -> None:
    assert sorted(shuffled(100, 1)) == list(range(100))
    assert shuffled(100, 1) == shuffled(100, 1)
    assert shuffled(100, 1) != shuffled(100, 2)


def test_an_epoch_reads_every_file_once_in_order_and_counts_right(tmp_path: Path) -> None:
    contents = make_folder(tmp_path, 50)
    steps: list[float] = []
    job = Job(workers=3, batch_files=8, step_seconds=0.25)
    with Loader(3) as loader:
        paths = sorted(str(tmp_path / name) for name in contents)
        order = shuffled(len(paths), 7)
        batches = list(loader.epoch(paths, order, 8))
        epoch = run_epoch(tmp_path, job, loader, steps.append)
        again = run_epoch(tmp_path, job, loader, steps.append)
    assert [index for batch in batches for index in batch.indices] == order
    for batch in batches:
        for index, sample in zip(batch.indices, batch.samples, strict=True):
            assert sample.size == os.path.getsize(paths[index])
    assert epoch.files == 50
    assert epoch.read_bytes == sum(map(len, contents.values()))
    assert epoch.digests.keys() == contents.keys()
    assert [files for _, files in epoch.progress] == [8, 16, 24, 32, 40, 48, 50]
    assert steps == [0.25] * 14
    # The steps took no time here, so all of it was waiting.
    assert 0.5 < epoch.waiting_share <= 1
    assert 0 < epoch.first_sample_seconds <= epoch.seconds
    assert differing(epoch, again) == []


def test_a_changed_and_a_missing_file_are_found(tmp_path: Path) -> None:
    make_folder(tmp_path, 6)
    with Loader(1) as loader:
        before = run_epoch(tmp_path, Job(step_seconds=0), loader)
        (tmp_path / "0/000").write_bytes(b"other")
        (tmp_path / "1/001").unlink()
        after = run_epoch(tmp_path, Job(step_seconds=0), loader)
    assert differing(before, after) == ["0/000", "1/001"]


def test_an_empty_folder_gives_an_empty_epoch(tmp_path: Path) -> None:
    with Loader(1) as loader:
        epoch = run_epoch(tmp_path, Job(), loader)
    assert (epoch.files, epoch.read_bytes, epoch.waiting_share) == (0, 0, 0)
    assert Epoch().files_per_second == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with Loader(2) as loader, pytest.raises(WorkerError, match="nothing-here: No such file"):
        list(loader.epoch([str(tmp_path / "nothing-here")], [0], 1))


def test_a_worker_that_dies_is_an_error_not_a_hang() -> None:
    with Loader(2, sys.exit) as loader, pytest.raises(WorkerError, match="died"):
        list(loader.epoch(["a", "b", "c"], [0, 1, 2], 1))
