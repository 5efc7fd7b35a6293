"""Who uses a mount, found in /proc: shown with a real file system, the one of the test's folder."""

import mmap
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atlas.api.models import Holder
from atlas.node.holders import command_of, find_by_device, find_by_mount, mount_id_of

HOLD = {
    "open file": "f = open('file')",
    "working folder": "os.chdir('.')",
    # The mapping's own copy of the descriptor is closed too.
    "mapped file": "f = open('file'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ);"
    "f.close(); os.closerange(3, 99)",
}


@contextmanager
def holding(folder: Path, use: str, argument: str = "") -> Iterator[int]:
    """A process that uses `folder`, and nothing else of its file system, in one way."""
    code = (
        f"import os, mmap; os.chdir({str(folder)!r}); {HOLD[use]};"
        + ("" if use == "working folder" else "os.chdir('/proc');")
        + "print(flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.communicate(b"\n")


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a file system that the interpreter itself does not use."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        (Path(name) / "file").write_bytes(bytes(mmap.PAGESIZE))
        yield Path(name)


def find(folder: Path, whole: bool, ignore: Collection[int] = ()) -> list[Holder]:
    descriptor = os.open(folder, os.O_PATH)
    try:
        device = os.fstat(descriptor).st_dev
        mount_id = mount_id_of(descriptor)
    finally:
        os.close(descriptor)
    name = f"{os.major(device)}:{os.minor(device)}"
    if whole:
        return find_by_device({name}, os.geteuid(), ignore)[name]
    return find_by_mount({mount_id: name}, os.geteuid(), ignore)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("use", list(HOLD))
def test_every_use_is_found(folder: Path, use: str, whole: bool) -> None:
    if use == "mapped file" and not whole and os.geteuid() != 0:
        pytest.skip("needs root: /proc/PID/map_files")
    with holding(folder, use) as pid:
        found = {holder.pid: holder for holder in find(folder, whole)}
        assert found[pid].use == use
        assert pid not in {holder.pid for holder in find(folder, whole, ignore={pid})}
    assert pid not in {holder.pid for holder in find(folder, whole)}


def test_commands_are_printable_and_arguments_are_the_owner_s(folder: Path) -> None:
    with holding(folder, "open file", "evil\x1b[31m\n") as pid:
        shown = command_of(pid, 0)
        assert shown.isprintable()
        program = command_of(pid, 2001)
        assert " " not in program
        assert program.startswith("python")
    assert command_of(pid, 0) == ""
