"""`node stop` where the node's socket is gone: through the keeper, and nobody else."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atlas.api.environment import own_home
from atlas.cli import machine
from unit.cli.conftest import Ended

Atlasctl = Callable[..., Ended]

HOLD = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(sys.argv[2] or str(os.getpid()))
file.flush()
print(flush=True)
time.sleep(1000)
"""


@pytest.fixture
def hold(home: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """A process that holds the keeper's lock; the file names the pid given, or its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(pid: str) -> subprocess.Popen[bytes]:
        lock = own_home().keeper_lock
        lock.parent.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lock), pid], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


Hold = Callable[[str], "subprocess.Popen[bytes]"]


def test_the_keeper_is_found_and_ended(hold: Hold, atlasctl: Atlasctl) -> None:
    keeper = hold("")
    ended = atlasctl("node", "stop", "-o", "json")
    assert ended.code == 0
    assert json.loads(ended.out) == {"stopped": {"pid": keeper.pid}}
    assert keeper.wait(20) == -15
    assert "No node is running." in atlasctl("node", "stop").err


def test_another_process_is_left_alone(hold: Hold, atlasctl: Atlasctl) -> None:
    """The lock's file names one that does not hold the lock."""
    other = subprocess.Popen(["sleep", "1000"])
    hold(str(other.pid))
    ended = atlasctl("node", "stop", "--force")
    assert ended.code == 5
    assert other.poll() is None
    other.kill()
    other.wait()


def test_mounts_that_may_be_in_use_need_force(
    hold: Hold, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = hold("")
    monkeypatch.setattr(machine, "atlas_mounts", lambda _: [str(own_home().mounts / "wav")])
    ended = atlasctl("node", "stop")
    assert ended.code == 4
    assert "atlasctl node stop --force" in ended.err
    assert keeper.poll() is None
    assert atlasctl("node", "stop", "--force").code == 0
    assert keeper.wait(20) == -15
