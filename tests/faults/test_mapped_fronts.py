"""Mapped fronts when the node dies, its bytes are damaged, or its data set is deleted."""

import errno
import mmap
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from atlas.testing.node import LocalNode
from atlas.testing.reading import Reader
from atlas.testing.trees import differences, make_files, snapshot

FILES = 1000
DAMAGED = 1000
AT_ONCE_SECONDS = 5.0


def drop_pages() -> None:
    """The kernel gives up its clean pages, so that every byte comes from where it is kept."""
    Path("/proc/sys/vm/drop_caches").write_text("1")


def kill_all(node: LocalNode) -> None:
    """The keeper first, which would start another node."""
    status = node.node()
    for pid in (status["keeper"]["pid"], status["pid"]):
        os.kill(pid, signal.SIGKILL)
    node.wait_for(
        lambda: (
            not any(
                Path(f"/proc/{pid}/fd").exists() and os.listdir(f"/proc/{pid}/fd")
                for pid in (status["keeper"]["pid"], status["pid"])
            )
        ),
        "the processes to end",
    )


def sealed(node: LocalNode, source: Path, *options: str, medium: str = "MEM") -> Path:
    mount = node.create("data", source, "--front", "sealed", "--warm", *options, medium=medium)
    node.wait_front("data", "sealed")
    return mount


def test_a_sealed_front_outlives_its_node(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, FILES, 20_000, folders=10)
    mount = sealed(node, source)
    expected = snapshot(source)
    with Reader(source, mount, 1, cold=True) as opener, Reader(source, mount, 2, True) as holder:
        node.wait_for(lambda: min(opener.reads(), holder.reads()) > 0, "the readers")
        kill_all(node)
        drop_pages()
        assert differences(expected, snapshot(mount)) == []
        before = opener.reads(), holder.reads()
        node.wait_for(
            lambda: opener.reads() > before[0] and holder.reads() > before[1],
            "the readers to go on",
        )
        # The next node takes it as it is: nothing is mounted anew, nothing is fetched.
        status = node.status("data")
        assert status["front"] == "sealed"
        assert status["originRequests"] == 0
        reports = opener.end(), holder.end()
    assert [report.problems for report in reports] == [[], []]
    assert [report.swaps for report in reports] == [0, 0]
    print(f"{sum(report.reads for report in reports)} reads, a whole tree without a process")
    node.ok("cache", "delete", "data", "-y")


