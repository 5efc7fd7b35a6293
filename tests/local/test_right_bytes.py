"""Each front shows what the origin has: every entry, attribute and byte, cold and warm."""

import os
import subprocess
from pathlib import Path

import pytest

from atlas.testing.node import LocalNode
from atlas.testing.trees import (
    age,
    differences,
    make_files,
    make_odd_tree,
    snapshot,
    untouched_snapshot,
)

FRONTS = ("live", "lazy", "sealed")


def create(node: LocalNode, name: str, source: Path, front: str) -> Path:
    """A data set that is served by `front`; warm, where that needs it."""
    mount = node.create(name, source, "--front", front)
    if front == "sealed":
        node.ok("cache", "warm", name)
    node.wait_front(name, front)
    return mount


@pytest.mark.parametrize("front", FRONTS)
def test_odd_tree_is_shown_as_it_is(node: LocalNode, work: Path, front: str) -> None:
    source = work / "source"
    make_odd_tree(source, owners=True)
    expected = snapshot(source, mask_set_id=True)
    mount = create(node, "odd", source, front)

    assert differences(expected, snapshot(mount)) == []
    node.ok("cache", "warm", "odd")
    assert differences(expected, snapshot(mount)) == []
    assert (mount / "second-name").stat().st_ino == (mount / "sub" / "file").stat().st_ino
    assert (mount / "second-name").stat().st_nlink == 3
    assert node.status("odd")["front"] == front


def test_warm_before_the_first_read(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_odd_tree(source, owners=True)
    expected = snapshot(source, mask_set_id=True)
    mount = node.create("odd", source, "--warm")
    status = node.status("odd")
    assert status["cachedPercentage"] == 100
    assert status["cachedFiles"] == status["files"]
    assert status["cachedBytes"] == status["totalBytes"]
    requests = status["originRequests"]
    assert differences(expected, snapshot(mount)) == []
    assert node.status("odd")["originRequests"] == requests, "a warm read asked the origin"


@pytest.mark.parametrize("front", FRONTS)
def test_the_listing_names_what_stat_finds(node: LocalNode, work: Path, front: str) -> None:
    """Twice: from the engine, and from the kernel's own pages."""
    source = work / "source"
    make_odd_tree(source, owners=True)
    mount = create(node, "odd", source, front)
    expected = sorted(os.listdir(os.fsencode(source)))
    for _ in range(2):
        assert sorted(os.listdir(os.fsencode(mount))) == expected
        for entry in os.scandir(os.fsencode(mount)):
            assert (
                entry.is_dir(follow_symlinks=False)
                == os.path.isdir(os.path.join(os.fsencode(source), entry.name))
                or entry.is_symlink()
            )


@pytest.mark.parametrize("front", FRONTS)
def test_one_folder_with_100_000_entries(node: LocalNode, memory: Path, front: str) -> None:
    source = memory / "source"
    make_files(source, 100_000, 3)
    mount = create(node, "wide", source, front)
    folder = source / "0000"
    last = sorted(os.listdir(folder))[-1]
    assert (mount / "0000" / last).read_bytes() == (folder / last).read_bytes()
    assert sorted(os.listdir(mount / "0000")) == sorted(os.listdir(folder))
    node.ok("cache", "warm", "wide")
    assert node.status("wide")["cachedFiles"] == 100_000
    assert differences(snapshot(source), snapshot(mount)) == []


@pytest.mark.parametrize("front", FRONTS)
def test_origin_is_untouched(node: LocalNode, work: Path, front: str) -> None:
    source = work / "source"
    make_odd_tree(source, owners=True)
    age(source)
    before = untouched_snapshot(source)
    mount = create(node, "odd", source, front)
    snapshot(mount)
    node.ok("cache", "warm", "odd")
    snapshot(mount)
    node.ok("cache", "delete", "odd", "-y")
    assert untouched_snapshot(source) == before


@pytest.mark.parametrize("front", FRONTS)
def test_every_changing_call_is_refused(node: LocalNode, work: Path, front: str) -> None:
    source = work / "source"
    make_odd_tree(source, owners=False)
    before = untouched_snapshot(source)
    mount = create(node, "odd", source, front)
    target = str(mount / "plain.txt")
    for command in (
        ["touch", target],
        ["touch", str(mount / "new")],
        ["rm", "-f", target],
        ["mkdir", str(mount / "folder")],
        ["rmdir", str(mount / "sub" / "empty-folder")],
        ["mv", target, str(mount / "moved")],
        ["ln", target, str(mount / "hard")],
        ["ln", "-s", "x", str(mount / "soft")],
        ["chmod", "777", target],
        ["chown", "1:1", target],
        ["truncate", "-s", "0", target],
        ["mkfifo", str(mount / "pipe")],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode != 0, command
        assert "Read-only file system" in result.stderr, (command, result.stderr)
    assert untouched_snapshot(source) == before


def test_all_fronts_show_the_same(node: LocalNode, work: Path) -> None:
    """Names, attributes and bytes. Inode numbers are those of the image on all mapped fronts."""
    source, mounts = work / "source", []
    make_odd_tree(source, owners=True)
    mount = node.create("odd", source, "--front", "live")
    node.ok("cache", "warm", "odd")
    for front in FRONTS:
        node.ok("cache", "update", "odd", "--front", front)
        node.wait_front("odd", front)
        # By descriptor: some paths are longer than one call takes.
        inodes = {
            os.path.join(folder, name): os.lstat(name, dir_fd=descriptor).st_ino
            for folder, folders, files, descriptor in os.fwalk(os.fsencode(mount))
            for name in [*folders, *files]
        }
        mounts.append((snapshot(mount), inodes))
    (live, _), (lazy, lazy_inodes), (sealed, sealed_inodes) = mounts
    assert differences(live, lazy) == []
    assert differences(live, sealed) == []
    assert lazy_inodes == sealed_inodes
