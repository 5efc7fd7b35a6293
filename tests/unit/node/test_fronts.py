"""How one front takes another's place: seldom, everywhere at once, and undone where it fails."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.models import DatasetChanges
from atlas.node.application import Application
from atlas.node.database import DatasetRow
from atlas.node.settings import Settings
from unit.node.world import ROOT, World, wanted

SETTINGS = Settings(memory_bytes=1 << 30, user_bytes=1 << 29, swap_rest=0.0, reseal_rest=0.0)
IMAGE = {"state": "Ready", "bytes": 4096, "seconds": 0.1, "error": None}
SCANNED: dict[str, Any] = {"image": IMAGE}
CACHED: dict[str, Any] = {
    "image": IMAGE,
    "sealable": True,
    "unsealed_reason": "",
    "sealed_trouble": None,
}
VERIFIED_AGAIN = {**CACHED, "sealable": False, "unsealed_reason": "being verified"}
"""As another process finds it."""
MOST_STEPS = 200


@pytest.fixture
def node(world: World) -> Iterator[Application]:
    node = world.node(SETTINGS)
    yield node
    node.database.close()


def begin(world: World, node: Application, **changes: object) -> DatasetRow:
    """A data set with one user's mount."""
    target = world.folder / "target"
    target.mkdir(exist_ok=True)
    node.datasets.create(ROOT, wanted(world, **changes), str(target), dry_run=False)
    row = node.database.dataset_named("wav")
    assert row is not None
    return row


def advance(world: World, node: Application, status: dict[str, Any]) -> str:
    """Lets the node look at the data set; gives the front that it has then."""
    world.status = status
    row = node.database.dataset_named("wav")
    assert row is not None
    node.fronts.advance(row)
    return front_of(world, node)


def front_of(world: World, node: Application) -> str:
    """Asserts that all paths show one front, which is served, and that describe names it."""
    row = node.database.dataset_named("wav")
    assert row is not None
    paths = paths_of(world, node, row)
    assert {entry["path"] for entry in world.mounted} == paths
    shown = {entry["superblock"] for path in paths if (entry := world.top(path)) is not None}
    assert len(shown) == 1
    status = node.datasets.get(ROOT, "wav").status
    assert sorted(status.fronts[0].mount_paths) == sorted(paths)
    assert [front.attached for front in status.fronts] == [True] + [False] * (
        len(status.fronts) - 1
    )
    assert status.front == served(node, row, shown.pop())
    return str(status.front)


def paths_of(world: World, node: Application, row: DatasetRow) -> set[str]:
    return {f"{world.home.mounts}/wav", *(mount.path for mount in node.database.mounts(row.id))}


def served(node: Application, row: DatasetRow, superblock: int) -> str:
    engine: Any = node._engine
    twin = engine.world.images.get(superblock)
    if twin is None:
        assert engine.served[row.id] == superblock
        return "live"
    if twin == 0:
        return "sealed"
    assert engine.twins[row.id] == twin
    return "lazy"


def events(node: Application, row: DatasetRow) -> list[str]:
    return [
        event.message
        for event in node.database.events(row.id, row.name)
        if event.reason in ("FrontChanged", "FrontFailed", "FrontKept")
    ]


def test_a_data_set_climbs_as_its_bytes_come(world: World, node: Application) -> None:
    row = begin(world, node)
    assert front_of(world, node) == "live"
    assert list(world.kept) == [f"dataset:{row.id}"]
    assert advance(world, node, {}) == "live"
    assert advance(world, node, SCANNED) == "lazy"
    assert advance(world, node, SCANNED) == "lazy"
    # Nobody used the live front: its session is over, with the next look at the latest.
    assert list(world.kept) == [f"twin:{row.id}"]
    assert advance(world, node, CACHED) == "sealed"
    assert advance(world, node, CACHED) == "sealed"
    assert list(world.kept) == []
    assert events(node, row) == [
        "live -> lazy: the scan is complete",
        "lazy -> sealed: everything is cached and verified",
    ]
    assert len(node.database.fronts(row.id)) == 1


def test_a_front_in_use_is_served_until_its_last_user_leaves(
    world: World, node: Application
) -> None:
    row = begin(world, node)
    live = world.mounted[0]["superblock"]
    world.held.add(live)
    advance(world, node, SCANNED)
    assert world.kept[f"dataset:{row.id}"] == live
    lazy = world.mounted[0]["superblock"]
    world.held.add(lazy)
    advance(world, node, CACHED)
    status = node.datasets.get(ROOT, "wav").status
    assert [front.front for front in status.fronts] == ["sealed", "lazy", "live"]
    world.held.clear()
    advance(world, node, CACHED)
    assert [front.kind for front in node.database.fronts(row.id)] == ["sealed"]
    assert list(world.kept) == []


