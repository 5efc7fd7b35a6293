"""A folder of its own for one scenario: temporary files, an Atlas home, and a clean end.

However the scenario ends (done, failed, Ctrl-C, SIGTERM), nothing of it stays: no mount, no
process, no file.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from atlas import _native
from atlas.api.environment import own_home

ATLASCTL = Path(sys.executable).parent / "atlasctl"
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CommandError(Exception):
    """A command failed; the message is what it said."""


class Ended(BaseException):
    """A signal asked the scenario to end. Not an Exception: nothing but the exit handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _end(number: int, _frame: FrameType | None) -> None:
    _defer_signals()
    raise Ended(number)


def _defer_signals() -> None:
    # A handler rather than SIG_IGN, which the commands of the clean-up would inherit.
    for one in END_SIGNALS:
        signal.signal(one, lambda _number, _frame: None)


def _kill(pid: int) -> None:
    """End a process that is not our child, and wait until it is gone (at most 10 s)."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        gone = select.poll()
        gone.register(process, select.POLLIN)
        gone.poll(10_000)
    except ProcessLookupError:
        return
    finally:
        os.close(process)


class Workplace:
    """A temporary folder with its own Atlas home and node, as a context.

    Signals end the block by `Ended` and do not disturb the clean-up that follows. Things entered
    into `stack` end after the node, in reverse order, so that origins outlive what reads them.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent
        self.stack = ExitStack()

    def __enter__(self) -> Workplace:
        for one in END_SIGNALS:
            signal.signal(one, _end)
        self.folder = Path(tempfile.mkdtemp(prefix="atlas-bench-", dir=self._parent)).resolve()
        self.home = self.folder / "home"
        self.home.mkdir(0o700)
        self._variables = {
            name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")
        }
        self._variables["ATLAS_HOME"] = str(self.home)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _defer_signals()
        problems: list[str] = []
        for action in (self._stop_node, self.stack.close, self._remove):
            try:
                action()
            except (OSError, ValueError, CommandError, _native.NativeError) as problem:
                problems.append(str(problem))
        if problems:
            print("clean-up: " + "; ".join(problems), file=sys.stderr)

    def atlasctl(self, *words: str) -> str:
        """Run the real atlasctl in this workplace and return its output. Raises CommandError."""
        result = subprocess.run(
            [ATLASCTL, *words],
            env=self._variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise CommandError(f"atlasctl {' '.join(words)}: {result.stderr.strip()}")
        return result.stdout

    def atlasctl_object(self, *words: str) -> dict[str, Any]:
        """The API object that atlasctl prints for these words."""
        found: dict[str, Any] = json.loads(self.atlasctl(*words, "-o", "json"))
        return found

    def create(self, name: str, source: Path, size: int, front: str | None = None) -> Path:
        """Create a data set in memory and return where it can be read."""
        words = ["--from", str(source), "--size", str(size), "--medium", "MEM"]
        if front is not None:
            words += ["--front", front]
        return Path(self.atlasctl_object("cache", "create", name, *words)["status"]["mountPath"])

    def delete(self, name: str) -> None:
        """Delete a data set."""
        self.atlasctl("cache", "delete", name, "-y")

    def node_pid(self) -> int:
        """The process id of this workplace's node."""
        return int(self.atlasctl_object("node", "describe")["status"]["pid"])

    def _stop_node(self) -> None:
        if not self._own_processes():
            return
        for item in self.atlasctl_object("cache", "list")["items"]:
            self.atlasctl("cache", "delete", item["metadata"]["name"], "--force", "-y")
        self.atlasctl("node", "stop", "--force")

    def _own_processes(self) -> list[int]:
        """Keeper and node of this workplace, known by the home in their environment."""
        mark = b"ATLAS_HOME=" + os.fsencode(self.home)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    # Gone, or another user's: not ours.
                    continue
        return found

    def _remove(self) -> None:
        # More than once: a keeper may have replaced its node meanwhile.
        for _ in range(3):
            for pid in self._own_processes():
                _kill(pid)
        for mount in reversed(self.mounts()):
            _native.unmount(mount, True)
        if left := self.mounts():
            # Never remove through a mount: what lies behind it is not ours.
            raise CommandError(f"{left[0]} is still mounted: {self.folder} stays")
        shutil.rmtree(self.folder)
        memory = own_home(self._variables).shared_memory
        if memory.exists():
            shutil.rmtree(memory)

    def mounts(self) -> list[str]:
        """The mounts below this workplace, outer ones first."""
        inside = str(self.folder) + "/"
        paths = (os.fspath(one["path"]) for one in _native.mount_table())
        return [path for path in paths if path.startswith(inside)]


def run_scenario(scenario: Callable[[Workplace], int], parent: Path | None = None) -> int:
    """Run a scenario in a workplace and return the program's exit code."""
    try:
        with Workplace(parent) as workplace:
            return scenario(workplace)
    except Ended as ended:
        print("stopped; nothing stays behind", file=sys.stderr)
        return ended.exit_code
    except (CommandError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
