"""Creating, listing and deleting data sets: what is refused, what is unchanged, who sees what."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError, ErrorCode
from atlas.api.models import MountSpec, TierSpec
from atlas.node.application import Application
from atlas.node.caller import Caller
from unit.node.world import OTHER, ROOT, USER, World, wanted


@pytest.fixture
def node(world: World) -> Iterator[Application]:
    node = world.node()
    yield node
    node.database.close()


def make(
    node: Application,
    world: World,
    caller: Caller = ROOT,
    name: str = "wav",
    mount: str | None = None,
    **changes: object,
) -> bool:
    return node.datasets.create(caller, wanted(world, name, **changes), mount, dry_run=False)[1]


def refused(
    kind: ErrorCode,
    node: Application,
    world: World,
    caller: Caller = ROOT,
    mount: str | None = None,
    **changes: object,
) -> AtlasError:
    """Asserts that a create is refused with `kind` and leaves nothing."""
    with pytest.raises(AtlasError) as caught:
        make(node, world, caller, "refused", mount, **changes)
    assert caught.value.kind is kind, caught.value
    assert not [entry for entry in world.mounted if "refused" in entry["source"]]
    assert all(row.name != "refused" for row in node.database.datasets())
    return caught.value


def tier(medium: str = "MEM", quota: int = 1 << 20, paths: tuple[str, ...] = ()) -> list[TierSpec]:
    return [TierSpec(medium=medium, quota=quota, paths=list(paths))]  # type: ignore[arg-type]


def test_the_same_again_is_unchanged_and_another_a_conflict(
    node: Application, world: World
) -> None:
    assert make(node, world)
    assert not make(node, world)
    with pytest.raises(AtlasError) as caught:
        make(node, world, tiers=tier(quota=2 << 20), include=["*.wav"])
    assert caught.value.kind is errors.CONFLICT
    assert caught.value.details == [
        "spec.include: [] -> ['*.wav']",
        "spec.tiers[0].quota: 1048576 -> 2097152",
    ]


def test_a_missing_mount_is_added_by_the_same_again(node: Application, world: World) -> None:
    folder = world.folder / "target"
    folder.mkdir()
    assert make(node, world)
    assert not make(node, world, mount=str(folder))
    status = node.datasets.get(ROOT, "wav").status
    assert status.mount_path == str(folder)
    assert status.mount_paths == [f"{world.home.mounts}/wav", str(folder)]
    assert not make(node, world, mount=str(folder))


def test_sources(node: Application, world: World) -> None:
    def source(path: object) -> list[object]:
        wish = wanted(world)
        wish.spec.mounts[0].source = str(path)
        return list(wish.spec.mounts)

    refused(errors.PATH_NOT_FOUND, node, world, mounts=source(world.folder / "absent"))
    refused(errors.INVALID, node, world, mounts=source("relative"))
    refused(errors.INVALID, node, world, mounts=source(world.home.state))
    refused(errors.INVALID, node, world, mounts=source(world.folder))
    closed = world.folder / "closed"
    closed.mkdir(mode=0o700)
    refused(errors.ACCESS_DENIED, node, world, USER, mounts=source(closed))
    make(node, world)
    error = refused(errors.INVALID, node, world, mounts=source(world.home.mounts / "wav"))
    assert "Atlas mount" in str(error)


def test_mount_folders(node: Application, world: World) -> None:
    folder = world.folder / "target"
    absent = refused(errors.PATH_NOT_FOUND, node, world, mount=str(folder))
    assert absent.hint == f"mkdir -p {folder}"
    refused(errors.INVALID, node, world, mount="target")
    folder.mkdir()
    os.chown(folder, os.geteuid(), -1)
    (folder / "x").touch()
    refused(errors.CONFLICT, node, world, mount=str(folder))
    (folder / "x").unlink()
    if os.geteuid() == 0:
        refused(errors.DENIED, node, world, USER, mount=str(folder))
    inside = world.source / "inside"
    inside.mkdir()
    refused(errors.INVALID, node, world, mount=str(inside))
    refused(errors.INVALID, node, world, mount=str(world.home.log))
    assert make(node, world, mount=str(folder))
    refused(errors.CONFLICT, node, world, mount=str(folder))


def test_a_link_to_a_mount_folder_is_resolved(node: Application, world: World) -> None:
    folder = world.folder / "target"
    folder.mkdir()
    link = world.folder / "link"
    link.symlink_to(folder)
    make(node, world, mount=str(link))
    assert [entry["path"] for entry in world.mounted][-1] == str(folder)
    removed = node.mounts.remove(ROOT, str(link), None, force=False, dry_run=False)
    assert [mount.spec.path for mount in removed] == [str(link)]
    assert len(world.mounted) == 1


def test_limits_are_those_of_promises(node: Application, world: World) -> None:
    """Quotas count, not what is used of them."""
    half = 1 << 29
    make(node, world, name="a", tiers=tier(quota=half))
    make(node, world, USER, "b", tiers=tier(quota=half))
    refused(errors.QUOTA, node, world, tiers=tier(quota=4096))
    refused(errors.QUOTA, node, world, USER, tiers=tier("SSD", 4096))
    make(node, world, OTHER, "c", tiers=tier("SSD", 1))
    make(node, world, OTHER, "d", tiers=tier("SSD", 1))
    make(node, world, OTHER, "e", tiers=tier("SSD", 1))
    refused(errors.QUOTA, node, world, OTHER, tiers=tier("SSD", 1))
    refused(errors.QUOTA, node, world, tiers=tier("SSD", 1 << 60))


def test_only_root_names_tier_folders(node: Application, world: World) -> None:
    folder = str(world.folder / "disk")
    refused(errors.DENIED, node, world, USER, tiers=tier("SSD", 1, (folder,)))
    assert make(node, world, tiers=tier("SSD", 1, (folder,)))
    refused(errors.INVALID, node, world, tiers=tier("SSD", 1, (folder, "/x")))


def test_an_unmounted_disk_is_noticed(node: Application, world: World) -> None:
    """A tier that had a data set and has lost its marker is never written to."""
    disk = world.folder / "disk"
    make(node, world, tiers=tier("SSD", 1, (str(disk),)))
    (disk / "marker").rename(world.folder / "marker")
    refused(errors.TIER_MISSING, node, world, tiers=tier("SSD", 2, (str(disk),)))
    assert not (disk / "marker").exists()


def test_users_see_their_own_and_root_sees_all(node: Application, world: World) -> None:
    make(node, world, USER, "a")
    make(node, world, ROOT, "b")

    def names(caller: Caller) -> list[str]:
        return [dataset.metadata.name for dataset in node.datasets.visible(caller)]

    assert (names(USER), names(OTHER), names(ROOT)) == (["a"], [], ["a", "b"])
    for call in (
        lambda: node.datasets.get(OTHER, "a"),
        lambda: node.datasets.delete(OTHER, "a", force=True, dry_run=False),
        lambda: node.mounts.remove(OTHER, None, "a", force=True, dry_run=False),
        lambda: node.loads.visible(OTHER, "a"),
    ):
        with pytest.raises(AtlasError) as caught:
            call()
        assert caught.value.kind is errors.NOT_FOUND
    with pytest.raises(AtlasError) as caught:
        make(node, world, OTHER, "a")
    assert caught.value.kind is errors.CONFLICT
    assert str(world.source) not in str(caught.value.details)
    assert node.datasets.get(USER, "a").spec.owner == "2001:2001"


def test_a_dry_run_changes_nothing(node: Application, world: World) -> None:
    preview, _ = node.datasets.create(ROOT, wanted(world), None, dry_run=True)
    assert preview.status.mount_path == f"{world.home.mounts}/wav"
    assert world.left_behind() == []
    make(node, world)
    deletion = node.datasets.delete(ROOT, "wav", force=False, dry_run=True)
    assert (deletion.dry_run, deletion.bytes) == (True, 4096)
    assert node.datasets.get(ROOT, "wav").status.phase == "Bound"


def test_a_busy_mount_brings_all_mounts_back(node: Application, world: World) -> None:
    """Somebody came between the look for holders and the unmount."""
    folder = world.folder / "target"
    folder.mkdir()
    make(node, world, mount=str(folder))
    world.busy.add(f"{world.home.mounts}/wav")
    with pytest.raises(AtlasError) as caught:
        node.datasets.delete(ROOT, "wav", force=False, dry_run=False)
    assert caught.value.kind is errors.IN_USE
    assert {entry["path"] for entry in world.mounted} == {f"{world.home.mounts}/wav", str(folder)}


def test_the_node_s_own_mount_stays(node: Application, world: World) -> None:
    make(node, world)
    with pytest.raises(AtlasError) as caught:
        node.mounts.remove(ROOT, f"{world.home.mounts}/wav", None, force=True, dry_run=False)
    assert caught.value.kind is errors.CONFLICT


def test_a_failed_engine_leaves_nothing(
    node: Application, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        from unit.node.world import NativeError

        raise NativeError("ATL1005", 28, "no space left")

    monkeypatch.setattr(node._engine, "serve", fail)
    refused(errors.NO_SPACE, node, world)
    assert world.left_behind() == []


def test_one_failed_data_set_does_not_hurt_the_others(world: World, tmp_path: Path) -> None:
    node = world.node()
    make(node, world, name="good")
    disk = world.folder / "disk"
    make(node, world, name="bad", tiers=tier("SSD", 1, (str(disk),)))
    node.database.close()
    (disk / "marker").rename(world.folder / "marker")
    node = world.node()
    node.start()
    good, bad = node.datasets.get(ROOT, "good").status, node.datasets.get(ROOT, "bad").status
    assert (good.phase, bad.phase) == ("Bound", "Failed")
    assert bad.conditions[0].reason == "TierMissing"
    with pytest.raises(AtlasError) as caught:
        node.datasets.delete(ROOT, "bad", force=False, dry_run=False)
    assert caught.value.kind is errors.TIER_MISSING
    assert "atlasctl cache delete bad --force" in (caught.value.hint or "")
    node.datasets.delete(ROOT, "bad", force=True, dry_run=False)
    assert [dataset.metadata.name for dataset in node.datasets.visible(ROOT)] == ["good"]
    node.shut_down()


def test_a_mount_that_somebody_took_away_is_added_by_the_same_again(
    node: Application, world: World
) -> None:
    folder = world.folder / "target"
    folder.mkdir()
    make(node, world, mount=str(folder))
    world.mounted[:] = [entry for entry in world.mounted if entry["path"] != str(folder)]
    assert not make(node, world, mount=str(folder))
    assert str(folder) in {entry["path"] for entry in world.mounted}


def test_mount_folders_that_cannot_be_looked_at(
    node: Application, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = world.folder / os.fsdecode(b"\xff")
    hidden.mkdir()
    (world.folder / "link").symlink_to(hidden)
    refused(errors.INVALID, node, world, mount=f"{world.folder}/link")
    folder = world.folder / "target"
    folder.mkdir()

    def closed(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied")  # as in a user's own FUSE mount

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", closed)
        with pytest.raises(AtlasError) as caught:
            make(node, world, mount=str(folder))
    assert caught.value.kind is errors.ACCESS_DENIED


def test_a_stop_leaves_nothing_in_memory_without_a_data_set(world: World) -> None:
    node = world.node()
    make(node, world)
    node.shut_down()
    assert world.home.memory_tier.exists()
    node = world.node()
    node.start()
    node.datasets.delete(ROOT, "wav", force=False, dry_run=False)
    assert world.home.memory_tier.exists()
    node.shut_down()
    assert not world.home.shared_memory.exists()


def test_a_stop_is_refused_while_a_deleted_data_set_is_used(world: World) -> None:
    node = world.node()
    node.start()
    make(node, world)
    world.held.update(world.superblocks)
    assert node.datasets.delete(ROOT, "wav", force=True, dry_run=False).releasing
    with pytest.raises(AtlasError) as caught:
        node.stop(ROOT, force=False)
    assert caught.value.kind is errors.IN_USE
    world.held.clear()
    node.stop(ROOT, force=False)


def test_a_folder_that_changed_hands_meanwhile_is_not_unmounted(
    node: Application, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = world.folder / "target"
    folder.mkdir()
    make(node, world, name="a", mount=str(folder))
    make(node, world, name="b")
    chosen = node.mounts._chosen

    def and_then_b(*arguments: object) -> object:
        found = chosen(*arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(node.mounts, "_chosen", chosen)
        node.mounts.remove(ROOT, str(folder), None, force=True, dry_run=False)
        node.mounts.add(ROOT, MountSpec(dataset="b", path=str(folder)), dry_run=False)
        return found

    monkeypatch.setattr(node.mounts, "_chosen", and_then_b)
    with pytest.raises(AtlasError) as caught:
        node.mounts.remove(ROOT, str(folder), None, force=True, dry_run=False)
    assert caught.value.kind is errors.TEMPORARY
    assert [row.dataset for row in node.database.mounts()] == [
        row.id for row in node.database.datasets() if row.name == "b"
    ]
