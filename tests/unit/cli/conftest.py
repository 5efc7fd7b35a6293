"""A fake node, and atlasctl run against it: in this process, in its own, and on a terminal."""

import os
import pty
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from unit.cli.fake_node import FakeNode

_PACKAGE = str(Path(__file__).parents[3] / "python")


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; nothing of the caller's environment changes what is printed."""
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    # Help pages ask for the terminal's width.
    monkeypatch.setenv("COLUMNS", "100")
    with tempfile.TemporaryDirectory(prefix="atlas-cli-") as folder:
        monkeypatch.setenv("ATLAS_HOME", folder)
        yield Path(folder)


@pytest.fixture
def node(home: Path) -> Iterator[FakeNode]:
    fake = FakeNode(home / "run" / "node.sock")
    yield fake
    fake.close()


@pytest.fixture
def atlasctl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command line in this process, where no stream is a terminal."""
    from atlas.cli.main import execute

    def run(*arguments: str) -> Ended:
        code = execute(arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


def start(*arguments: str, **streams: int) -> subprocess.Popen[bytes]:
    """atlasctl as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": _PACKAGE}
    return subprocess.Popen(
        [sys.executable, "-m", "atlas.cli.main", *arguments], env=environment, **streams
    )


class Terminal:
    """A terminal on which a command runs; standard output may go elsewhere."""

    def __init__(self) -> None:
        self.outside, self.inside = pty.openpty()
        self.seen = b""

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = start(*arguments, stdin=self.inside, stdout=subprocess.PIPE, stderr=self.inside)
        os.close(self.inside)
        self.inside = -1
        return process

    def read_until(self, text: bytes, seconds: float = 20.0) -> None:
        """Reads what the terminal shows until `text` is in it, or all of it for b""."""
        deadline = time.monotonic() + seconds
        while not text or text not in self.seen:
            if not select.select([self.outside], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} is not in {self.seen!r}")
            try:
                part = os.read(self.outside, 65536)
            except OSError:  # how Linux ends a terminal whose last user has left
                part = b""
            if not part:
                assert not text, self.seen
                return
            self.seen += part

    def type(self, text: bytes) -> None:
        os.write(self.outside, text)

    def close(self) -> None:
        for descriptor in (self.inside, self.outside):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    found = Terminal()
    yield found
    found.close()
