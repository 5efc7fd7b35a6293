"""A world for each test, whose mount ids the node's own checks understand."""

import os
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
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)

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
