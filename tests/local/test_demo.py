"""`make demo` does what it says on any folder, and leaves nothing however it ends."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.api.environment import own_home
from atlas.testing.trees import make_files
from conftest import ROOT_REASON, can_mount

pytestmark = pytest.mark.skipif(not can_mount(), reason=ROOT_REASON)


def start(work: Path, data: Path) -> subprocess.Popen[str]:
    (work / "tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "atlas.bench.demo", "--data", data, "--page", work / "page.html"],
        env={**os.environ, "TMPDIR": str(work / "tmp")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, as a terminal gives it: Ctrl-C goes to all of it.
        process_group=0,
    )


def left_behind(work: Path) -> list[str]:
    """What still speaks of the folder: files, mounts, processes, shared memory."""
    mark = os.fsencode(work)
    found = [str(path) for path in (work / "tmp").iterdir()]
    mounts = Path("/proc/self/mounts").read_bytes().splitlines()
    found += [os.fsdecode(line) for line in mounts if mark in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append(os.fsdecode((entry / "cmdline").read_bytes()))
            except OSError:
                continue
    return found


def shared_memory_once_mounted(work: Path) -> Path:
    """Where the demonstration's node keeps what must be in memory; waits for its first mount."""
    with open("/proc/self/mounts") as mounts:
        changes = select.poll()
        # The kernel wakes who polls this file at each change of the mount table.
        changes.register(mounts, select.POLLPRI)
        while f"{work}/tmp/" not in mounts.read():
            assert changes.poll(30_000), "no mount within 30 s"
            mounts.seek(0)
    home = next((work / "tmp").iterdir()) / "home"
    return own_home({"ATLAS_HOME": str(home)}).shared_memory


def test_it_reads_all_files_three_ways_and_writes_a_page(work: Path) -> None:
    data = work / "data"
    make_files(data, 200, 20_000, folders=4)
    demo = start(work, data)
    memory = shared_memory_once_mounted(work)
    said, complained = demo.communicate(timeout=120)
    assert demo.returncode == 0, complained
    assert "200 files (3.81MiB) read each way and compared by checksum, 0 differ" in said
    for name in ("direct", "Atlas, cold", "Atlas, after warm-up"):
        assert name in said
    assert "<svg" in (work / "page.html").read_text()
    assert left_behind(work) == []
    assert not memory.exists()
    assert "clean-up:" not in complained


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize("after", ["", "direct:", "Atlas, cold:"])
def test_it_leaves_nothing_when_it_is_stopped(
    work: Path, number: signal.Signals, code: int, after: str
) -> None:
    data = work / "data"
    make_files(data, 200, 20_000, folders=4)
    demo = start(work, data)
    assert demo.stderr is not None
    memory = shared_memory_once_mounted(work)
    # The epoch before is done: the next is about to begin, or has begun.
    while after and not demo.stderr.readline().startswith(after):
        assert demo.poll() is None
    if after == "Atlas, cold:":
        assert memory.is_dir()
    os.killpg(demo.pid, number)
    said, complained = demo.communicate(timeout=60)
    assert demo.returncode == code, complained
    assert said == ""
    assert "stopped; nothing stays behind" in complained
    assert "Traceback" not in complained
    assert left_behind(work) == []
    assert not memory.exists()
