"""The findings of doctor, each with the trouble planted that it looks for."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.api import errors, models
from atlas.api.environment import own_home
from atlas.cli import checks, machine
from atlas.cli.checks import FAIL, OK, WARN
from unit.cli.conftest import Ended
from unit.cli.fake_node import FakeNode, dataset

Atlasctl = Callable[..., Ended]


@pytest.fixture(autouse=True)
def no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others mount on this machine meanwhile is not what is tested."""
    atlas_mounts = machine.atlas_mounts
    monkeypatch.setattr(
        machine,
        "atlas_mounts",
        lambda table: [] if table.is_relative_to("/proc") else atlas_mounts(table),
    )


def state(found: object) -> object:
    """The state of one finding, which names a command unless all is well."""
    assert isinstance(found, checks.Check)
    assert found.cause
    assert found.hint or found.state == OK
    return found.state


def findings(ended: Ended) -> dict[str, str]:
    """States by name in the output of `doctor -o json`."""
    return {check["name"]: check["state"] for check in json.loads(ended.out)["checks"]}


def test_all_that_is_promised_is_looked_at(node: FakeNode, atlasctl: Atlasctl) -> None:
    found = findings(atlasctl("doctor", "-o", "json"))
    assert set(found) == {
        "fuse", "rights", "kernel", "tmpfs", "memory", "run folder", "state folder", "log folder",
        "node", "keeper", "version", "data sets", "mounts",
    }  # fmt: skip
    assert found["node"] == found["version"] == OK


