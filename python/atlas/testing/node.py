"""A real node with its own home, driven by the real `atlasctl`, for tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from atlas.api.environment import own_home

COMMAND_SECONDS = 120


def as_user(uid: int) -> list[str]:
    """The start of a command line that runs the rest as `uid`, without groups.

    The right to read every file stays, because the interpreter and this checkout may lie in folders
    that are closed to others; no right to write or to mount does.
    """
    return [
        "setpriv",
        "--reuid",
        str(uid),
        "--regid",
        str(uid),
        "--clear-groups",
        "--inh-caps",
        "-all,+dac_read_search",
        "--ambient-caps",
        "+dac_read_search",
        "--",
    ]


class LocalNode:
    """One node under a home of its own. Leaving the context deletes every data set and stops it."""

    def __init__(self, home: Path, environment: dict[str, str] | None = None) -> None:
        self.home = home
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ATLAS_")},
            "ATLAS_HOME": str(home),
            "NO_COLOR": "1",
            **(environment or {}),
        }
        self.atlasctl = str(Path(sys.executable).with_name("atlasctl"))

    def __enter__(self) -> "LocalNode":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def run(
        self, *arguments: str | bytes, uid: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `atlasctl` to its end, whatever that is; `uid`: as that user and group."""
        return subprocess.run(
            [*(as_user(uid) if uid is not None else []), self.atlasctl, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def ok(self, *arguments: str | bytes) -> str:
        """Run `atlasctl`, which must succeed; returns what it wrote to standard output."""
        result = self.run(*arguments)
        assert result.returncode == 0, (arguments, result.returncode, result.stdout, result.stderr)
        return result.stdout

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start `atlasctl` without waiting for it."""
        return subprocess.Popen(
            [self.atlasctl, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def json(self, *arguments: str) -> Any:
        """Run `atlasctl ... -o json`, which must succeed; returns the object."""
        return json.loads(self.ok(*arguments, "-o", "json"))

    def create(
        self, name: str, source: Path, *options: str, size: str = "1Gi", medium: str = "MEM"
    ) -> Path:
        """Create a data set; returns where it is mounted."""
        self.ok(
            "cache",
            "create",
            name,
            "--from",
            str(source),
            "--size",
            size,
            "--medium",
            medium,
            *options,
        )
        return self.mount_of(name)

    def create_on(self, source: Path, tier: str, name: str = "data") -> Path:
        """Create a data set on the tier `medium:size:folder`; returns where it is mounted."""
        self.ok("cache", "create", name, "--from", str(source), "--tier", tier)
        return self.mount_of(name)

    def dataset(self, name: str) -> Any:
        """The Dataset object."""
        return self.json("cache", "get", name)

    def status(self, name: str) -> Any:
        """The `status` of a Dataset."""
        return self.dataset(name)["status"]

    def mount_of(self, name: str) -> Path:
        """Where a data set is mounted."""
        return Path(self.status(name)["mountPath"])

    def node(self) -> Any:
        """The `status` of the Node object."""
        return self.json("node", "describe")["status"]

    def pid(self) -> int:
        """The process id of the node (not of its keeper)."""
        return int(self.node()["pid"])

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal to the node process; returns its id."""
        pid = self.pid()
        os.kill(pid, number)
        return pid

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Wait until `condition` holds.

        Raises:
            AssertionError: it did not within `seconds`.
        """
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for: {what}\n{self.log()}"
            time.sleep(0.05)

    def wait_scanned(self, name: str, seconds: float = 60) -> None:
        """Wait until the namespace of a data set is known."""
        self.wait_for(
            lambda: self.status(name)["scan"]["state"] != "Running", f"the scan of {name}", seconds
        )

    def configure(self, **settings: str | int) -> None:
        """Writes the settings of the node, which must not run yet."""
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.home / "node.toml").write_text("".join(lines))

    def wait_front(self, name: str, front: str, seconds: float = 60) -> None:
        """Wait until all mounts of a data set show the front."""
        self.wait_for(lambda: self.status(name)["front"] == front, f"{name} to be {front}", seconds)

    def log(self) -> str:
        """The end of the node's log."""
        path = self.home / "log" / "node.log"
        return path.read_text(errors="replace")[-8000:] if path.exists() else ""

    def mounts(self) -> list[str]:
        """Mount points below the home, as the kernel has them."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            points = [line.split()[4] for line in table]
        return [point for point in points if point.startswith(f"{self.home}/")]

    def end(self) -> None:
        """Delete every data set, stop the node and remove the home, with what it has in memory."""
        listed = self.run("cache", "list", "-o", "json")
        if listed.returncode == 0:
            for item in json.loads(listed.stdout)["items"]:
                if item["status"]["phase"] != "Releasing":
                    self.run("cache", "delete", item["metadata"]["name"], "-y", "--force")
        self.run("node", "stop", "--force")
        for point in reversed(self.mounts()):
            subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(own_home(self._environment).shared_memory, ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)
