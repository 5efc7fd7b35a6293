"""The speed figures of this machine: ``python -m atlas.bench.speed [S1] [S2] ... [quick]``.

S1, S2, S3: small files through each front, against the plain folder: see atlas.bench.small.
S4, S5: a large file, and many names: see atlas.bench.large.
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

from atlas.bench import large, machine, small
from atlas.bench.fronts import offered, wait_scanned
from atlas.bench.report import Table
from atlas.bench.workers import WorkerError
from atlas.bench.workplace import CommandError, Workplace, run_scenario
from atlas.testing.trees import make_empty_files, make_files, total_bytes

Result = dict[str, Any]

COPIES = 5
MANY_FILES = 500_000
DEEP_FOLDER_FILES = 100_000


def copy_seconds(source: Path, target: Path) -> float:
    """Processor seconds of `cp -r`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
    for module, figures in ((small, SMALL_FILES), (large, ("S4", "S5"))):
        if rows := [one for figure in figures for one in found.get(figure, [])]:
            shown.append(module.table(rows))
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


SMALL_FILES = ("S1", "S2", "S3")
"""These share their files and are measured together."""

FIGURES: dict[str, Callable[[Workplace], list[Result]]] = {
    "S4": large.large_file,
    "S5": large.names,
    "S7": loads,
    "quick": quick,
}


def measure(workplace: Workplace, wanted: list[str]) -> list[Result]:
    """What is wanted, in the order in which it shares files."""
    results: list[Result] = []
    if small_files := set(SMALL_FILES).intersection(wanted):
        results += small.measure(workplace, small_files)
    for name, action in FIGURES.items():
        if name in wanted:
            results += action(workplace)
    return results


def conditions(workplace: Workplace) -> dict[str, Any]:
    """The machine, and what the data sets and the plain folder rest on."""
    memory = Path("/dev/shm")
    return {
        **machine.conditions(),
        "fronts": offered(workplace),
        "tier": "MEM",
        "tier_file_system": machine.file_system(memory),
        "tier_huge_pages": machine.huge_pages(memory),
        "plain_file_system": machine.file_system(workplace.folder),
    }


def main() -> int:
    """Measure what the arguments name, or everything."""
    parser = argparse.ArgumentParser(prog="python -m atlas.bench.speed", description=__doc__)
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", help="S1 to S5, S7, quick; all without"
    )
    parser.add_argument("--result", type=Path, default=Path("bench.json"), help="file to write")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made"
    )
    arguments = parser.parse_args()
    known = [*SMALL_FILES, *FIGURES]
    if unknown := set(arguments.figures).difference(known):
        parser.error(f"no figure is called {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        print("error: the benchmarks mount file systems: run them as root", file=sys.stderr)
        return 6

    def scenario(workplace: Workplace) -> int:
        found = conditions(workplace)
        try:
            results = measure(workplace, arguments.figures or known)
        except WorkerError as error:
            raise CommandError(str(error)) from error
        print(
            f"Machine: {machine.words(found)}; files on {found['plain_file_system']}; tier "
            + f"{found['tier']} ({found['tier_file_system']}, huge={found['tier_huge_pages']})"
        )
        for table in tables(results):
            print("", table.text(), sep="\n")
        arguments.result.write_text(
            json.dumps({"conditions": found, "results": results}, indent=2) + "\n"
        )
        return 0

    return run_scenario(scenario, arguments.folder)


if __name__ == "__main__":
    sys.exit(main())
