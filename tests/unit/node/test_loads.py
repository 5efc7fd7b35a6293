"""Loads are kept, watched, and go on after a restart."""

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import DataLoad, LoadSpec
from atlas.node.application import Application
from atlas.node.loads import USER_READERS
from unit.node.world import ROOT, USER, World, wanted


def ended(node: Application, name: str) -> DataLoad:
    """The load when it has ended."""
    while True:
        load = node.loads.get(ROOT, name, wait_seconds=5.0)
        if load.status.phase not in ("Running", "Pending"):
            return load


def started(world: World) -> Application:
    node = world.node()
    node.start()
    node.datasets.create(ROOT, wanted(world), None, dry_run=False)
    return node


def test_progress_and_end(world: World) -> None:
    node = started(world)
    load, new = node.loads.start(ROOT, "wav", LoadSpec(), dry_run=False)
    name = load.metadata.name
    assert new
    assert load.status.phase == "Running"
    engine = node._engine.loads[name]  # type: ignore[attr-defined]
    assert engine["paths"] == [b""]
    engine.update(files=1, bytes=10, files_total=2, bytes_total=20)
    load = node.loads.get(ROOT, name, wait_seconds=5.0)
    while load.status.bytes == 0:
        load = node.loads.get(ROOT, name, wait_seconds=5.0)
    assert (load.status.files_total, load.status.bytes_total) == (2, 20)
    engine.update(
        phase="Partial", files=1, failed=[{"path": "b", "reason": "gone"}], failed_count=1
    )
    load = ended(node, name)
    assert (load.status.phase, load.status.failed[0].path) == ("Partial", "b")
    assert load.status.completion_time is not None
    assert [one.metadata.name for one in node.loads.visible(ROOT, "wav")] == [name]
    node.shut_down()


def test_one_load_at_a_time(world: World) -> None:
    node = started(world)
    spec = LoadSpec(paths=["a//b/", "/c"])
    first, _ = node.loads.start(ROOT, "wav", spec, dry_run=False)
    assert first.spec.paths == ["/a/b", "/c"]
    again, new = node.loads.start(ROOT, "wav", LoadSpec(paths=["/c", "a/b"]), dry_run=False)
    assert (again.metadata.name, new) == (first.metadata.name, False)
    with pytest.raises(AtlasError) as caught:
        node.loads.start(ROOT, "wav", LoadSpec(), dry_run=False)
    assert caught.value.kind is errors.CONFLICT
    assert caught.value.hint == "atlasctl cache warm wav:/a/b wav:/c"
    assert node.loads.stop(ROOT, first.metadata.name).status.phase == "Stopped"
    assert node.loads.start(ROOT, "wav", LoadSpec(), dry_run=False)[1]
    node.shut_down()


def test_a_running_load_goes_on_in_the_next_node(world: World) -> None:
    node = started(world)
    load, _ = node.loads.start(ROOT, "wav", LoadSpec(paths=["/a"]), dry_run=False)
    name = load.metadata.name
    # As a kill leaves it: nothing is told to anybody.
    node.loads.stop_watching()
    node._recovery.stop()
    node.database.close()
    node = world.node()
    node.start()
    engine = node._engine.loads[name]  # type: ignore[attr-defined]
    assert engine["paths"] == [b"a"]
    assert node.loads.get(ROOT, name).status.phase == "Running"
    assert node.loads.get(ROOT, name).status.start_time == load.status.start_time
    engine.update(phase="Complete")
    assert ended(node, name).status.phase == "Complete"
    node.shut_down()


@pytest.mark.parametrize("path", ["..", "/a/../b", "a\0b", "\udcff"])
def test_paths_that_leave_the_data_set_are_invalid(world: World, path: str) -> None:
    node = started(world)
    with pytest.raises(AtlasError) as caught:
        node.loads.start(ROOT, "wav", LoadSpec(paths=[path]), dry_run=False)
    assert caught.value.kind is errors.INVALID
    node.shut_down()


def test_a_dry_run_says_what_would_move(world: World) -> None:
    node = started(world)
    preview, _ = node.loads.start(ROOT, "wav", LoadSpec(), dry_run=True)
    assert (preview.status.bytes, preview.status.bytes_total) == (500, 1000)
    assert node.loads.visible(ROOT, "wav") == []
    node.shut_down()


def test_a_user_has_so_many_readers(world: World) -> None:
    node = world.node()
    node.start()
    for name in ("a", "b"):
        node.datasets.create(USER, wanted(world, name), None, dry_run=False)
    node.loads.start(USER, "a", LoadSpec(parallel=USER_READERS), dry_run=False)
    with pytest.raises(AtlasError) as caught:
        node.loads.start(USER, "b", LoadSpec(parallel=1), dry_run=False)
    assert caught.value.kind is errors.QUOTA
    node.loads.start(ROOT, "b", LoadSpec(parallel=1), dry_run=False)
    node.shut_down()
