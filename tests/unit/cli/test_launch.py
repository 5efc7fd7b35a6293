"""Starting a node: one at a time, within the time limit, and with what went wrong."""

import fcntl
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.api import errors
from atlas.api.environment import own_home
from atlas.api.errors import AtlasError
from atlas.api.launch import ensure_node, start_node
from unit.cli.conftest import Ended
from unit.cli.fake_node import FakeNode

Atlasctl = Callable[..., Ended]


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A shell script in place of the Python that would run the keeper."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_running_node_is_used(node: FakeNode) -> None:
    home = own_home()
    assert start_node(home) is False
    assert ensure_node(home).version().pid == 42


def test_what_the_node_reports_is_raised(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '{"error": {"code": "ATL2016", "message": "no /dev/fuse"}}'
    program(tmp_path, monkeypatch, f"echo '{body}' >&3")
    with pytest.raises(AtlasError) as caught:
        start_node(own_home())
    assert caught.value.kind is errors.CANNOT_MOUNT
    assert caught.value.message == "no /dev/fuse"


def test_readiness_is_waited_for(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child gets its own session, a log, nothing to read, and the pipe."""
    program(
        tmp_path,
        monkeypatch,
        "read -r _ _ _ _ _ session _ < /proc/$$/stat;"
        ' echo "$3 $(cat | wc -c) $session $$"; echo \'{"ready": true}\' >&3',
    )
    assert start_node(own_home()) is True
    module, read, session, pid = own_home().node_log.read_text().split()
    assert (module, read, session) == ("atlas.node.keeper", "0", pid)


def test_nothing_of_the_working_folder_is_imported(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be anybody's, and root starts the system's node in it."""
    found = tmp_path / "found"
    for name in ("array", "json", "socket", "atlas", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(found)!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    # In a home that is no folder the keeper ends at once.
    own_home().keeper_lock.mkdir(parents=True)
    with pytest.raises(AtlasError) as caught:
        start_node(own_home())
    assert caught.value.kind is errors.NOT_READY
    assert "IsADirectoryError" in own_home().node_log.read_text()
    assert not found.exists()


@pytest.mark.parametrize(
    ("script", "kind"), [("exit 3", errors.NOT_READY), ("sleep 60 & exit 0", errors.TIMED_OUT)]
)
def test_a_start_that_fails_ends_in_time(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    kind: errors.ErrorCode,
) -> None:
    program(tmp_path, monkeypatch, script.replace("& exit", f"& echo $! > {tmp_path}/pid; exit"))
    with pytest.raises(AtlasError) as caught:
        start_node(own_home(), 0.3)
    assert caught.value.kind is kind
    assert "node.log" in (caught.value.hint or "")
    if (tmp_path / "pid").exists():
        os.kill(int((tmp_path / "pid").read_text()), 9)


class TestTheLock:
    """Another command is starting the node."""

    @pytest.fixture
    def lock(self, home: Path) -> int:
        own_home().run.mkdir()
        descriptor = os.open(own_home().start_lock, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def test_the_time_limit_holds(self, lock: int, atlasctl: Atlasctl) -> None:
        ended = atlasctl(
            "--timeout", "200ms", "cache", "create", "new", "--from", "/a", "--size", "1Gi"
        )
        os.close(lock)
        assert ended.code == 124
        # The lock that the command waited for was not kept by what it left behind.
        deadline = time.monotonic() + 10
        descriptor = os.open(own_home().start_lock, os.O_RDWR)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
        os.close(descriptor)

    def test_what_the_other_command_has_started_is_used(self, lock: int, home: Path) -> None:
        results: list[bool] = []
        waiting = threading.Thread(target=lambda: results.append(start_node(own_home())))
        waiting.start()
        node = FakeNode(own_home().socket)
        os.close(lock)
        waiting.join(20)
        node.close()
        assert results == [False]


def test_a_home_of_somebody_else(
    home: Path, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it has state cannot be seen then; the error tells whose it is."""
    own_home().run.mkdir()
    own_home().run.chmod(0o755)

    def exists(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "exists", exists)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    ended = atlasctl("cache", "list")
    assert ended.code == 6
    assert f"belongs to uid {owner}" in ended.err


@pytest.mark.parametrize(("folder", "code"), [("/proc/atlas", 1), ("/dev/null/atlas", 1)])
def test_a_home_that_cannot_be_made(
    atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch, folder: str, code: int
) -> None:
    monkeypatch.setenv("ATLAS_HOME", folder)
    ended = atlasctl("node", "start")
    assert ended.code == code
    assert "cannot be started" in ended.err
    assert "defect" not in ended.err
