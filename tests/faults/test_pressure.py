"""Readers, node and all their pages in a group that has a quarter of the memory that they want."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from atlas.testing.node import LocalNode
from atlas.testing.reading import Reader
from atlas.testing.trees import make_files

SECONDS = float(os.environ.get("ATLAS_TEST_PRESSURE_SECONDS", "60"))
LIMIT = 512 << 20
DATA = 2 << 30
LONGEST_SECONDS = 20
ROOT = Path("/sys/fs/cgroup")


@contextmanager
def little_memory(limit: int) -> Iterator[Path]:
    """A memory group of this process and those that it starts meanwhile."""
    old = ROOT / "memory"
    parent, name = (old, "memory.limit_in_bytes") if old.exists() else (ROOT, "memory.max")
    group = parent / f"atlas-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit))
    except OSError as error:
        pytest.skip(f"needs a memory group of its own: {error}")
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield group
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        for pid in (group / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def kills(group: Path) -> int:
    """Processes of the group that the kernel has killed for memory."""
    names = ("memory.oom_control", "memory.events")
    text = next((group / name).read_text() for name in names if (group / name).exists())
    return int(dict(line.split() for line in text.splitlines())["oom_kill"])


def failures(group: Path) -> int:
    """How often the limit was reached."""
    old = group / "memory.failcnt"
    if old.exists():
        return int(old.read_text())
    lines = (group / "memory.events").read_text().splitlines()
    return int(dict(line.split() for line in lines)["max"])


@pytest.mark.timeout(SECONDS + 600)
def test_a_quarter_of_the_memory(node: LocalNode, work: Path) -> None:
    """Lazy while the load fills the cache, then sealed: nobody hangs, nothing is wrong, and the
    node is not killed."""
    source = work / "source"
    make_files(source, 2_000, 100_000, folders=20)
    make_files(source / "large", (DATA - 200_000_000) // (64 << 20), 64 << 20)
    with little_memory(LIMIT) as group, ExitStack() as stack:
        mount = node.create("data", source, size="4Gi", medium="SSD")
        node.wait_front("data", "lazy")
        pid = node.pid()
        readers = [
            stack.enter_context(Reader(source, mount, seed, hold=seed % 2 == 1, cold=seed == 3))
            for seed in range(4)
        ]
        node.wait_for(lambda: min(reader.reads() for reader in readers) > 0, "all readers", 120)
        node.ok("cache", "warm", "data", "--background")
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            before = [reader.reads() for reader in readers]
            node.wait_for(
                lambda before=before: all(  # type: ignore[misc]
                    reader.reads() > count for reader, count in zip(readers, before, strict=True)
                ),
                "all readers to go on",
                LONGEST_SECONDS * 5,
            )
        node.wait_front("data", "sealed", 300)
        reports = [reader.end() for reader in readers]
        assert [report.problems for report in reports] == [[]] * 4
        longest = max(report.longest_seconds for report in reports)
        assert node.pid() == pid
        assert kills(group) == 0
        reached = failures(group)
        node.ok("node", "stop", "--force")
    print(
        f"{sum(report.reads for report in reports)} reads in {SECONDS:.0f} s and more,"
        f" longest {longest:.1f} s, limit reached {reached} times, no kill"
    )
    assert longest < LONGEST_SECONDS
    assert reached > 0, "the memory was enough"
