"""Processes that read a mount and compare every byte with the plain tree, for tests.

Each is a process of its own, as a training job is, and reads until it is told to stop:

    with Reader(plain, mount, seed=1) as reader:
        ...
        report = reader.end(opens=100_000)
"""

import argparse
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

IN_A_SLAVE_NAMESPACE: Final = ("unshare", "--mount", "--propagation", "slave", "--")
"""Runs the reader as a container does that follows the host's mounts."""

_MOST_PROBLEMS: Final = 10
_COUNT: Final = struct.Struct("=q")
_EVERY: Final = 100
"""Reads between two looks at the mount's device and at whether to stop."""
_BLOCK: Final = 1 << 16
"""Bytes that one checksum covers, and the alignment of reads within files: what readers expect must
fit into memory, where the data does not."""


@dataclass
class Report:
    """What a reader saw. `swaps`: how often the mount's root was on another device than before."""

    opens: int = 0
    reads: int = 0
    longest_seconds: float = 0.0
    swaps: int = 0
    problems: list[str] = field(default_factory=list)


class Reader:
    """A reader process. Leaving the context kills it, where it has not been ended."""

    def __init__(
        self,
        plain: Path,
        mount: Path,
        seed: int,
        hold: bool = False,
        cold: bool = False,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """`hold`: opens every file once and reads in it at random, also through a mapping, instead
        of opening files in random order. `cold`: gives the kernel's pages up before each read."""
        self._count = tempfile.NamedTemporaryFile(prefix="atlas-reader-")  # noqa: SIM115
        self._count.write(_COUNT.pack(-1))
        self._count.flush()
        command = [*prefix, sys.executable, "-m", "atlas.testing.reading", str(plain), str(mount)]
        command += ["--seed", str(seed), "--count", self._count.name]
        command += ["--hold"] * hold + ["--cold"] * cold
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def reads(self) -> int:
        """So far, in steps; -1: it has not begun."""
        with open(self._count.name, "rb") as file:
            count: int = _COUNT.unpack(file.read(_COUNT.size))[0]
        return count

    def end(self, opens: int = 0) -> Report:
        """Lets it go on to so many reads, and ends it."""
        answer, _ = self.process.communicate(f"{opens}\n")
        assert self.process.returncode == 0, f"a reader ended with {self.process.returncode}"
        return Report(**json.loads(answer))

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self._count.close()


class _Reading:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.mount = os.fsencode(arguments.mount)
        self.random = random.Random(arguments.seed)
        self.cold = arguments.cold
        self.report = Report()
        self.device = os.stat(self.mount).st_dev
        self.expected: dict[bytes, tuple[int, list[int]]] = {}
        root = os.fsencode(arguments.plain)
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                self.expected[os.path.relpath(path, root)] = _checksums_of(path)
        self.names = sorted(self.expected)
        self.held: list[tuple[bytes, int, mmap.mmap]] = []
        if arguments.hold:
            self.held = [self._open(name) for name in self.names if self.expected[name][0]]

    def _open(self, name: bytes) -> tuple[bytes, int, mmap.mmap]:
        descriptor = os.open(os.path.join(self.mount, name), os.O_RDONLY)
        self.report.opens += 1
        return name, descriptor, mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)

    def step(self) -> None:
        began = time.monotonic()
        if self.held:
            self._read_held()
        else:
            self._read_anew()
        self.report.reads += 1
        self.report.longest_seconds = max(self.report.longest_seconds, time.monotonic() - began)

    def look_around(self) -> None:
        try:
            device = os.stat(self.mount).st_dev
        except OSError as error:
            self._complain(self.mount, str(error))
            return
        self.report.swaps += device != self.device
        self.device = device

    def _read_anew(self) -> None:
        name = self.random.choice(self.names)
        try:
            with open(os.path.join(self.mount, name), "rb", buffering=0) as file:
                self.report.opens += 1
                if self.cold:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                size, checksums = self.expected[name]
                blocks = iter(lambda: file.read(_BLOCK), b"")
                seen = [(len(block), zlib.crc32(block)) for block in blocks]
        except OSError as error:
            self._complain(name, str(error))
            return
        if sum(length for length, _ in seen) != size or [crc for _, crc in seen] != checksums:
            self._complain(name, "wrong bytes")

    def _read_held(self) -> None:
        name, descriptor, mapping = self.random.choice(self.held)
        checksums = self.expected[name][1]
        block = self.random.randrange(len(checksums))
        start = block * _BLOCK
        if self.cold:
            mapping.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(descriptor, start, _BLOCK, os.POSIX_FADV_DONTNEED)
        try:
            if zlib.crc32(os.pread(descriptor, _BLOCK, start)) != checksums[block]:
                self._complain(name, f"wrong bytes at {start}")
        except OSError as error:
            self._complain(name, str(error))
        # A page that cannot be had is a SIGBUS here: it ends the process, which the test sees.
        if zlib.crc32(mapping[start : start + _BLOCK]) != checksums[block]:
            self._complain(name, f"wrong mapped bytes at {start}")

    def _complain(self, name: bytes, what: str) -> None:
        self.report.problems.append(f"{name!r}: {what}")


def _checksums_of(path: bytes) -> tuple[int, list[int]]:
    with open(path, "rb") as file:
        blocks = iter(lambda: file.read(_BLOCK), b"")
        return os.path.getsize(path), [zlib.crc32(block) for block in blocks]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plain")
    parser.add_argument("mount")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", required=True)
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    reading = _Reading(arguments)
    os.set_blocking(sys.stdin.fileno(), False)
    most: int | None = None
    with open(arguments.count, "r+b", buffering=0) as count:
        while len(reading.report.problems) < _MOST_PROBLEMS:
            if reading.report.reads % _EVERY == 0:
                reading.look_around()
                os.pwrite(count.fileno(), _COUNT.pack(reading.report.reads), 0)
                line = sys.stdin.readline()
                most = int(line) if line else most
                if most is not None and reading.report.reads >= most:
                    break
            reading.step()
    json.dump(vars(reading.report), sys.stdout)


if __name__ == "__main__":
    main()
