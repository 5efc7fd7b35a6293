"""A world for each test, whose mount ids the node's own checks understand."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.node import mounting
from atlas.node.database import Database
from unit.node.world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # In memory: its thousands of transactions would each wait for a disk.
    with tempfile.TemporaryDirectory(prefix="atlas-world-", dir="/dev/shm") as folder:
        yield prepared(World(Path(folder)), monkeypatch)


def prepared(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """With each of its steps where the node makes it."""

    def mount_id_of(descriptor: int) -> int:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        entry = world.top(path)
        return -1 if entry is None else int(entry["id"])

    monkeypatch.setattr(mounting, "mount_id_of", mount_id_of)
    transaction = Database._transaction

    @contextmanager
    def deadly(self: Database) -> Iterator[Any]:
        world.step(AtlasError(errors.NO_SPACE, "the node's state cannot be written"))
        with transaction(self) as connection:
            yield connection

    # A write to the database is a step, before which the node may die.
    monkeypatch.setattr(Database, "_transaction", deadly)
    return world
