"""S1, S2 and S3: small files through each front, against the plain folder.

S1: open + stat + read + close at the speed of C, page cache kept, 1 and 4 reader processes.
S2: the same with the pages of the front dropped before each pass; the plain folder keeps its own.
S3: Python's `open().read()`, page cache kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from atlas.bench import machine
from atlas.bench.fronts import (
    PLAIN,
    Shown,
    drop,
    messages,
    offered,
    ratio,
    read_in_turn,
    rounds,
    show,
)
from atlas.bench.readers import Pass, Readers
from atlas.bench.report import Table
from atlas.bench.workplace import Workplace
from atlas.testing.trees import make_files

SETS = ((8_000, 20_000), (100_000, 2_000))
"""Size and number of files."""

PASSES = 11
PASSES_DROPPED = 5


@dataclass(frozen=True)
class Case:
    """One way to read a set."""

    figure: str
    readers: int
    in_python: bool = False
    dropped: bool = False

    @property
    def words(self) -> str:
        who = "Python" if self.in_python else "C"
        pages = "dropped" if self.dropped else "kept"
        return f"{who} x {self.readers}, pages {pages}"


CASES = (
    Case("S1", readers=1),
    Case("S1", readers=4),
    Case("S3", readers=1, in_python=True),
    # The last: it leaves other pages behind than it found.
    Case("S2", readers=1, dropped=True),
)


def measure(workplace: Workplace, wanted: set[str]) -> list[dict[str, Any]]:
    """One result for each set and case that is wanted."""
    results = []
    for size, count in SETS:
        plain = workplace.folder / f"plain-{size}"
        names = make_files(plain, count, size, folders=max(1, count // 200))
        quota = 2 * count * (size + 8192) + (64 << 20)
        shown = [
            show(workplace, plain, f"small-{size}", front, quota=quota)
            for front in offered(workplace)
        ]
        sets = [[os.fsencode(root / name) for name in names] for root in _roots(plain, shown)]
        read_in_turn(sets)
        for case in CASES:
            if case.figure in wanted:
                result = _cell(workplace, case, size, shown, sets)
                results.append(result)
                print(_progress(result), file=sys.stderr, flush=True)
        for one in shown:
            workplace.delete(one.dataset)
    return results


def _roots(plain: Any, shown: Sequence[Shown]) -> list[Any]:
    return [plain, *(one.root for one in shown)]


def _cell(
    workplace: Workplace,
    case: Case,
    size: int,
    shown: Sequence[Shown],
    sets: list[list[bytes]],
) -> dict[str, Any]:
    passes = PASSES_DROPPED if case.dropped else PASSES
    with Readers(case.readers, sets) as readers:

        def reader(index: int) -> Callable[[int], Pass]:
            def read(number: int) -> Pass:
                if case.dropped and index:
                    drop(sets[index])
                return readers.read(index, number, case.in_python)

            return read

        load = machine.load_average()
        things = {PLAIN: reader(0)}
        things |= {one.front: reader(index) for index, one in enumerate(shown, start=1)}
        found = rounds(things, passes)
        # In a pass of its own, so that asking the node disturbs no measured one.
        sent = {}
        for one in shown:
            before = messages(workplace, one.dataset)
            things[one.front](passes)
            sent[one.front] = messages(workplace, one.dataset) - before
    plain = found[PLAIN]
    return {
        "figure": case.figure,
        "case": case.words,
        "file_bytes": size,
        "files": len(sets[0]),
        "readers": case.readers,
        "passes": passes,
        "bytes_per_pass": plain[0].bytes,
        "plain_us_per_file": median(one.microseconds_per_file for one in plain),
        "plain_cpu_us_per_file": median(one.cpu_microseconds_per_file for one in plain),
        "fronts": {
            one.front: {
                "ratio": ratio(plain, found[one.front]),
                "cpu_ratio": median(
                    other.cpu_seconds / own.cpu_seconds
                    for other, own in zip(plain, found[one.front], strict=True)
                ),
                "us_per_file": median(own.microseconds_per_file for own in found[one.front]),
                "messages_per_pass": sent[one.front],
            }
            for one in shown
        },
        "load_average": round(load, 2),
    }


def _progress(result: dict[str, Any]) -> str:
    """One line while the others still run."""
    ratios = ", ".join(f"{name} {one['ratio']:.2f}" for name, one in result["fronts"].items())
    return f"{result['figure']} {result['file_bytes']} B, {result['case']}: {ratios}"


def table(results: Sequence[dict[str, Any]]) -> Table:
    """Plain time / time of each front, with what it rests on."""
    fronts = list(results[0]["fronts"])
    headings = ("plain / Atlas", *fronts, "plain us/file", "messages/pass", "passes", "load")
    rows = [
        (
            f"{one['figure']} {one['files']:,} x {one['file_bytes'] // 1000} kB, {one['case']}",
            *(f"{one['fronts'][front]['ratio']:.2f}" for front in fronts),
            f"{one['plain_us_per_file']:.1f}",
            " ".join(f"{one['fronts'][front]['messages_per_pass']:,}" for front in fronts),
            f"{one['passes']}",
            f"{one['load_average']}",
        )
        for one in results
    ]
    return Table(headings, rows)
