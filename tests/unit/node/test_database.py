"""The state on a disk that is full."""

import sqlite3
from pathlib import Path

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import DatasetSpec, Source, TierSpec
from atlas.node.database import Database, DatasetRow


def row(number: int, pattern: str = "") -> DatasetRow:
    spec = DatasetSpec(
        mounts=[Source(source="/a")], tiers=[TierSpec(medium="MEM", quota=1)], include=[pattern]
    )
    return DatasetRow(
        f"{number:016x}", f"n{number}", "present", (0, 0, []), spec, 1.0, "MEM", "/m", "u"
    )


def test_a_full_disk_is_an_error_and_passes(tmp_path: Path) -> None:
    database = Database(tmp_path / "atlas.db", "boot")
    database.add_dataset(row(0))
    (pages,) = database._connection.execute("PRAGMA page_count").fetchone()
    database._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(AtlasError) as caught:
        database.add_dataset(row(1, "x" * 100_000))
    assert caught.value.kind is errors.NO_SPACE
    database.set_phase(row(0).id, "deleting")
    database._connection.execute("PRAGMA max_page_count = 100000")
    database.add_dataset(row(1, "x" * 100_000))
    assert [found.name for found in database.datasets()] == ["n0", "n1"]
    database.close()


def test_a_commit_that_fails_is_taken_back(tmp_path: Path) -> None:
    """A disk that is full shows when the log is written: at the commit."""
    database = Database(tmp_path / "atlas.db", "boot")
    database.add_dataset(row(0))

    def add_for_nobody() -> None:
        with database._transaction() as connection:
            # The owner is looked for at the commit then.
            connection.execute("PRAGMA defer_foreign_keys = ON")
            connection.execute("INSERT INTO loads VALUES ('l', 'nobody', 1, 1.0, '')")

    with pytest.raises(sqlite3.IntegrityError):
        add_for_nobody()
    database.set_phase(row(0).id, "deleting")
    assert [found.phase for found in database.datasets()] == ["deleting"]
    database.close()
