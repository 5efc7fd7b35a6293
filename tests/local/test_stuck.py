"""A node that a SIGKILL does not end: a thread of it waits for itself."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.node import keeper as keeper_module
from atlas.node.keeper import MOST_STUCK_TICKS, STUCK_TICKS, Keeper
from conftest import ROOT_REASON, can_mount

SELF_SERVER = """
import os, struct, sys, threading, time
from atlas import _native
fuse = _native.open_fuse()
os.set_blocking(fuse, True)
mount = _native.mount_fuse(fuse, "atlas:stuck", 0, 0)
threading.Thread(target=lambda: os.stat(f"/proc/self/fd/{mount}/name"), daemon=True).start()
unique = struct.unpack_from("=IIQ", os.read(fuse, 1 << 20))[2]
# fuse_init_out: version 7.31, then what is asked for: nothing.
os.write(fuse, struct.pack("=IiQIIII48x", 80, 0, unique, 7, 31, 0, 0))
os.read(fuse, 1 << 20)  # taken, and never answered
print(fuse, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("key", "ticks"),
    [(None, STUCK_TICKS[""]), ("twin:a", STUCK_TICKS["twin"]), ("dataset:a", MOST_STUCK_TICKS)],
)
def test_it_is_freed(key: str | None, ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_mount():
        pytest.skip(ROOT_REASON)
    process = subprocess.Popen([sys.executable, "-c", SELF_SERVER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        descriptor = int(said.readline())
    keeper = Keeper(None)
    keeper.process = process.pid
    keeper.process_descriptor = os.pidfd_open(process.pid)
    copy = None
    if key is not None:
        # What the keeper has of it, as a descriptor that was handed over.
        copy = keeper.descriptors[key] = _stolen(keeper.process_descriptor, descriptor)
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    keeper.kill(signal.SIGKILL)
    keeper.killed = True
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert any(
        " D " in path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")
    ), "nothing is stuck"
    for _ in range(ticks - 1):
        keeper.tick()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    keeper.tick()
    assert process.wait(10) == -signal.SIGKILL
    os.close(keeper.process_descriptor)
    if copy is not None:
        os.close(copy)


def _stolen(process_descriptor: int, descriptor: int) -> int:
    """pidfd_getfd(2), for which Python has no name."""
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).syscall
    copy: int = call(438, process_descriptor, descriptor, 0)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return copy


def test_the_header_is_as_long_as_it_says() -> None:
    assert struct.calcsize("=IiQIIII48x") == 80
