"""The speed figures of this machine: ``python -m atlas.bench.speed [S1] [S7] [quick]``.

S1: a warm open + stat + read + close through the mount, against the plain folder.
S7: processor seconds of a warm-up into memory, against `cp -r` into tmpfs.
quick: how soon a data set can be read, whatever its size.

What is compared runs interleaved on the same files; the figure is the median of the ratios of
neighbouring passes. Results go to bench.json, with the commit and the machine. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from atlas.bench import machine
from atlas.bench.readers import Pass, Readers
from atlas.bench.report import Table
from atlas.bench.workers import WorkerError
from atlas.bench.workplace import CommandError, Workplace, run_scenario
from atlas.testing.trees import make_empty_files, make_files, total_bytes

Result = dict[str, Any]

SETTLING_PASSES = 2
"""Passes before the first measured one: pages move to the kernel's active list in the second."""

PASSES = 11
COPIES = 5
MANY_FILES = 500_000
DEEP_FOLDER_FILES = 100_000


def ratio_of_passes(
    ours: Callable[[int], Pass], plain: Callable[[int], Pass], passes: int = PASSES
) -> tuple[list[Pass], list[Pass]]:
    """Passes of two things in turn, the first of each pair changing, without the settling ones."""
    measured: tuple[list[Pass], list[Pass]] = ([], [])
    for number in range(SETTLING_PASSES + passes):
        if number % 2:
            other = plain(number)
            own = ours(number)
        else:
            own = ours(number)
            other = plain(number)
        if number >= SETTLING_PASSES:
            measured[0].append(own)
            measured[1].append(other)
    return measured


def fuse_requests(workplace: Workplace, name: str) -> int:
    """How many messages the kernel has sent for a data set so far."""
    status = workplace.atlasctl_object("cache", "get", name)["status"]
    return sum(status["fuseRequests"].values())