def test_what_is_freed_is_not_shown_sealed(world: World, node: Application) -> None:
    begin(world, node)
    advance(world, node, CACHED)
    assert node.datasets.free(ROOT, "wav", dry_run=True).bytes == 500
    assert front_of(world, node) == "sealed"
    freed = node.datasets.free(ROOT, "wav", dry_run=False)
    assert (freed.bytes, freed.held_bytes) == (500, 0)
    assert front_of(world, node) == "lazy"


def test_what_somebody_reads_through_a_sealed_front_is_freed_later(
    world: World, node: Application
) -> None:
    begin(world, node)
    advance(world, node, CACHED)
    world.held.add(world.mounted[0]["superblock"])
    freed = node.datasets.free(ROOT, "wav", dry_run=False)
    assert (freed.bytes, freed.held_bytes) == (0, 500)
    assert front_of(world, node) == "lazy"


def test_a_seal_that_breaks_is_left_at_once(world: World) -> None:
    """Also within the rest between two swaps, and not taken again before its own rest is over."""
    settings = replace(SETTINGS, swap_rest=1000.0, reseal_rest=1000.0)
    node = world.node(settings)
    row = begin(world, node)
    assert advance(world, node, CACHED) == "sealed"
    broken = {**SCANNED, "sealed_trouble": "an extent is damaged"}
    assert advance(world, node, broken) == "lazy"
    assert advance(world, node, CACHED) == "lazy"
    assert events(node, row)[-1] == "sealed -> lazy: an extent is damaged"
    node.database.close()


def test_the_next_node_keeps_a_sealed_front(world: World, node: Application) -> None:
    """It verifies everything once more; what was verified before stays as it is meanwhile."""
    begin(world, node)
    advance(world, node, CACHED)
    before = [entry["superblock"] for entry in world.mounted]
    node.database.close()
    world.status = VERIFIED_AGAIN
    second = world.node(SETTINGS)
    row = second.database.datasets()[0]
    second._lifecycle.bring_up(row)
    second._registry.entry(row.id).state = "serving"
    for status in (VERIFIED_AGAIN, CACHED):
        assert advance(world, second, status) == "sealed"
    assert [entry["superblock"] for entry in world.mounted] == before
    assert advance(world, second, SCANNED) == "lazy"
    second.database.close()


def test_a_lost_image_costs_the_lazy_front_alone(world: World, node: Application) -> None:
    row = begin(world, node)
    live = world.mounted[0]["superblock"]
    world.held.add(live)
    advance(world, node, SCANNED)
    node.database.close()
    world.status = {}
    second = world.node(SETTINGS)
    second._lifecycle.bring_up(row)
    second._registry.entry(row.id).state = "serving"
    assert front_of(world, second) == "live"
    engine: Any = second._engine
    assert engine.served[row.id] == live, "its users are served on"
    second.database.close()


def test_a_kill_after_new_tables_does_not_hide_that_they_are_new(
    world: World, node: Application
) -> None:
    """The engine begins anew where it finds no tables; then the next one finds some."""
    row = begin(world, node)
    advance(world, node, CACHED)
    before = {entry["superblock"] for entry in world.mounted}
    node.database.close()
    (world.home.datasets / row.id / "instance").unlink()
    killed = world.node(SETTINGS)
    killed._lifecycle._tiers.reopen(row)
    killed._engine.open(killed._lifecycle._settings(row))
    killed.fronts._instance(row)
    killed.database.close()
    second = world.node(SETTINGS)
    second._lifecycle.bring_up(row)
    second._registry.entry(row.id).state = "serving"
    front_of(world, second)
    assert not before & {entry["superblock"] for entry in world.mounted}
    second.database.close()


def test_an_old_front_of_lost_tables_does_not_cost_the_present_ones(
    world: World, node: Application
) -> None:
    """It may be held open for long; each restart meanwhile goes on with what serves."""
    row = begin(world, node)
    advance(world, node, CACHED)
    world.held.add(world.mounted[0]["superblock"])
    node.database.close()
    (world.home.datasets / row.id / "instance").unlink()
    world.status = SCANNED
    second = world.node(SETTINGS)
    second._lifecycle.bring_up(row)
    second._registry.entry(row.id).state = "serving"
    assert front_of(world, second) == "lazy"
    present = [entry["superblock"] for entry in world.mounted]
    second.database.close()
    third = world.node(SETTINGS)
    third._lifecycle.bring_up(row)
    third._registry.entry(row.id).state = "serving"
    assert front_of(world, third) == "lazy"
    assert [entry["superblock"] for entry in world.mounted] == present
    third.database.close()


def test_a_probe_that_fails_for_a_moment_costs_no_front(world: World, node: Application) -> None:
    world.capabilities["swap"] = "the kernel is too old"
    begin(world, node)
    assert advance(world, node, CACHED) == "sealed"
    node._capabilities._next_try = 0.0
    world.capabilities["sealed"] = world.capabilities["lazy"] = "the disk is full"
    assert advance(world, node, CACHED) == "sealed"
    assert node._capabilities.has("lazy")


