"""Does an image with hundreds of device slots mount and read as fast as one with ten?

A volume's segments grow with it, so that their number grows with the logarithm of its size: 17 TB
have 600. The trees here are sparse files, one for each segment.
"""

import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from atlas import _native

_SMALLEST: Final = 64 << 20
_PART: Final = 64
"""A new segment is at least this part of those before."""
_MANY: Final = 600
_FEW: Final = 10
_MOUNTS: Final = 20
_READS: Final = 10
_READ_BYTES: Final = 8192
_LARGEST_FILE: Final = (16 << 40) - 4096


def make_sparse_tree(root: Path, segments: int) -> None:
    """Files that take a segment each, and no space on the disk."""
    root.mkdir()
    total = 0
    for number in range(segments):
        size = min(_LARGEST_FILE, max(_SMALLEST, total // _PART + (1 << 20)))
        with open(root / f"{number:04}", "wb") as file:
            file.truncate(size)
        total += size


@contextmanager
def lazy_mounts(work: Path, memory: Path, segments: int) -> Iterator[tuple[list[float], Path, int]]:
    """(seconds that each of some mounts took, where the last is, device slots)."""
    source, tier = work / f"source-{segments}", work / f"tier-{segments}"
    make_sparse_tree(source, segments)
    engine = _native.Engine(str(memory / f"live-{segments}"))
    uuid = _native.open_tier(str(tier), "SSD", True, None)
    engine.create(
        {
            "id": "data",
            "state_folder": str(work / f"state-{segments}"),
            "source": str(source),
            "identity": (0, 0, [0]),
            "tier": {"medium": "SSD", "folder": str(tier), "uuid": uuid},
            "quota_bytes": 1 << 32,
            "include": [],
            "exclude": [],
            "label": "atlas:data:slots",
            "mapped": True,
            "seal": True,
            "held": [],
            "scrub_period_seconds": 0.0,
            "scrub_bytes_per_second": 0,
        }
    )
    while engine.status("data")["image"]["state"] != "Ready":
        time.sleep(0.01)
    fuse = _native.open_fuse()
    twin = _native.mount_twin(fuse)
    engine.serve_twin("data", fuse, False)
    seconds = []
    mounts = []
    for _ in range(_MOUNTS):
        began = time.perf_counter()
        mounts.append(engine.mount_image("data", "lazy", twin)["mount"])
        seconds.append(time.perf_counter() - began)
    slots = len(list(tier.rglob("segment-*")))
    root = Path(f"/proc/self/fd/{mounts[-1]}")
    try:
        yield seconds, root, slots
    finally:
        for descriptor in [*mounts, twin, fuse]:
            os.close(descriptor)
        while not engine.twin_ended("data"):
            time.sleep(0.01)
        engine.close("data")


def read_cold(root: Path, order: random.Random) -> float:
    """Median seconds of a read of 8 kB that nobody has read before, each in another file."""
    names = sorted(os.listdir(root))
    seconds = []
    for name in order.sample(names, _READS):
        descriptor = os.open(root / name, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            blocks = os.fstat(descriptor).st_size // _READ_BYTES
            position = order.randrange(blocks) * _READ_BYTES
            began = time.perf_counter()
            assert os.pread(descriptor, _READ_BYTES, position) == bytes(_READ_BYTES)
            seconds.append(time.perf_counter() - began)
        finally:
            os.close(descriptor)
    return statistics.median(seconds)


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="atlas-slots-", dir="/var/tmp"))
    memory = Path(tempfile.mkdtemp(prefix="atlas-slots-", dir="/dev/shm"))
    try:
        with (
            lazy_mounts(work, memory, _FEW) as (few_mounts, few_root, few),
            lazy_mounts(work, memory, _MANY) as (many_mounts, many_root, many),
        ):
            order = random.Random(1)
            pairs = [(read_cold(few_root, order), read_cold(many_root, order)) for _ in range(7)]
            ratio = statistics.median(b / a for a, b in pairs)
            for count, mounts in ((few, few_mounts), (many, many_mounts)):
                print(
                    f"{count} segments: mount {statistics.median(mounts) * 1e3:.1f} ms,"
                    f" longest of {_MOUNTS} {max(mounts) * 1e3:.1f} ms"
                )
            few_read, many_read = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"cold read of 8 kB at random: {few_read * 1e6:.0f} us with {few} segments,"
                f" {many_read * 1e6:.0f} us with {many}: {ratio:.2f} times"
                f" (median of {len(pairs)} interleaved rounds)"
            )
    finally:
        shutil.rmtree(work)
        shutil.rmtree(memory)


if __name__ == "__main__":
    main()