def warm_reads(workplace: Workplace) -> list[Result]:
    """S1: 8 kB and 100 kB files, 1 and 4 reader processes."""
    results = []
    for size, count in ((8_000, 20_000), (100_000, 2_000)):
        plain = workplace.folder / f"plain-{size}"
        names = make_files(plain, count, size, folders=max(1, count // 200))
        total_bytes(plain)
        mounted = workplace.create(f"s1-{size}", plain, 2 * count * (size + 8192) + (64 << 20))
        workplace.atlasctl("cache", "warm", f"s1-{size}")
        sets = [[os.fsencode(root / name) for name in names] for root in (mounted, plain)]
        for readers in (1, 4):
            results.append(_warm_cell(workplace, f"s1-{size}", sets, readers, size))
            print_warm(results[-1])
        workplace.delete(f"s1-{size}")
    return results


def _warm_cell(
    workplace: Workplace, name: str, sets: list[list[bytes]], count: int, size: int
) -> Result:
    with Readers(count, sets) as readers:
        load = machine.load_average()
        ours, plain = ratio_of_passes(
            lambda number: readers.read(0, number), lambda number: readers.read(1, number)
        )
        # In a pass of its own, so that asking the node disturbs no measured one.
        before = fuse_requests(workplace, name)
        readers.read(0, SETTLING_PASSES + PASSES)
        requests = fuse_requests(workplace, name) - before
    pairs = list(zip(ours, plain, strict=True))
    return {
        "figure": "S1",
        "file_bytes": size,
        "files": len(sets[0]),
        "readers": count,
        "passes": len(pairs),
        "ratio": median(other.seconds / own.seconds for own, other in pairs),
        "cpu_ratio": median(other.cpu_seconds / own.cpu_seconds for own, other in pairs),
        "atlas_us_per_file": median(one.microseconds_per_file for one in ours),
        "plain_us_per_file": median(one.microseconds_per_file for one in plain),
        "atlas_cpu_us_per_file": median(one.cpu_microseconds_per_file for one in ours),
        "plain_cpu_us_per_file": median(one.cpu_microseconds_per_file for one in plain),
        "fuse_requests_per_pass": requests,
        "plain_file_system": machine.file_system(workplace.folder),
        "load_average": round(load, 2),
    }


def print_warm(cell: Result) -> None:
    """One line while the others still run."""
    print(f"S1 {cell['file_bytes']} B x {cell['readers']}: {cell['ratio']:.2f}", file=sys.stderr)


def copy_seconds(source: Path, target: Path) -> float:
    """Processor seconds of `cp -r`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wait_scanned(workplace: Workplace, name: str) -> None:
    """Wait until the namespace of a data set is known."""
    while workplace.atlasctl_object("cache", "get", name)["status"]["scan"]["state"] == "Running":
        time.sleep(0.05)


@dataclass(frozen=True)
class Load:
    """What a warm-up took: processor seconds of the node, before it (create, scan) and in it."""

    scan_cpu_seconds: float
    load_cpu_seconds: float
    load_seconds: float


def load(workplace: Workplace, source: Path, quota: int) -> Load:
    """Create a data set, wait for its scan, warm it up, and delete it."""
    pid = workplace.node_pid()
    at_start = machine.process_seconds(pid)
    workplace.create("s7", source, quota)
    wait_scanned(workplace, "s7")
    scanned, started = machine.process_seconds(pid), time.monotonic()
    workplace.atlasctl("cache", "warm", "s7")
    measured = Load(
        scan_cpu_seconds=scanned - at_start,
        load_cpu_seconds=machine.process_seconds(pid) - scanned,
        load_seconds=time.monotonic() - started,
    )
    status = workplace.atlasctl_object("cache", "get", "s7")["status"]
    if status["cachedFiles"] != status["files"]:
        raise CommandError(f"only {status['cachedFiles']} of {status['files']} files are cached")
    workplace.delete("s7")
    return measured


def loads(workplace: Workplace) -> list[Result]:
    """S7: a folder of 8 kB files in the page cache, into memory: the node against `cp -r`.

    The load's seconds hold everything that the node does between the request and the last verified
    byte; what listing the namespace took before is told beside it.
    """
    count, size = 60_000, 8_000
    source = workplace.folder / "s7"
    make_files(source, count, size, folders=max(1, count // 200))
    total_bytes(source)
    # Begins the node, whose start is no part of a load.
    workplace.atlasctl("node", "start")
    quota = 2 * count * (size + 8192) + (64 << 20)
    pairs: list[tuple[float, Load]] = []
    with tempfile.TemporaryDirectory(prefix="atlas-bench-", dir="/dev/shm") as memory:
        for number in range(COPIES + 1):
            target = Path(memory) / str(number)
            copied, loaded = 0.0, Load(0, 0, 0)
            for which in (0, 1) if number % 2 else (1, 0):
                if which:
                    loaded = load(workplace, source, quota)
                else:
                    copied = copy_seconds(source, target)
                    subprocess.run(["rm", "-r", str(target)], check=True)
            # The first pair brings the programs themselves into memory.
            if number:
                pairs.append((copied, loaded))
    result = {
        "figure": "S7",
        "file_bytes": size,
        "files": count,
        "passes": len(pairs),
        "ratio": median(copied / loaded.load_cpu_seconds for copied, loaded in pairs),
        "ratio_with_scan": median(
            copied / (loaded.scan_cpu_seconds + loaded.load_cpu_seconds) for copied, loaded in pairs
        ),
        "cp_cpu_seconds": median(copied for copied, _ in pairs),
        "scan_cpu_seconds": median(loaded.scan_cpu_seconds for _, loaded in pairs),
        "load_cpu_seconds": median(loaded.load_cpu_seconds for _, loaded in pairs),
        "load_seconds": median(loaded.load_seconds for _, loaded in pairs),
        "load_average": round(machine.load_average(), 2),
    }
    return [result]


def quick(workplace: Workplace) -> list[Result]:
    """How long create takes, and the first read deep in a large folder not yet scanned."""
    few, many = workplace.folder / "few", workplace.folder / "many"
    first_of_few = make_files(few, 10, 8_000)[0]
    make_empty_files(many, MANY_FILES - DEEP_FOLDER_FILES, 1_000)
    # Its name sorts last, so that a scan gets there late.
    deep = Path("zzz/deep/deeper")
    make_empty_files(many / deep, DEEP_FOLDER_FILES, DEEP_FOLDER_FILES)
    wanted = deep / "00000" / f"{DEEP_FOLDER_FILES // 2:08}"
    (many / wanted).write_bytes(b"first")
    workplace.atlasctl("node", "start")
    results = []
    for root, files, first in ((few, 10, Path(first_of_few)), (many, MANY_FILES, wanted)):
        started = time.monotonic()
        mounted = workplace.create("quick", root, 1 << 30)
        created = time.monotonic()
        with open(mounted / first, "rb") as file:
            right = file.read() == (root / first).read_bytes()
        read = time.monotonic()
        scan = workplace.atlasctl_object("cache", "get", "quick")["status"]["scan"]
        if not right:
            raise CommandError(f"{first} has other bytes through the mount")
        results.append(
            {
                "figure": "quick",
                "files": files,
                "create_seconds": created - started,
                "first_file_seconds": read - created,
                "scanned_files_after_it": scan["files"],
                "load_average": round(machine.load_average(), 2),
            }
        )
        workplace.delete("quick")
    return results


def tables(results: list[Result]) -> list[Table]:
    """What was measured, for a terminal."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result["figure"], []).append(result)
    shown = []
    if "S1" in found:
        shown.append(
            Table(
                (
                    "S1 warm read",
                    *("ratio", "CPU ratio", "Atlas us/file", "plain us/file"),
                    *("messages/pass", "passes", "load"),
                ),
                [
                    (
                        f"{cell['files']:,} x {cell['file_bytes'] // 1000} kB, "
                        + f"{cell['readers']} reader{'s' if cell['readers'] > 1 else ''}",
                        f"{cell['ratio']:.2f}",
                        f"{cell['cpu_ratio']:.2f}",
                        f"{cell['atlas_us_per_file']:.1f}",
                        f"{cell['plain_us_per_file']:.1f}",
                        f"{cell['fuse_requests_per_pass']:,}",
                        f"{cell['passes']}",
                        f"{cell['load_average']}",
                    )
                    for cell in found["S1"]
                ],
            )
        )
    if "S7" in found:
        shown.append(
            Table(
                (
                    "S7 warm-up",
                    *("cp CPU / load CPU", "with scan", "cp -r CPU", "scan CPU", "load CPU"),
                    *("load time", "load"),
                ),
                [
                    (
                        f"{cell['files']:,} x {cell['file_bytes'] // 1000} kB into memory",
                        f"{cell['ratio']:.2f}",
                        f"{cell['ratio_with_scan']:.2f}",
                        f"{cell['cp_cpu_seconds']:.2f} s",
                        f"{cell['scan_cpu_seconds']:.2f} s",
                        f"{cell['load_cpu_seconds']:.2f} s",
                        f"{cell['load_seconds']:.2f} s",
                        f"{cell['load_average']}",
                    )
                    for cell in found["S7"]
                ],
            )
        )
    if "quick" in found:
        shown.append(
            Table(
                ("quick", "create", "first file", "scanned by then", "load"),
                [
                    (
                        f"{cell['files']:,} files",
                        f"{cell['create_seconds']:.2f} s",
                        f"{cell['first_file_seconds']:.3f} s",
                        f"{cell['scanned_files_after_it']:,}",
                        f"{cell['load_average']}",
                    )
                    for cell in found["quick"]
                ],
            )
        )
    return shown


FIGURES: dict[str, Callable[[Workplace], list[Result]]] = {
    "S1": warm_reads,
    "S7": loads,
    "quick": quick,
}


def main() -> int:
    """Measure what the arguments name, or everything."""
    parser = argparse.ArgumentParser(prog="python -m atlas.bench.speed", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="S1, S7, quick; all without")
    parser.add_argument("--result", type=Path, default=Path("bench.json"), help="file to write")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.figures) - FIGURES.keys():
        parser.error(f"no figure is called {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        print("error: the benchmarks mount file systems: run them as root", file=sys.stderr)
        return 6

    def scenario(workplace: Workplace) -> int:
        found = machine.conditions()
        results: list[Result] = []
        try:
            for name in arguments.figures or FIGURES:
                results += FIGURES[name](workplace)
        except WorkerError as error:
            raise CommandError(str(error)) from error
        print(f"Machine: {machine.words(found)}; files on {machine.file_system(workplace.folder)}")
        for table in tables(results):
            print("", table.text(), sep="\n")
        arguments.result.write_text(
            json.dumps({"conditions": found, "results": results}, indent=2) + "\n"
        )
        return 0

    return run_scenario(scenario, arguments.folder)


if __name__ == "__main__":
    sys.exit(main())
