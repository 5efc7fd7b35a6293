"""What tests of a whole node share."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.testing.node import LocalNode

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE, _MS_SHARED = 1 << 14, 1 << 18, 1 << 20

ROOT_REASON = "needs root and /dev/fuse: it mounts for real"


def can_mount() -> bool:
    """Whether this machine lets the tests mount."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


def pytest_sessionstart() -> None:
    """A mount namespace of their own for the tests and all that they start, in which mounts spread
    as systemd has it on real machines: whatever the one that they were started in does."""
    if not can_mount():
        return
    call = ctypes.CDLL(None, use_errno=True)
    for done in (
        call.unshare(_CLONE_NEWNS),
        call.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None),
        call.mount(None, b"/", None, _MS_REC | _MS_SHARED, None),
    ):
        if done != 0:
            error = ctypes.get_errno()
            pytest.exit(f"the tests need a mount namespace: {os.strerror(error)}", 1)


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder on a disk (not tmpfs, so that origin and cache are told apart), short in name."""
    folder = Path(tempfile.mkdtemp(prefix="atlas-test-", dir="/var/tmp"))
    # Other users must be able to reach what a test opens to them.
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on tmpfs: for trees so large that a disk would take a minute to remove them."""
    folder = Path(tempfile.mkdtemp(prefix="atlas-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def node(work: Path) -> Iterator[LocalNode]:
    """A node with a home of its own."""
    if not can_mount():
        pytest.skip(ROOT_REASON)
    with LocalNode(work / "home") as node:
        yield node
