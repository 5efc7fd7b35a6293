"""A node killed at any step leaves nothing that its successor cannot serve or remove."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from atlas.api.errors import AtlasError
from atlas.node.application import Application
from unit.node.world import ROOT, Killed, World, wanted

MOST_STEPS = 200
IMAGE = {"state": "Ready", "bytes": 4096, "seconds": 0.1, "error": None}


def create(world: World, node: Application) -> None:
    node.datasets.create(ROOT, wanted(world), str(target(world)), dry_run=False)


def create_on_disk(world: World, node: Application) -> None:
    wish = wanted(world)
    wish.spec.tiers[0].medium = "SSD"
    node.datasets.create(ROOT, wish, None, dry_run=False)


def delete(world: World, node: Application) -> None:
    node.datasets.delete(ROOT, "wav", force=False, dry_run=False)


def delete_forced(world: World, node: Application) -> None:
    node.datasets.delete(ROOT, "wav", force=True, dry_run=False)


def unmount(world: World, node: Application) -> None:
    node.mounts.remove(ROOT, None, "wav", force=False, dry_run=False)


def climb(world: World, node: Application) -> None:
    """Live -> lazy."""
    look(world, node, {"image": IMAGE})


def seal(world: World, node: Application) -> None:
    verified = {"sealable": True, "unsealed_reason": "", "sealed_trouble": None}
    look(world, node, {"image": IMAGE, **verified})


def unseal(world: World, node: Application) -> None:
    """A tier fails: everything is read through the engine again."""
    look(world, node, {"image": IMAGE})


def look(world: World, node: Application, status: dict[str, Any]) -> None:
    world.status = status
    (row,) = node.database.datasets()
    node.fronts.advance(row)


def nothing(world: World, node: Application) -> None:
    """The death of a node that was only serving."""


def target(world: World) -> Path:
    folder = world.folder / "target"
    folder.mkdir(exist_ok=True)
    return folder


def check(world: World) -> None:
    """After a restart: served whole, or gone without a trace."""
    node = world.node()
    with closing(node.database):
        node.start()
        try:
            if node.database.dataset_named("wav") is None:
                assert world.left_behind() == []
                return
            dataset = node.datasets.get(ROOT, "wav")
            assert dataset.status.phase == "Bound", dataset.status.conditions
            assert dataset.status.mount_paths[0] == f"{world.home.mounts}/wav"
            # The housekeeping may be about to change the front.
            with node._registry.hold("wav"):
                check_front(world, node)
            node.datasets.delete(ROOT, "wav", force=False, dry_run=False)
            assert world.left_behind() == []
        finally:
            node.shut_down()


def check_front(world: World, node: Application) -> None:
    """All mounts are of one living superblock. The keeper has what that needs, and no more."""
    (row,) = node.database.datasets()
    engine: Any = node._engine
    (superblock,) = {entry["superblock"] for entry in world.mounted}
    if superblock not in world.images:
        assert engine.served == {row.id: superblock}
        needed = {f"dataset:{row.id}": superblock}
    elif world.images[superblock]:
        assert engine.twins == {row.id: world.images[superblock]}
        needed = {f"twin:{row.id}": world.images[superblock]}
    else:
        needed = {}
    kept = {key: kept for key, kept in world.kept.items() if kept and world.alive(kept)}
    assert kept == needed
    fronts = node.database.fronts(row.id)
    assert sum(front.attached for front in fronts) == 1


@pytest.mark.parametrize(
    ("before", "action"),
    [
        ([], create),
        ([], create_on_disk),
        ([create], delete),
        ([create], delete_forced),
        ([create_on_disk], delete_forced),
        ([create], unmount),
        ([create], nothing),
        ([create], climb),
        ([create], seal),
        ([create, climb], seal),
        ([create, seal], unseal),
        ([create, seal, unseal], nothing),
        ([create, seal], nothing),
        ([create, seal], delete),
        ([create, climb], delete_forced),
    ],
)
def test_a_kill_at_any_step_is_recovered_from(
    world: World,
    before: list[Callable[[World, Application], None]],
    action: Callable[[World, Application], None],
) -> None:
    for kill_at in range(1, MOST_STEPS):
        node = world.node()
        for step in before:
            step(world, node)
        world.steps, world.kill_at = 0, kill_at
        try:
            action(world, node)
            killed = False
        except Killed:
            killed = True
        node.database.close()
        check(world)
        world.status = {}
        if not killed:
            return
    pytest.fail(f"never done within {MOST_STEPS} steps")


@pytest.mark.parametrize("kill_at", range(1, 25))
def test_a_kill_during_recovery_is_recovered_from(world: World, kill_at: int) -> None:
    """Also the successor may die, at any step of its own."""
    node = world.node()
    create(world, node)
    node.database.close()
    second = world.node()
    world.steps, world.kill_at = 0, kill_at
    row = second.database.datasets()[0]

    def serve_and_shut_for_ever() -> None:
        while True:
            second._lifecycle.bring_up(row)
            second._lifecycle.shut(row, keep_mounts=True)

    with closing(second.database), pytest.raises(Killed):
        serve_and_shut_for_ever()
    check(world)


def test_what_is_still_used_is_released_later(world: World) -> None:
    """A forced delete frees the name at once, the bytes when the last user has left: also when
    the node dies in between."""
    node = world.node()
    create(world, node)
    superblock = world.mounted[0]["superblock"]
    world.held.add(superblock)
    deletion = node.datasets.delete(ROOT, "wav", force=True, dry_run=False)
    assert deletion.releasing
    with pytest.raises(AtlasError):
        node.datasets.delete(ROOT, "wav", force=True, dry_run=False)
    create(world, node)
    phases = [dataset.status.phase for dataset in node.datasets.visible(ROOT)]
    assert phases == ["Bound", "Releasing"]
    node.database.close()

    node = world.node()
    node.start()
    phases = [dataset.status.phase for dataset in node.datasets.visible(ROOT)]
    assert phases == ["Bound", "Releasing"]
    world.held.clear()
    released = node.database.datasets()[1]
    assert node._lifecycle.release(released)
    node.datasets.delete(ROOT, "wav", force=False, dry_run=False)
    assert world.left_behind() == []
    node.shut_down()


def test_mounts_of_lost_tables_are_not_served_on(world: World) -> None:
    """A node id means one file for ever: where the engine begins anew, the kernel must too."""
    node = world.node()
    create(world, node)
    before = {entry["superblock"] for entry in world.mounted}
    row = node.database.datasets()[0]
    node.database.close()
    # Among the tables, it goes with them.
    (world.home.datasets / row.id / "instance").unlink()
    node = world.node()
    node.start()
    after = {entry["superblock"] for entry in world.mounted}
    assert len(after) == 1
    assert not before & after
    assert len(node.datasets.get(ROOT, "wav").status.mount_paths) == 2
    node.shut_down()
