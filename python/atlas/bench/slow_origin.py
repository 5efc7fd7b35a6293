"""A folder seen as a busy shared file system would show it.

``python -m atlas.bench.slow_origin SOURCE TARGET`` mounts SOURCE read-only at TARGET through a
file system that answers each metadata call and each read no sooner than ``latency``, all readers
sharing one bandwidth and one budget of metadata operations, and lets the kernel cache nothing. It
prints ``ready`` when the mount can be used, serves until SIGINT, SIGTERM or an unmount, and prints
then how often it was asked.

Defaults: 2 ms, 200 MB/s and 3,000 metadata operations a second are what one client gets of a Lustre
that many share, seen from a node with rate limits on it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from atlas import _native
from atlas.api.errors import AtlasError
from atlas.api.units import parse_duration, parse_rate

Value = TypeVar("Value")


@dataclass(frozen=True)
class Slowness:
    """How slow the origin is. The two rates hold for all readers together."""

    latency_seconds: float = 0.002
    bytes_per_second: int = 200_000_000
    operations_per_second: int = 3_000

    def words(self) -> str:
        """The same for a person."""
        return (
            f"{self.latency_seconds * 1000:g} ms a call, "
            f"{self.bytes_per_second / 1e6:g} MB/s, "
            f"{self.operations_per_second:,} metadata operations/s"
        )


class SlowOriginError(Exception):
    """The slow origin did not start; the message is what it said last."""


@contextlib.contextmanager
def slow_origin(source: Path, target: Path, slowness: Slowness) -> Iterator[None]:
    """Serve `source` at `target` from a child process for as long as the block runs.

    The child holds the read end of a pipe and leaves when it closes, so it never outlives this
    process, however that ends. Raises SlowOriginError when there is no mount.
    """
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "atlas.bench.slow_origin", "--attached"),
            *("--latency", f"{slowness.latency_seconds}s"),
            *("--bandwidth", str(slowness.bytes_per_second)),
            *("--operations", str(slowness.operations_per_second)),
            *(str(source), str(target)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Ctrl-C is for the parent, which ends its readers first.
        start_new_session=True,
    )
    try:
        # Nothing else is printed before the end, so neither pipe can fill up.
        if child.stdout is None or child.stdout.readline() != "ready\n":
            _, said = child.communicate()
            raise SlowOriginError(said.strip() or "the slow origin ended without a word")
        yield
    finally:
        child.terminate()
        child.communicate()


def argument(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """`parse` as argparse wants it: with an error that it reports as a usage error."""

    def checked(text: str) -> Value:
        try:
            return parse(text)
        except AtlasError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_with_parent() -> None:
    """Ask this process to stop when its standard input closes."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def announce(ready: int) -> None:
    """Print `ready` when the mount is there; nothing when it never came."""
    if os.read(ready, 1):
        print("ready", flush=True)


class Server(threading.Thread):
    """The mount, served until it is gone; then the process is asked to stop."""

    def __init__(self, source: Path, target: Path, slowness: Slowness, ready: int) -> None:
        # Files that are still open after the unmount need not be waited for.
        super().__init__(daemon=True)
        self._source, self._target = str(source), str(target)
        self._slowness = slowness
        self._ready = ready
        self.counts: dict[str, int] | None = None
        self.error: str | None = None

    def run(self) -> None:
        try:
            self.counts = _native.serve_slow_origin(
                self._source,
                self._target,
                self._slowness.latency_seconds,
                self._slowness.bytes_per_second,
                self._slowness.operations_per_second,
                self._ready,
            )
        except (_native.NativeError, OverflowError) as error:
            self.error = str(error)
        finally:
            os.close(self._ready)
            os.kill(os.getpid(), signal.SIGTERM)

    def end(self) -> None:
        """Unmount, and wait a moment for the kernel to let go."""
        if self.is_alive():
            try:
                _native.unmount(self._target, True)
            except _native.NativeError as error:
                self.error = str(error)
            self.join(timeout=1)


def main() -> int:
    """Serve until told to stop."""
    plain = Slowness()
    parser = argparse.ArgumentParser(
        prog="python -m atlas.bench.slow_origin", description="Serve a folder slowly."
    )
    parser.add_argument("source", type=Path, help="folder to show")
    parser.add_argument("target", type=Path, help="empty folder to show it at")
    parser.add_argument("--latency", type=argument(parse_duration), default=plain.latency_seconds)
    parser.add_argument("--bandwidth", type=argument(parse_rate), default=plain.bytes_per_second)
    parser.add_argument("--operations", type=int, default=plain.operations_per_second)
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    # Before any thread begins: one that had them open would be ended by them, mount and all.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    reading, writing = os.pipe()
    threading.Thread(target=announce, args=(reading,), daemon=True).start()
    if arguments.attached:
        threading.Thread(target=end_with_parent, daemon=True).start()
    slowness = Slowness(arguments.latency, arguments.bandwidth, arguments.operations)
    server = Server(arguments.source, arguments.target, slowness, writing)
    server.start()
    signal.sigwait(END_SIGNALS)
    server.end()
    if server.error:
        print(f"error: {server.error}", file=sys.stderr)
        return 1
    if server.counts is not None:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(server.counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
