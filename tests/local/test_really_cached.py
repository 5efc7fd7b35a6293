"""What is warm is read without the origin; what is not gives the origin's own error."""

import errno
import random
from pathlib import Path

import pytest

from atlas.testing.node import LocalNode
from atlas.testing.trees import differences, make_files, snapshot


def test_warm_files_outlive_the_origin(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 500, 10_000, folders=7)
    expected = snapshot(source)
    mount = node.create("data", source, "--warm")
    source.rename(work / "away")
    assert node.status("data")["cachedPercentage"] == 100
    assert differences(expected, snapshot(mount)) == []

    node.kill()
    node.wait_for(lambda: node.status("data")["phase"] == "Bound", "the node's return")
    # The kernel's pages are given up, so that every byte comes from the tier.
    Path("/proc/sys/vm/drop_caches").write_text("1")
    assert differences(expected, snapshot(mount)) == []
    assert node.status("data")["hitBytes"] >= 5_000_000


def test_misses_without_the_origin_are_errors(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 200, 10_000, folders=2)
    expected = snapshot(source)
    mount = node.create("data", source)
    node.wait_scanned("data")
    files = sorted(path for path in mount.rglob("*.bin"))
    assert files.pop().read_bytes()
    source.rename(work / "away")
    # Each is asked for once: what was read before the absence was noticed is cached.
    node.wait_for(lambda: _errno(files.pop()) is not None, "the origin's absence to be noticed", 5)
    for file in files[:20]:
        assert _errno(file) == errno.ENOENT, file

    # An unrelated folder in its place is not the origin either.
    source.mkdir()
    node.wait_for(lambda: _errno(files[0]) == errno.ESTALE, "the other folder to be noticed", 5)
    source.rmdir()
    (work / "away").rename(source)
    node.wait_for(lambda: _errno(files[0]) is None, "the origin's return to be noticed", 5)
    assert differences(expected, snapshot(mount)) == []


def _errno(path: Path) -> int | None:
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None


def test_more_data_than_cache(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 40, 1 << 20, folders=4)
    mount = node.create("big", source, size="16Mi")
    result = node.run("cache", "warm", "big")
    assert result.returncode == 8, result.stderr
    status = node.status("big")
    used = status["tiers"][0]["usedBytes"]
    assert 10 << 20 < status["cachedBytes"] <= used <= 16 << 20
    assert differences(snapshot(source), snapshot(mount)) == []
    assert node.status("big")["tiers"][0]["usedBytes"] <= 16 << 20


def test_changed_file_is_never_mixed(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 3, 3 << 20)
    mount = node.create("data", source)
    node.wait_scanned("data")
    file = source / "0000" / "0000001.bin"
    file.write_bytes(b"other" * 1000)
    with pytest.raises(OSError, match="Stale") as caught:
        (mount / "0000" / "0000001.bin").read_bytes()
    assert caught.value.errno == errno.ESTALE
    assert "OriginChanged" in node.ok("cache", "events", "data")
    assert (mount / "0000" / "0000002.bin").read_bytes() == (
        source / "0000" / "0000002.bin"
    ).read_bytes()


@pytest.mark.parametrize("medium", ["MEM", "SSD", "HDD"])
def test_each_medium(node: LocalNode, work: Path, medium: str) -> None:
    source = work / "source"
    make_files(source, 200, 9_000, folders=3)
    mount = node.create("data", source, "--warm", medium=medium)
    node.ok("node", "stop", "--force")
    assert node.mounts() == []
    assert node.status("data")["cachedPercentage"] == 100
    source.rename(work / "away")
    assert differences(snapshot(work / "away"), snapshot(mount)) == []


def test_include_and_exclude(node: LocalNode, work: Path) -> None:
    source = work / "source"
    for name in ("a/one.wav", "a/one.txt", "b/deep/two.wav", "skip/three.wav"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    mount = node.create("wav", source, "--include", "*.wav", "--exclude", "skip")
    # Before the scan has been there, and after it.
    assert not (mount / "a" / "one.txt").exists()
    assert (mount / "b" / "deep" / "two.wav").read_bytes() == b"b/deep/two.wav"
    assert sorted(str(path.relative_to(mount)) for path in mount.rglob("*")) == [
        "a",
        "a/one.wav",
        "b",
        "b/deep",
        "b/deep/two.wav",
    ]
    node.wait_scanned("wav")
    assert node.status("wav")["files"] == 2


def test_links_that_leave_are_named(node: LocalNode, work: Path) -> None:
    source = work / "source"
    source.mkdir()
    (source / "inside").symlink_to("other")
    (source / "absolute").symlink_to("/etc/hostname")
    (source / "red\x1b[31m").symlink_to("/etc/passwd")
    node.create("links", source)
    node.wait_scanned("links")
    described = node.ok("cache", "describe", "links")
    assert "absolute" in described
    assert "\x1b" not in described
    assert "2" in described


def test_shuffled_epochs_over_half_a_cache(node: LocalNode, work: Path) -> None:
    """What was admitted stays: each epoch finds as much of it as there is room for, in whatever
    order it reads. (Least recently used would find .15.)"""
    source = work / "source"
    size, files = 64 << 10, 1000
    make_files(source, files, size, folders=10)
    names = sorted(path.relative_to(source) for path in source.rglob("*.bin"))
    quota = files * size // 2 + (1 << 20)  # half the data, and the tables
    mount = node.create("half", source, size=str(quota))
    node.wait_front("half", "lazy")
    assert node.run("cache", "warm", "half").returncode == 8, "it cannot be loaded whole"
    order = random.Random(3)
    epochs = []
    for _ in range(3):
        before = node.status("half")
        Path("/proc/sys/vm/drop_caches").write_text("1")
        order.shuffle(names)
        for name in names:
            assert (mount / name).stat().st_size == len((mount / name).read_bytes())
        after = node.status("half")
        hits, misses = (after[kind] - before[kind] for kind in ("hitBytes", "missBytes"))
        assert hits + misses >= files * size
        epochs.append(hits / (hits + misses))
    print(f"hit ratio of each epoch: {', '.join(f'{ratio:.3f}' for ratio in epochs)}")
    assert 0.49 <= min(epochs) <= max(epochs) < 0.6
    assert node.status("half")["tiers"][0]["usedBytes"] <= quota