def test_a_lazy_front_without_its_node(node: LocalNode, work: Path) -> None:
    """What the kernel has is read; the rest is an error at once; a restart serves it again."""
    source = work / "source"
    make_files(source, FILES, 20_000, folders=10)
    mount = node.create("data", source, "--front", "lazy")
    node.wait_front("data", "lazy")
    files = sorted(path.relative_to(source) for path in source.rglob("*.bin"))
    known, unknown = files[: FILES // 2], files[FILES // 2 :]
    for name in known:
        (mount / name).read_bytes()
    kill_all(node)
    for name in known:
        assert (mount / name).read_bytes() == (source / name).read_bytes()
    refused = 0
    began = time.monotonic()
    for name in unknown:
        with pytest.raises(OSError, match="Input/output error") as caught:
            (mount / name).read_bytes()
        assert caught.value.errno == errno.EIO
        refused += 1
    assert time.monotonic() - began < AT_ONCE_SECONDS
    print(f"{len(known)} files read without a process, {refused} refused")
    node.ok("node", "start")
    node.wait_for(lambda: node.status("data")["phase"] == "Bound", "the data set")
    drop_pages()
    assert differences(snapshot(source), snapshot(mount)) == []
    node.wait_front("data", "lazy")
    assert differences(snapshot(source), snapshot(mount)) == []


def test_kills_of_the_node_under_lazy_readers(node: LocalNode, work: Path) -> None:
    """The keeper has the connection: reads wait for the next node, and are right."""
    source = work / "source"
    make_files(source, FILES, 20_000, folders=10)
    mount = node.create("data", source, "--front", "lazy")
    node.wait_front("data", "lazy")
    with Reader(source, mount, 1, cold=True) as opener, Reader(source, mount, 2, True) as holder:
        node.wait_for(lambda: min(opener.reads(), holder.reads()) >= 0, "the readers")
        for _ in range(10):
            pid = node.kill()
            node.wait_for(lambda pid=pid: node.pid() != pid, "another node process", 10)  # type: ignore[misc]
            before = opener.reads(), holder.reads()
            node.wait_for(
                lambda before=before: opener.reads() > before[0] and holder.reads() > before[1],  # type: ignore[misc]
                "the readers to go on",
            )
        reports = opener.end(), holder.end()
    assert [report.problems for report in reports] == [[], []]
    print(f"10 kills, {sum(report.reads for report in reports)} reads")
    assert node.status("data")["front"] == "lazy"


def test_a_deleted_data_set_is_served_to_who_has_it_open(node: LocalNode, work: Path) -> None:
    """Its bytes stay until the last user leaves, also when the node is killed meanwhile."""
    source = work / "source"
    make_files(source, 100, 200_000, folders=2)
    mount = sealed(node, source)
    name = sorted(path.relative_to(source) for path in source.rglob("*.bin"))[50]
    expected = (source / name).read_bytes()
    tier = Path(node.status("data")["tiers"][0]["path"])
    with open(mount / name, "rb", buffering=0) as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        node.ok("cache", "delete", "data", "-y", "--force")
        assert not mount.is_mount()
        node.create("other", source)  # takes whatever bytes are thought to be free
        checks = 0
        for _ in range(3):
            pid = node.kill()
            node.wait_for(lambda pid=pid: node.pid() != pid, "another node process", 10)  # type: ignore[misc]
            drop_pages()
            mapping.madvise(mmap.MADV_DONTNEED)
            assert os.pread(file.fileno(), len(expected), 0) == expected
            assert mapping[:] == expected
            checks += 1
        kept = volumes(tier)
        assert len(kept) == 2, "the bytes of an open file were freed"
        mapping.close()
    node.wait_for(lambda: len(volumes(tier)) == 1, "the bytes to be freed")
    assert checks == 3
    print(f"{checks} kills; {kept} -> {volumes(tier)}")


def test_what_is_freed_is_read_on_by_who_has_it_open(node: LocalNode, work: Path) -> None:
    """Readers that open anew go on through another front; the space comes with the last holder."""
    source = work / "source"
    make_files(source, FILES, 20_000, folders=10)
    node.configure(swap_rest="0s", reseal_rest="0s")
    mount = sealed(node, source)
    total = node.status("data")["cachedBytes"]
    tier = Path(node.status("data")["tiers"][0]["path"])
    with (
        Reader(source, mount, 1, cold=True) as opener,
        Reader(source, mount, 2, True, True) as holder,
    ):
        node.wait_for(lambda: min(opener.reads(), holder.reads()) > 0, "the readers")
        freed = node.json("cache", "free", "data", "-y")
        assert freed["heldBytes"] >= total
        assert node.status("data")["front"] == "lazy"
        before = opener.reads(), holder.reads()
        node.wait_for(
            lambda: opener.reads() > before[0] + 500 and holder.reads() > before[1] + 500,
            "the readers to go on",
        )
        assert blocks(tier) >= total, "what is read directly was taken away"
        reports = [opener.end(), holder.end()]
    assert [report.problems for report in reports] == [[], []]
    node.wait_for(lambda: node.status("data")["cachedBytes"] == 0, "the bytes to be freed")
    left = blocks(tier)
    assert left < total // 10
    node.ok("cache", "warm", "data")
    node.wait_front("data", "sealed")
    again = node.json("cache", "free", "data", "-y")
    assert again["bytes"] >= total
    assert again["heldBytes"] == 0
    assert differences(snapshot(source), snapshot(mount)) == []
    print(f"{freed['heldBytes']} bytes held by a reader, {left} left after it")


def blocks(tier: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in tier.rglob("segment-*"))


def volumes(tier: Path) -> list[str]:
    return sorted(path.name for path in tier.iterdir() if path.is_dir())


def damage(tier: Path, source: Path, count: int, kind: str) -> int:
    """Spoils what the tier holds of `count` files, behind everybody's back: a byte of each turned,
    the contents of pairs exchanged, a page of each punched. Gives how many."""
    places = []
    for segment in tier.rglob("segment-*"):
        stored = segment.read_bytes()
        for file in sorted(source.rglob("*.bin"))[:count]:
            content = file.read_bytes()
            if (at := stored.find(content)) >= 0:
                places.append((segment, at, content))
    for number, (segment, at, content) in enumerate(places):
        position = at + number * 7919 % len(content)
        with open(segment, "r+b", buffering=0) as target:
            if kind == "flip":
                os.pwrite(target.fileno(), bytes([content[position - at] ^ 1]), position)
            elif kind == "exchange":
                _, _, other = places[number ^ 1]
                os.pwrite(target.fileno(), other, at)
            else:
                page = ["--offset", str(at // 4096 * 4096), "--length", "4096"]
                subprocess.run(["fallocate", "--punch-hole", *page, str(segment)], check=True)
    return len(places)


@pytest.mark.parametrize("kind", ["flip", "exchange", "punch"])
def test_damage_is_never_served_by_a_lazy_front(node: LocalNode, work: Path, kind: str) -> None:
    """Found by its checksum, counted, and fetched again."""
    source = work / "source"
    make_files(source, DAMAGED, 6_000, folders=10)
    mount = node.create("data", source, "--front", "lazy", "--warm")
    node.wait_front("data", "lazy")
    status = node.status("data")
    damaged = damage(Path(status["tiers"][0]["path"]), source, DAMAGED, kind)
    assert damaged == DAMAGED
    assert differences(snapshot(source), snapshot(mount)) == []
    after = node.status("data")
    print(f"{kind}: {damaged} extents spoiled, {after['damagedExtents']} found damaged")
    assert after["damagedExtents"] == damaged
    assert after["originRequests"] - status["originRequests"] >= damaged


def test_segments_cut_off_are_never_served_by_a_lazy_front(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 200, 100_000, folders=10)
    mount = node.create("data", source, "--front", "lazy", "--warm", medium="SSD")
    node.wait_front("data", "lazy")
    segments = list(Path(node.status("data")["tiers"][0]["path"]).rglob("segment-*"))
    for segment in segments:
        os.truncate(segment, 10_000_000)
    drop_pages()
    assert differences(snapshot(source), snapshot(mount)) == []
    found = node.status("data")["damagedExtents"]
    print(f"{len(segments)} segments cut off, {found} extents found damaged")
    assert found > 50


@pytest.mark.parametrize("kind", ["flip", "exchange", "punch"])
def test_damage_below_a_sealed_front_is_found_by_scrub(
    node: LocalNode, work: Path, kind: str
) -> None:
    """Within the stated period; then nothing wrong is served any more."""
    source = work / "source"
    make_files(source, DAMAGED, 6_000, folders=10)
    node.configure(scrub_period="2s", scrub_rate="0", swap_rest="0s", reseal_rest="1s")
    mount = sealed(node, source)
    status = node.status("data")
    damaged = damage(Path(status["tiers"][0]["path"]), source, DAMAGED, kind)
    assert damaged == DAMAGED
    node.wait_for(
        lambda: node.status("data")["damagedExtents"] >= damaged, "the scrub to find it all", 30
    )
    node.wait_for(
        lambda: "sealed -> " in node.ok("cache", "events", "data"), "the front to be left"
    )
    node.wait_front("data", "sealed")
    assert differences(snapshot(source), snapshot(mount)) == []
    found = node.status("data")["damagedExtents"]
    print(f"{kind}: {damaged} extents spoiled, {found} found damaged")