def test_the_exit_code_tells_failures(
    node: FakeNode, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worst, code in ((OK, 0), (WARN, 0), (FAIL, 1)):
        monkeypatch.setattr(
            checks, "all_checks", lambda run, worst=worst: [checks.Check("a", worst, "b", "c")]
        )
        assert atlasctl("doctor").code == code


def test_nothing_is_started(home: Path, atlasctl: Atlasctl) -> None:
    assert findings(atlasctl("doctor", "-o", "json"))["node"] == OK
    assert list(home.iterdir()) == []


def test_fuse(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert state(checks.check_fuse(tmp_path / "none", None)) == FAIL
    assert state(checks.check_fuse(tmp_path / "file", None)) == FAIL
    assert state(checks.check_fuse(Path("/dev/null"), None)) == OK


def test_rights(monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> None:
    monkeypatch.setattr(machine, "may_mount", lambda: False)
    assert state(checks.check_rights(own_home(), node.node())) == FAIL
    # A node that is not one's own mounts for its callers.
    assert state(checks.check_rights(own_home({}, 0), node.node())) == OK
    assert state(checks.check_rights(own_home({}, 0), None)) == FAIL


def test_kernel_as_the_node_sees_it(node: FakeNode) -> None:
    seen = node.node()
    assert [state(check) for check in checks.check_kernel(seen)] == [OK]
    seen.status.capabilities["resend"] = "Linux before 6.9"
    (found,) = checks.check_kernel(seen)
    assert state(found) == WARN
    assert "Linux before 6.9" in found.cause


def test_what_is_missing_is_a_warning_that_says_what_it_means(node: FakeNode) -> None:
    seen = node.node()
    for name in ("lazy", "sealed", "swap"):
        seen.status.capabilities[name] = "Operation not permitted"
    found = {check.cause.split("; ")[1].split(":")[0]: check for check in checks.check_kernel(seen)}
    assert list(found) == ["lazy", "sealed", "swap"]
    assert {state(check) for check in found.values()} == {WARN}
    assert "Operation not permitted (data sets are served live" in found["lazy"].cause
    assert "still need a living node" in found["sealed"].cause
    assert "covers the old one" in found["swap"].cause
    # Of a newer node: its name and answer, and no more is known.
    seen.status.capabilities = {"novelty": "no"}
    (unknown,) = checks.check_kernel(seen)
    assert unknown.cause.endswith("; novelty: no")


def test_kernel_without_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "try_mount", lambda: None)
    assert [state(check) for check in checks.check_kernel(None)] == [OK]
    monkeypatch.setattr(machine, "try_mount", lambda: "open /dev/fuse: No such device")
    assert [state(check) for check in checks.check_kernel(None)] == [WARN]


def test_tmpfs() -> None:
    assert state(checks.check_tmpfs(Path("/proc"))) == FAIL


def test_memory(tmp_path: Path, node: FakeNode) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    seen = node.node()
    write("proc/meminfo", "MemTotal:       1048576 kB\n")
    assert state(checks.check_memory(seen, tmp_path)) == OK
    pid = seen.status.pid
    write(f"proc/{pid}/cgroup", "0::/a/b\n")
    write("sys/fs/cgroup/a/b/memory.max", "max\n")
    assert machine.memory_limit(pid, tmp_path) is None
    # The limit of a group above binds too; 2 MiB of MEM tiers are granted.
    write("sys/fs/cgroup/a/memory.max", str(2 << 20))
    assert machine.memory_limit(pid, tmp_path) == 2 << 20
    assert state(checks.check_memory(seen, tmp_path)) == WARN
    write(f"proc/{pid}/cgroup", "5:cpu:/x\n4:memory:/c\n0::/\n")
    write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", str(8 << 20))
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    assert machine.memory_limit(pid, tmp_path) == 8 << 20
    assert state(checks.check_memory(seen, tmp_path)) == OK


def test_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = own_home()
    assert {state(check) for check in checks.check_folders(found)} == {OK}
    found.run.mkdir(mode=0o755)
    found.state.mkdir()
    found.state.chmod(0o777)
    found.log.touch()
    states = {check.name: state(check) for check in checks.check_folders(found)}
    assert states == {"run folder": OK, "state folder": WARN, "log folder": FAIL}
    space = os.statvfs(home)
    with monkeypatch.context() as patched:
        read_only = os.statvfs_result((*space[:8], space.f_flag | os.ST_RDONLY, *space[9:]))
        patched.setattr(os, "statvfs", lambda _: read_only)
        assert state(next(checks.check_folders(found))) == FAIL
        found.run.rmdir()
        assert state(next(checks.check_folders(found))) == FAIL
        found.run.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    foreign = {check.name: state(check) for check in checks.check_folders(own_home())}
    assert foreign["run folder"] == FAIL


def test_a_node_that_does_not_answer(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.refuse("GET /v1/node", None)
    ended = atlasctl("doctor", "-o", "json")
    assert ended.code == 1
    assert findings(ended)["node"] == FAIL


def test_a_keeper_without_a_node(home: Path, atlasctl: Atlasctl) -> None:
    lock = own_home().keeper_lock
    lock.parent.mkdir()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert findings(atlasctl("doctor", "-o", "json"))["node"] == FAIL
    assert findings(atlasctl("doctor", "-o", "json"))["node"] == OK


def test_versions(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.node_version = "0.0.9"
    assert findings(atlasctl("doctor", "-o", "json"))["version"] == WARN
    node.api = "9"
    ended = atlasctl("doctor", "-o", "json")
    assert ended.code == 1
    assert findings(ended)["version"] == FAIL


def test_a_node_without_its_keeper(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = node.node
    lost = models.KeeperStatus(pid=None, alive=False)

    def without() -> models.Node:
        seen = whole()
        seen.status.keeper = lost
        return seen

    monkeypatch.setattr(node, "node", without)
    from atlas.cli.run import Run

    found = {
        check.name: state(check) for check in checks.check_node(Run(), own_home(), checks._Seen())
    }
    assert found == {"node": OK, "keeper": WARN, "version": OK}


def test_datasets() -> None:
    degraded = models.Condition(
        type="Degraded", status="True", reason="TierDegraded", message="the tier is full"
    )
    found = [
        *checks.check_datasets(
            [
                dataset("well"), dataset("failed", phase="Failed"),
                dataset("partial", scan=models.ScanStatus(state="Partial", error="3 folders")),
                dataset("degraded", conditions=[degraded]), dataset("gone", phase="Releasing"),
            ]
        )
    ]  # fmt: skip
    states = {check.name: state(check) for check in found}
    assert states == {
        "data set failed": FAIL, "data set partial": WARN, "data set degraded": WARN,
        "data set gone": WARN, "data sets": OK,
    }  # fmt: skip
    assert "the tier is full" in found[2].cause


def test_dead_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    odd = tmp_path / "odd name"
    odd.mkdir()
    escaped = str(odd).replace(" ", "\\040")
    table.write_text(
        f"1 2 0:3 / / rw - ext4 /dev/a rw\n"
        f"3 1 0:4 / {escaped} ro,nosuid - fuse.atlas wav ro\n"
        f"4 1 0:5 / {tmp_path}/none ro shared:1 master:2 - fuse.atlas dead ro\n"
        f"5 1 0:6 / {tmp_path} ro - fuse.atlas-slow-origin x ro\n"
        f"6 1 0:7 / {tmp_path}/image ro - erofs atlas:wav:1 ro\n"
        f"7 6 0:8 / {tmp_path}/image ro - fuse.atlas atlas:wav:1 ro\n"
        f"8 1 0:9 / {tmp_path}/other ro - erofs /dev/loop0 ro\n"
    )
    assert machine.atlas_mounts(table) == [str(odd), f"{tmp_path}/none", f"{tmp_path}/image"]
    monkeypatch.setattr(machine, "atlas_mounts", lambda _: [str(odd), f"{tmp_path}/none"])
    (found,) = checks.check_mounts([])
    assert state(found) == FAIL
    assert found.hint == f"umount -l {tmp_path}/none"
    monkeypatch.setattr(machine, "atlas_mounts", lambda _: [str(odd)])
    assert [state(check) for check in checks.check_mounts([])] == [OK]
    elsewhere = models.Mount(
        metadata=models.Metadata(), spec=models.MountSpec(dataset="wav", path="/elsewhere")
    )
    assert [state(check) for check in checks.check_mounts([elsewhere])] == [WARN, OK]


def test_a_mount_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(checks, "_STAT_SECONDS", 0.05)
    monkeypatch.setattr(os, "statvfs", lambda _: os.read(reading, 1))
    assert checks._stat_trouble("/a") == "no answer within 0.05 s"
    os.write(writing, b"x")
    os.close(writing)


def test_the_time_limit_counts(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.refuse("GET /v1/version", errors.AtlasError(errors.TIMED_OUT, "too slow"))
    ended = atlasctl("doctor", "-o", "json")
    assert ended.code == 1
    assert findings(ended)["node"] == FAIL
