"""Deleting: never under somebody's feet unless forced, and nothing stays behind."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from atlas.testing.node import LocalNode
from atlas.testing.trees import make_files
from conftest import ROOT_REASON, can_mount

HOLD = "import sys; file = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read(); "
MAP = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print("mapped", flush=True)
sys.stdin.read()
"""
READ = HOLD + "sys.stdout.buffer.write(file.read())"


def tier_bytes(node: LocalNode) -> int:
    """Bytes of everything that the tiers of the node hold, their markers aside."""
    return sum(
        path.stat().st_blocks * 512
        for tier in node.node()["tiers"]
        for path in Path(tier["path"]).rglob("*")
        if path.is_file() and path.name != "atlas-tier"
    )


def test_in_use_is_refused_and_force_releases(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 50, 100_000)
    mount = node.create("data", source, "--warm")
    file = mount / "0000" / "0000007.bin"
    holder = subprocess.Popen(
        [sys.executable, "-c", READ, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"

    refused = node.run("cache", "delete", "data", "-y")
    assert refused.returncode == 4
    assert str(holder.pid) in refused.stderr
    assert file.read_bytes() == (source / "0000" / "0000007.bin").read_bytes()

    node.ok("cache", "delete", "data", "-y", "--force")
    assert not mount.exists() or not list(mount.iterdir())
    assert "Releasing" in node.ok("cache", "list")
    assert node.run("cache", "delete", "data", "-y").returncode == 3
    assert node.run("cache", "get", "data").returncode == 3

    # The holder reads on, kernel pages or not, and what it held is free when it is gone.
    Path("/proc/sys/vm/drop_caches").write_text("1")
    output, _ = holder.communicate(b"")
    assert output == (source / "0000" / "0000007.bin").read_bytes()
    node.wait_for(lambda: "Releasing" not in node.ok("cache", "list"), "the release")
    assert tier_bytes(node) == 0


def test_everything_is_freed(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 100, 50_000)
    for medium in ("MEM", "SSD"):
        node.create(f"data-{medium.lower()}", source, "--warm", medium=medium)
    assert tier_bytes(node) > 2 * 100 * 50_000
    for medium in ("mem", "ssd"):
        node.ok("cache", "delete", f"data-{medium}", "-y")
    assert tier_bytes(node) == 0
    assert node.run("cache", "delete", "data-mem", "-y").returncode == 3
    assert node.run("cache", "delete", "data-mem", "-y", "--ignore-not-found").returncode == 0
    assert list((node.home / "state" / "datasets").iterdir()) == []
    assert node.mounts() == []


def test_working_directory_and_mapping_are_holders(node: LocalNode, work: Path) -> None:
    source = work / "source"
    make_files(source, 3, 50_000)
    mount = node.create("data", source)
    sitting = subprocess.Popen(["sleep", "600"], cwd=mount / "0000")
    try:
        refused = node.run("cache", "delete", "data", "-y")
        assert refused.returncode == 4
        assert str(sitting.pid) in refused.stderr
    finally:
        sitting.kill()
        sitting.wait()
    mapper = subprocess.Popen(
        [
            sys.executable,
            "-c",
            MAP,
            str(mount / "0000" / "0000001.bin"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert mapper.stdout is not None
    assert mapper.stdout.readline() == b"mapped\n"
    refused = node.run("cache", "delete", "data", "-y")
    mapper.communicate(b"")
    assert refused.returncode == 4
    assert str(mapper.pid) in refused.stderr
    node.ok("cache", "delete", "data", "-y")


def test_a_full_state_folder_can_be_freed_by_a_delete(work: Path) -> None:
    """On a disk of its own, which is filled to the last byte."""
    if not can_mount():
        pytest.skip(ROOT_REASON)
    disk, home, source = work / "disk", work / "small", work / "source"
    make_files(source, 200, 3_000)
    home.mkdir(mode=0o700)
    with open(disk, "wb") as file:
        file.truncate(48 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(home)], check=True)
    try:
        with LocalNode(home) as node:
            node.create("data", source, size="64Mi")
            node.create("other", source, size="64Mi")
            node.wait_front("data", "lazy")
            with open(home / "filler", "wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(1024))
            assert os.statvfs(home).f_bavail < 4
            refused = node.run("cache", "create", "third", "--from", str(source), "--size", "64Mi")
            assert refused.returncode != 0, "the disk is not full"
            node.ok("cache", "delete", "data", "-y")
            node.ok("cache", "delete", "other", "-y", "--force")
            assert node.json("cache", "list")["items"] == []
            (home / "filler").unlink()
            node.create("third", source, size="64Mi")
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
