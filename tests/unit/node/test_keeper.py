"""The keeper and the node's link to it, in one process; and its patience with a silent node."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.node import keeper as keeper_module
from atlas.node.descriptors import KeeperLink
from atlas.node.keeper import SILENT_TICKS, START_TICKS, Keeper


@contextmanager
def linked(keeper: Keeper) -> Iterator[tuple[KeeperLink, socket.socket]]:
    """A keeper that serves one link in a thread, as its loop does, until the link is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper.link = ours

    def serve() -> None:
        while keeper.link is not None:
            keeper.receive(ours)

    thread = threading.Thread(target=serve)
    thread.start()
    link = KeeperLink(theirs)
    link.start()
    try:
        yield link, theirs
    finally:
        theirs.shutdown(socket.SHUT_RDWR)
        thread.join()
        theirs.close()


def test_descriptors_outlive_the_node() -> None:
    keeper = Keeper(None)
    with linked(keeper) as (link, _):
        reading, writing = os.pipe()
        link.put("a", reading)
        os.close(reading)
        assert link.held() == ["a"]
    with linked(keeper) as (link, _):
        copy = link.get("a")
        assert copy is not None
        os.write(writing, b"x")
        assert os.read(copy, 1) == b"x"
        assert not os.get_inheritable(copy)
        os.close(copy)
        os.close(writing)
        assert link.get("b") is None
        link.drop("a")
        assert link.held() == []
        assert keeper.descriptors == {}


def test_putting_again_closes_what_was_there() -> None:
    keeper = Keeper(None)
    with linked(keeper) as (link, _):
        for _ in range(3):
            link.put("a", 0)
        before = len(os.listdir("/proc/self/fd"))
        link.put("a", 0)
        assert len(os.listdir("/proc/self/fd")) == before
        link.drop("a")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_node_lives_on_without_its_keeper() -> None:
    keeper = Keeper(None)
    with linked(keeper) as (link, theirs):
        assert link.status().alive
        theirs.shutdown(socket.SHUT_RDWR)
        link.put("a", 0)
        assert link.get("a") is None
        assert link.held() == []
        assert not link.status().alive


def test_results_of_the_start_reach_whoever_waits() -> None:
    reading, writing = os.pipe()
    keeper = Keeper(writing)
    with linked(keeper) as (link, _), os.fdopen(reading) as pipe:
        link.failed(AtlasError(errors.CORRUPT, "no"))
        assert json.loads(pipe.readline())["error"]["code"] == "ATL1008"
        link.ready()
        assert pipe.readline() == ""


class Silent(Keeper):
    """A keeper of a node that never answers; counts kills."""

    def __init__(self) -> None:
        super().__init__(None)
        self.kills: list[int] = []

    def kill(self, number: int) -> None:
        self.kills.append(number)


def test_a_silent_node_is_killed_after_the_missed_pings_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    keeper = Silent()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        keeper.link, keeper.spoke = ours, True
        for _ in range(SILENT_TICKS):
            keeper.tick()
        assert keeper.kills == []
        keeper.tick()
        assert len(keeper.kills) == 1
        # One ping, however often it was not answered.
        assert json.loads(theirs.recv(100)) == {"op": "ping"}


def test_an_answer_makes_all_good_again() -> None:
    keeper = Silent()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        keeper.link, keeper.spoke = ours, True
        for _ in range(SILENT_TICKS):
            for _ in range(SILENT_TICKS - 1):
                keeper.tick()
            theirs.send(b'{"op": "pong"}')
            keeper.receive(ours)
        assert keeper.kills == []


def test_a_start_has_its_own_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    keeper = Silent()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        keeper.link = ours
        for _ in range(START_TICKS - 1):
            keeper.tick()
        assert keeper.kills == []
        keeper.tick()
        assert len(keeper.kills) == 1


def test_only_one_keeper_has_the_lock(tmp_path: os.PathLike[str]) -> None:
    path = f"{tmp_path}/keeper.lock"
    first = keeper_module.lock(path)
    assert first is not None
    assert keeper_module.lock(path) is None
    os.close(first)
    second = keeper_module.lock(path)
    assert second is not None
    os.close(second)


def test_the_keeper_imports_nothing_of_the_node() -> None:
    """It is resident on every machine, and must not fail with what it watches."""
    import subprocess
    import sys

    code = (
        "import sys, atlas.node.keeper;"
        "print([n for n in sys.modules if n.startswith('atlas.') or n in"
        " ('msgspec', 'asyncio', 'sqlite3', 'logging', 'subprocess')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['atlas.node', 'atlas.node.keeper']"
