"""A node that is killed, stopped or replaced: no reader notices more than a pause."""

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.bench.slow_origin import Slowness, slow_origin
from atlas.testing.node import LocalNode
from atlas.testing.trees import differences, make_files, snapshot

KILLS = int(os.environ.get("ATLAS_TEST_KILLS", "20"))
FILES = 3000
FOLDERS = 60

# Slow enough that the scan goes on during the kills, fast enough that the test ends.
SLOWNESS = Slowness(latency_seconds=0.002, bytes_per_second=100_000_000, operations_per_second=400)


@pytest.fixture
def slow_source(work: Path) -> Iterator[tuple[Path, Path]]:
    """A tree, and the same tree as a slow origin."""
    plain, slow = work / "plain", work / "slow"
    slow.mkdir()
    make_files(plain, FILES, 20_000, folders=FOLDERS)
    with slow_origin(plain, slow, SLOWNESS):
        yield plain, slow


class Reader(threading.Thread):
    """Reads files in random order until told to stop, and compares every byte."""

    def __init__(self, mount: Path, digests: dict[bytes, str], seed: int) -> None:
        super().__init__()
        self.mount = os.fsencode(mount)
        self.digests = digests
        self.order = random.Random(seed)
        self.stop = threading.Event()
        self.files_read = 0
        self.longest_seconds = 0.0
        self.problems: list[str] = []

    def run(self) -> None:
        paths = list(self.digests)
        while not self.stop.is_set() and len(self.problems) < 10:
            path = self.order.choice(paths)
            began = time.monotonic()
            try:
                with open(self.mount + b"/" + path, "rb", buffering=0) as file:
                    seen = hashlib.sha256(file.read()).hexdigest()
            except OSError as error:
                self.problems.append(f"{path!r}: {error}")
                continue
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            if seen != self.digests[path]:
                self.problems.append(f"{path!r}: wrong bytes")
            self.files_read += 1


def digests(root: Path) -> dict[bytes, str]:
    return {path: entry.digest for path, entry in snapshot(root).items() if entry.digest}


def test_kill_9_during_warm_up_and_reads(node: LocalNode, slow_source: tuple[Path, Path]) -> None:
    plain, slow = slow_source
    mount = node.create("data", slow)
    # The load is the node's own and survives it; nobody watches.
    node.ok("cache", "warm", "data", "--background")
    readers = [Reader(mount, digests(plain), seed) for seed in range(4)]
    for reader in readers:
        reader.start()
    pauses = random.Random(7)
    killed = scanning = 0
    last = 0
    try:
        for _ in range(KILLS):
            status = node.status("data")
            scanning += status["scan"]["state"] == "Running"
            pid = node.kill()
            killed += 1
            began = time.monotonic()
            node.wait_for(lambda pid=pid: node.pid() != pid, "another node process", 5)  # type: ignore[misc]
            assert time.monotonic() - began < 5
            before = [reader.files_read for reader in readers]
            node.wait_for(
                lambda before=before: all(  # type: ignore[misc]
                    reader.files_read > count or not reader.is_alive()
                    for reader, count in zip(readers, before, strict=True)
                ),
                "every reader to go on",
            )
            cached = node.status("data")["cachedFiles"]
            assert cached >= last, "what was warm is cold again"
            last = cached
            # Somewhere in the middle of the work, not always at the same point of it.
            readers[0].stop.wait(pauses.uniform(0, 0.5))
    finally:
        for reader in readers:
            reader.stop.set()
        for reader in readers:
            reader.join()
    print(
        f"{killed} kills, {scanning} of them during the scan, "
        f"{sum(reader.files_read for reader in readers)} files read, "
        f"longest read {max(reader.longest_seconds for reader in readers):.1f} s"
    )
    assert [reader.problems for reader in readers] == [[], [], [], []]
    assert killed == KILLS
    assert scanning >= KILLS // 2, "the scan was over too soon for this test"

    node.wait_for(
        lambda: node.status("data")["cachedPercentage"] == 100, "the load to go on by itself", 120
    )
    Path("/proc/sys/vm/drop_caches").write_text("1")
    assert differences(snapshot(plain), snapshot(mount)) == []


def test_sigstop_is_replaced(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 300, 20_000, folders=3)
    mount = node.create("data", source)
    node.wait_scanned("data")
    pid = node.kill(signal.SIGSTOP)
    began = time.monotonic()
    # Nothing is cached: the first read needs a node that answers.
    assert differences(snapshot(source), snapshot(mount)) == []
    assert time.monotonic() - began < 20
    assert node.pid() != pid


def test_stopped_reader_of_a_slow_origin_can_be_killed(node: LocalNode, work: Path) -> None:
    plain, slow = work / "plain", work / "slow"
    slow.mkdir()
    make_files(plain, 3, 200_000)
    with slow_origin(plain, slow, Slowness(latency_seconds=5.0)):
        mount = node.create("data", slow)
        pid = os.fork()
        if pid == 0:
            try:
                (mount / "0000" / "0000001.bin").read_bytes()
            finally:
                os._exit(0)
        node.wait_for(
            lambda: node.status("data")["originRequests"] > 0, "the read to reach the origin"
        )
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        os.waitpid(pid, 0)
        assert time.monotonic() - began < 3


def test_kill_during_create_and_delete_leaves_nothing(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 50, 5_000)
    node.create("first", source)
    pauses = random.Random(11)
    for round_number in range(10):
        name = f"data-{round_number}"
        command = node.start(
            "cache", "create", name, "--from", str(source), "--size", "64Mi", "--medium", "MEM"
        )
        time.sleep(pauses.uniform(0.1, 0.4))  # the moment of the kill, not readiness
        node.kill()
        command.communicate(timeout=60)
        node.wait_for(lambda: node.run("cache", "list").returncode == 0, "the node's return")
        present = node.run("cache", "get", name).returncode == 0
        if present:
            assert differences(snapshot(source), snapshot(node.mount_of(name))) == []
            node.ok("cache", "delete", name, "-y")
        else:
            node.create(name, source)
            node.ok("cache", "delete", name, "-y")
    assert [item["metadata"]["name"] for item in node.json("cache", "list")["items"]] == ["first"]
    assert len(list((node.home / "state" / "datasets").iterdir())) == 1
    assert len(node.mounts()) == 1