def test_swaps_are_seldom(world: World) -> None:
    node = world.node(replace(SETTINGS, swap_rest=1000.0))
    begin(world, node)
    assert advance(world, node, SCANNED) == "lazy"
    assert advance(world, node, CACHED) == "lazy"
    assert "sealed in a moment" in str(node.datasets.get(ROOT, "wav").status.front_reason)
    node.database.close()


def test_the_setting_decides(world: World, node: Application) -> None:
    row = begin(world, node, front="live")
    assert advance(world, node, CACHED) == "live"
    for setting in ("sealed", "lazy", "live", "auto"):
        changes = DatasetChanges(front=setting)  # type: ignore[arg-type]
        changed = node.datasets.update(ROOT, "wav", changes, dry_run=True)
        assert changed.spec.front == setting
        node.datasets.update(ROOT, "wav", changes, dry_run=False)
        expected = "sealed" if setting == "auto" else setting
        assert advance(world, node, CACHED) == expected
    assert [message.split(":")[0] for message in events(node, row)] == [
        "live -> sealed",
        "sealed -> lazy",
        "lazy -> live",
        "live -> sealed",
    ]


def test_what_the_machine_cannot_do_is_refused_by_name(world: World, node: Application) -> None:
    world.capabilities["sealed"] = "no EROFS here"
    with pytest.raises(AtlasError) as caught:
        begin(world, node, front="sealed")
    assert caught.value.kind is errors.UNSUPPORTED
    assert caught.value.cause == "no EROFS here"
    begin(world, node)
    assert advance(world, node, CACHED) == "lazy"
    with pytest.raises(AtlasError):
        node.datasets.update(ROOT, "wav", DatasetChanges(front="sealed"), dry_run=False)
    assert node.datasets.get(ROOT, "wav").spec.front == "auto"


def test_without_beneath_the_new_front_covers_the_old(world: World, node: Application) -> None:
    world.capabilities["swap"] = "the kernel is too old"
    row = begin(world, node)
    assert advance(world, node, SCANNED) == "lazy"
    assert advance(world, node, CACHED) == "sealed"
    assert len(world.mounted) == 6
    assert len(node.database.fronts(row.id)) == 3
    node.mounts.remove(ROOT, None, "wav", force=False, dry_run=False)
    assert len(world.mounted) == 3
    node.datasets.delete(ROOT, "wav", force=False, dry_run=False)
    assert world.left_behind() == []


def test_a_covered_path_keeps_its_front_and_is_told_of(world: World, node: Application) -> None:
    row = begin(world, node)
    path = os.path.realpath(world.folder / "target")
    world.mounted.append(
        {
            "id": world.number(),
            "parent": next(entry["id"] for entry in world.mounted if entry["path"] == path),
            "path": path,
            "superblock": world.number(),
            "source": "tmpfs",
            "type": "tmpfs",
            "device": (0, 99),
        }
    )
    world.status = SCANNED
    node.fronts.advance(row)
    assert any("shows an earlier front" in message for message in events(node, row))
    top = world.top(str(world.home.mounts / "wav"))
    assert top is not None
    assert top["superblock"] in world.images


def test_a_front_that_somebody_took_away_comes_back(world: World, node: Application) -> None:
    row = begin(world, node)
    advance(world, node, CACHED)
    for path in (str(world.home.mounts / "wav"), os.path.realpath(world.folder / "target")):
        entry = world.top(path)
        assert entry is not None
        world.mounted.remove(entry)
    node.fronts.heal(row)
    own = world.top(str(world.home.mounts / "wav"))
    assert own is not None
    assert served(node, row, own["superblock"]) == "sealed"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], SCANNED),
        ([], CACHED),
        ([SCANNED], CACHED),
        ([CACHED], SCANNED),
        ([CACHED], {}),
    ],
)
def test_a_failure_at_any_step_leaves_a_front_that_serves(
    world: World, before: list[dict[str, Any]], after: dict[str, Any]
) -> None:
    """And the next attempt succeeds."""
    for fail_at in range(1, MOST_STEPS):
        node = world.node(SETTINGS)
        row = begin(world, node)
        for status in before:
            advance(world, node, status)
        world.steps, world.fail_at, world.status = 0, fail_at, after
        node.fronts.advance(row)
        failed = world.steps >= fail_at
        world.fail_at = 0
        for path in paths_of(world, node, row):
            shown = world.top(path)
            assert shown is not None
            served(node, row, shown["superblock"])
        # The first look may find what the failed one had done, the second makes it whole.
        for _ in range(3):
            state = node._registry.entry(row.id).front
            state.next_attempt = state.next_settling = state.next_seal = 0.0
            node.fronts.advance(row)
        reached = front_of(world, node)
        assert reached == ("sealed" if after is CACHED else "lazy" if after is SCANNED else "live")
        node.datasets.delete(ROOT, "wav", force=False, dry_run=False)
        assert world.left_behind() == []
        node.database.close()
        if not failed:
            return
    pytest.fail(f"never done within {MOST_STEPS} steps")
