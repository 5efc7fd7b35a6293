"""The keeper and the node's link to it, in one process; and its patience with a silent node."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.node import keeper as keeper_module
from atlas.node.descriptors import KeeperLink
from atlas.node.keeper import HOPELESS_DEATHS, SILENT_TICKS, START_TICKS, STARVED_TICKS, Keeper


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


def test_a_node_that_computes_is_late_and_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    seen = iter(range(10 * STARVED_TICKS))
    monkeypatch.setattr(keeper_module, "progress_of", lambda _: (str(next(seen)),))
    keeper = Silent()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        keeper.link, keeper.spoke = ours, True
        for _ in range(STARVED_TICKS):
            keeper.tick()
        assert keeper.kills == []
        for _ in range(5):
            keeper.tick()
        assert len(keeper.kills) == 1


def test_progress_is_what_the_kernel_counts() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
    begin = keeper_module.progress_of(os.getpid())
    while keeper_module.progress_of(os.getpid()) == begin:
        pass
    os.kill(child, signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)
    assert len({keeper_module.progress_of(child) for _ in range(1000)}) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert keeper_module.progress_of(child) == ()


@pytest.mark.parametrize(
    "message", [b"{", b"[]", b"{}", b'{"op": "failed"}', b'{"op": "get"}', b"\xff", b'{"op": []}']
)
def test_a_message_that_is_wrong_ends_nothing_and_leaves_no_descriptor(
    message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    keeper = Keeper(None)
    keeper.descriptors["a"] = os.open("/dev/null", os.O_RDONLY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(ours), closing(theirs):
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(theirs, [message], [0])
        keeper.receive(ours)
        assert len(os.listdir("/proc/self/fd")) == before
    assert list(keeper.descriptors) == ["a"]
    keeper.drop("a")


class Replacing(Keeper):
    """A keeper whose nodes are children that end at once in the way asked for."""

    def __init__(self, *endings: int) -> None:
        super().__init__(None)
        self.endings = list(endings)
        self.kills: list[int] = []
        self.was_ready = True
        self.start_node()

    def start_node(self) -> None:
        ending = self.endings.pop(0)
        self.process = os.fork()
        if self.process == 0:
            if ending < 0:
                os.kill(os.getpid(), -ending)
            os._exit(ending)
        self.process_descriptor = os.pidfd_open(self.process)
        self.killed = False

    def kill(self, number: int) -> None:
        self.kills.append(number)


def test_a_node_that_dies_while_it_stops_has_a_next_one_that_unmounts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    keeper = Replacing(-signal.SIGUSR2, 0)
    keeper.ask_to_stop()
    assert keeper.replace_node()
    assert keeper.kills == [signal.SIGTERM, signal.SIGTERM]
    assert not keeper.replace_node()


def test_a_node_that_ended_as_asked_has_no_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the node could not say so: the keeper was stopped, and the link given up."""
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    monkeypatch.setattr(keeper_module, "RESTART_DELAYS_SECONDS", (0.0,))
    assert not Replacing(0).replace_node()
    keeper = Replacing(1, 0)
    assert keeper.replace_node()
    assert not keeper.replace_node()


def test_nodes_that_always_die_young_leave_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "log", lambda *_: None)
    monkeypatch.setattr(keeper_module, "RESTART_DELAYS_SECONDS", (0.0,))
    keeper = Replacing(*[-signal.SIGUSR2] * (HOPELESS_DEATHS + 1))
    keeper.descriptors["a"] = os.open("/dev/null", os.O_RDONLY)
    for _ in range(HOPELESS_DEATHS):
        assert list(keeper.descriptors) == ["a"]
        # Each was ready before it died.
        keeper.is_ready, keeper.deaths_without_ready = True, 0
        keeper.started_at = time.monotonic()
        assert keeper.replace_node()
    assert keeper.descriptors == {}
    os.waitpid(keeper.process, 0)
    os.close(keeper.process_descriptor)


def test_a_node_can_be_stopped_while_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals wait until it can handle them: else its mounts would be left behind."""
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\nimport signal\n"
        f"open({str(tmp_path / 'blocked')!r}, 'w').write(repr(signal.pthread_sigmask(0, [])))\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    keeper = Keeper(None)
    keeper.start_node()
    assert keeper.link is not None
    keeper.link.close()
    os.waitpid(keeper.process, 0)
    os.close(keeper.process_descriptor)
    blocked = (tmp_path / "blocked").read_text()
    assert all(number.name in blocked for number in keeper_module.STOP_SIGNALS)


def test_nothing_that_the_caller_had_open_is_held(tmp_path: Path) -> None:
    """A lock of the shell that called atlasctl ends with the shell."""
    reading, writing = os.pipe()
    ready_reading, ready_writing = os.pipe()
    os.dup2(ready_writing, 100)
    os.set_inheritable(100, True)
    os.dup2(writing, 101)
    os.close(writing)
    os.close(ready_writing)
    code = (
        "import os, sys, time; from atlas.node import keeper;"
        "keeper.lock = lambda path: time.sleep(1000);"
        f"keeper.main([{str(tmp_path / 'lock')!r}, '100'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[100, 101], start_new_session=True
    )
    os.close(100)
    os.close(101)
    try:
        # The end of the pipe, though the keeper lives.
        assert select.select([reading], [], [], 60)[0]
        assert os.read(reading, 1) == b""
        assert not select.select([ready_reading], [], [], 0)[0]
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    os.close(reading)
    os.close(ready_reading)


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
    code = (
        "import sys, atlas.node.keeper;"
        "print([n for n in sys.modules if n.startswith('atlas.') or n in"
        " ('msgspec', 'asyncio', 'sqlite3', 'logging', 'subprocess')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['atlas.node', 'atlas.node.stuck', 'atlas.node.keeper']"
