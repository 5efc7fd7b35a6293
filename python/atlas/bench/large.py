"""S4 and S5: a large file read in order, and looking at many names, through each front.

S4: 1 GiB in order in reads of 1 MiB, at random in reads of 256 kB, and through a mapping, all
cached and the page cache kept; and in order while it is being filled from an origin of 500 MB/s,
against reading that origin itself.
S5: walk + stat of a tree through a front that nobody has looked at, and a repeated `ls -lR`; both
against the plain folder that was walked before, which is the harder comparison.
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from atlas.bench import machine
from atlas.bench.fronts import (
    PLAIN,
    Shown,
    drop,
    messages,
    offered,
    origin_requests,
    ratio,
    rounds,
    show,
)
from atlas.bench.report import Table
from atlas.bench.slow_origin import Slowness, slow_origin
from atlas.bench.workplace import CommandError, Workplace
from atlas.testing.trees import make_empty_files

LARGE_BYTES = 1 << 30
CHUNK_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
ORIGIN = Slowness(latency_seconds=0.0, bytes_per_second=500_000_000)
"""What one client of a parallel file system may get."""
NAMES = 20_000
PASSES = 7
FRESH_PASSES = 3
"""Where each pass needs a data set of its own."""


@dataclass(frozen=True)
class Seconds:
    """A pass of which only the time matters."""

    seconds: float


def timed(action: Callable[[], None]) -> Seconds:
    """Do it once."""
    started = time.perf_counter()
    action()
    return Seconds(time.perf_counter() - started)


def read_in_order(path: Path) -> None:
    """Read a file of LARGE_BYTES in reads of 1 MiB. Raises CommandError if it is shorter."""
    buffer, size = bytearray(CHUNK_BYTES), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
    if size != LARGE_BYTES:
        raise CommandError(f"{path} has {size} bytes, not {LARGE_BYTES}")


def read_in_turn(paths: Sequence[Path]) -> None:
    """Bring files of LARGE_BYTES into the page cache, 1 MiB of each in turn: what is read in last,
    after all of another, gets the memory that is left."""
    drop([os.fsencode(path) for path in paths])
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb", buffering=0)) for path in paths]
        for offset in range(0, LARGE_BYTES, CHUNK_BYTES):
            for file in files:
                if os.preadv(file.fileno(), [buffer], offset) != CHUNK_BYTES:
                    raise CommandError(f"{file.name} is too short")


def read_at_random(path: Path) -> None:
    """Read all of a file of LARGE_BYTES once, in pieces of 256 kB, in an order of their own."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    order = list(range(0, LARGE_BYTES, PIECE_BYTES))
    random.Random(2).shuffle(order)
    with open(path, "rb", buffering=0) as file:
        for offset in order:
            if os.preadv(file.fileno(), [buffer], offset) != PIECE_BYTES:
                raise CommandError(f"{path} is too short")


