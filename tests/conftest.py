"""What tests of a whole node share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.testing.node import LocalNode

ROOT_REASON = "needs root and /dev/fuse: it mounts for real"


def can_mount() -> bool:
    """Whether this machine lets the tests mount."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


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