def read_mapped(path: Path) -> None:
    """Copy all of a file out of a mapping of it, in steps of 1 MiB."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        for offset in range(0, LARGE_BYTES, CHUNK_BYTES):
            if len(view[offset : offset + CHUNK_BYTES]) != CHUNK_BYTES:
                raise CommandError(f"{path} is too short")


def list_long(root: Path) -> None:
    """`ls -lR`, without sorting names away from their order of reading."""
    subprocess.run(["ls", "-lR", str(root)], stdout=subprocess.DEVNULL, check=True)


def walk(root: Path) -> int:
    """Stat everything below a folder and return how many entries there are."""
    count, folders = 0, [os.fspath(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return count


def large_file(workplace: Workplace) -> list[dict[str, Any]]:
    """S4."""
    plain = workplace.folder / "large"
    plain.mkdir()
    source = random.Random(1)
    with open(plain / "file", "wb") as file:
        for _ in range(LARGE_BYTES // (64 << 20)):
            file.write(source.randbytes(64 << 20))
    quota = LARGE_BYTES + (256 << 20)
    shown = [show(workplace, plain, "large", front, quota=quota) for front in offered(workplace)]
    os.sync()
    read_in_turn([plain / "file", *(one.root / "file" for one in shown)])
    results = []
    for words, read in (
        ("in order", read_in_order),
        ("at random, 256 kB", read_at_random),
        ("mapped", read_mapped),
    ):
        things = _each(plain, shown, lambda root, read=read: read(root / "file"))  # type: ignore[misc]
        found = rounds(things, PASSES)
        sent = _counted(workplace, shown, messages, lambda one: things[one.front](PASSES))  # noqa: B023
        results.append(_result("S4", f"1 GiB {words}, complete", found, messages_per_pass=sent))
        _report(results)
    for one in shown:
        workplace.delete(one.dataset)
    results.append(_filling(workplace, plain, quota))
    _report(results)
    return results


def _filling(workplace: Workplace, plain: Path, quota: int) -> dict[str, Any]:
    slow = workplace.folder / "slow"
    slow.mkdir()

    def through(front: str) -> Callable[[int], Seconds]:
        def read(_: int) -> Seconds:
            one = show(workplace, slow, "filling", front, quota=quota, warm=False)
            took = timed(lambda: read_in_order(one.root / "file"))
            workplace.delete(one.dataset)
            return took

        return read

    # A sealed front has nothing left to fill.
    fronts = [front for front in offered(workplace) if front != "sealed"]
    with slow_origin(plain, slow, ORIGIN):
        things: dict[str, Callable[[int], Seconds]] = {
            PLAIN: lambda _: timed(lambda: read_in_order(slow / "file"))
        }
        things |= {front: through(front) for front in fronts}
        found = rounds(things, FRESH_PASSES, settling=1)
    return _result("S4", "1 GiB in order, filling, origin of 500 MB/s", found)


def names(workplace: Workplace) -> list[dict[str, Any]]:
    """S5."""
    plain = workplace.folder / "names"
    make_empty_files(plain, NAMES, 200)
    (plain / "one").write_bytes(b"bytes")
    walk(plain)
    first: dict[str, list[Seconds]] = {}
    requests: dict[str, int] = {}
    shown: list[Shown] = []
    for number in range(FRESH_PASSES):
        for one in shown:
            workplace.delete(one.dataset)
        shown = [
            show(workplace, plain, f"names-{number}", front, quota=128 << 20)
            for front in offered(workplace)
        ]
        first.setdefault(PLAIN, []).append(timed(lambda: _walk_all(plain)))
        for one in shown:
            before = origin_requests(workplace, one.dataset)
            took = timed(partial(_walk_all, one.root))
            first.setdefault(one.front, []).append(took)
            sent = origin_requests(workplace, one.dataset) - before
            requests[one.front] = requests.get(one.front, 0) + sent
    results = [_result("S5", "walk + stat, first look", first, origin_requests=requests)]
    _report(results)
    things = _each(plain, shown, list_long)
    found = rounds(things, PASSES)
    sent_again = _counted(workplace, shown, origin_requests, lambda one: things[one.front](PASSES))
    results.append(_result("S5", "ls -lR, warm", found, origin_requests=sent_again))
    _report(results)
    for one in shown:
        workplace.delete(one.dataset)
    return results


def _each(
    plain: Path, shown: Sequence[Shown], action: Callable[[Path], None]
) -> dict[str, Callable[[int], Seconds]]:
    """The same with the plain folder and with each front."""

    def of(root: Path) -> Callable[[int], Seconds]:
        return lambda _: timed(lambda: action(root))

    return {PLAIN: of(plain), **{one.front: of(one.root) for one in shown}}


def _walk_all(root: Path) -> None:
    if (count := walk(root)) != NAMES + NAMES // 200 + 1:
        raise CommandError(f"{root} has {count} entries")


def _counted(
    workplace: Workplace,
    shown: Sequence[Shown],
    count: Callable[[Workplace, str], int],
    action: Callable[[Shown], object],
) -> dict[str, int]:
    """What a count of each front's data set grows by while it does something."""
    grown = {}
    for one in shown:
        before = count(workplace, one.dataset)
        action(one)
        grown[one.front] = count(workplace, one.dataset) - before
    return grown


def _result(
    figure: str, case: str, found: dict[str, list[Seconds]], **counts: dict[str, int]
) -> dict[str, Any]:
    plain = found[PLAIN]
    return {
        "figure": figure,
        "case": case,
        "passes": len(plain),
        "bytes": LARGE_BYTES if figure == "S4" else 0,
        "entries": NAMES + NAMES // 200 + 1 if figure == "S5" else 1,
        "plain_seconds": median(one.seconds for one in plain),
        "fronts": {
            front: {
                "ratio": ratio(plain, own),
                "seconds": median(one.seconds for one in own),
                **{name: count[front] for name, count in counts.items()},
            }
            for front, own in found.items()
            if front != PLAIN
        },
        "load_average": round(machine.load_average(), 2),
    }


def _report(results: Sequence[dict[str, Any]]) -> None:
    """One line while the others still run."""
    one = results[-1]
    ratios = ", ".join(f"{name} {own['ratio']:.2f}" for name, own in one["fronts"].items())
    print(f"{one['figure']} {one['case']}: {ratios}", file=sys.stderr)


def table(results: Sequence[dict[str, Any]]) -> Table:
    """Plain time / time of each front, with what it rests on."""
    fronts = list(results[0]["fronts"])

    def cell(one: dict[str, Any], front: str, word: str, form: str) -> str:
        value = one["fronts"].get(front, {}).get(word)
        return "-" if value is None else format(value, form)

    def counts(one: dict[str, Any], word: str) -> str:
        return " ".join(cell(one, front, word, ",") for front in fronts)

    headings = ("plain / Atlas", *fronts, "plain", "messages", "origin requests", "passes", "load")
    rows = [
        (
            f"{one['figure']} {one['case']}",
            *(cell(one, front, "ratio", ".2f") for front in fronts),
            f"{one['plain_seconds']:.3f} s",
            counts(one, "messages_per_pass"),
            counts(one, "origin_requests"),
            f"{one['passes']}",
            f"{one['load_average']}",
        )
        for one in results
    ]
    return Table(headings, rows)
