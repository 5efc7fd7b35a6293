"""The main job on real files: an epoch of speech, direct, through Atlas cold, and after warm-up.

``python -m atlas.bench.demo`` puts Debian's recorded telephone prompts (some thousands of WAV
files; ``--data FOLDER`` replaces them) behind the slow origin, reads them as a training job does
and prints and plots what it got. Every byte read through Atlas is compared with what was read
directly. Needs root, to mount; leaves nothing but the page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atlas.api.units import format_size
from atlas.bench import machine
from atlas.bench.epoch import Epoch, Job, differing, run_epoch
from atlas.bench.loader import Loader
from atlas.bench.report import Bar, Table, bar_chart, line_chart, page, paragraph
from atlas.bench.slow_origin import Slowness, SlowOriginError, slow_origin
from atlas.bench.speech import list_files
from atlas.bench.workers import WorkerError
from atlas.bench.workplace import CommandError, Workplace, run_scenario

LANGUAGES = ("en", "es", "fr", "it", "ru")
SOUNDS = "usr/share/asterisk/sounds"
REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = ("direct", "Atlas, cold", "Atlas, after warm-up")


@dataclass(frozen=True)
class Outcome:
    """The three epochs, in the order of NAMES, and what the cache did beside them."""

    epochs: tuple[Epoch, Epoch, Epoch]
    create_seconds: float
    warm_seconds: float
    differing: int


def speech_folder() -> Path:
    """Debian's recorded prompts, unpacked in the repository's cache folder.

    Raises CommandError when they cannot be had.
    """
    result = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "tools/fetch_debian.py"),
            *("--into", REPOSITORY / ".cache/debian"),
            *(f"asterisk-core-sounds-{language}-wav" for language in LANGUAGES),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise CommandError("the speech files are not here; DATA=/any/folder replaces them")
    return Path(result.stdout.strip()) / SOUNDS


def measure(workplace: Workplace, data: Path, slowness: Slowness, job: Job) -> Outcome:
    """Run the three epochs. The data is read once before, so that no disk is part of it."""
    size = 0
    for path in list_files(data):
        with open(path, "rb") as file:
            size += len(file.read())
    if not size:
        raise CommandError(f"{data} holds no bytes to read")
    # A file takes whole pages, and the tables and file system take their share.
    quota = size + size // 8 + 8192 * len(list_files(data)) + (64 << 20)
    origin = workplace.folder / "origin"
    origin.mkdir()
    workplace.stack.enter_context(slow_origin(data, origin, slowness))
    loader = workplace.stack.enter_context(Loader(job.workers))

    direct = _say(NAMES[0], lambda: run_epoch(origin, job, loader))
    started = time.monotonic()
    mounted = workplace.create("cold", origin, quota)
    create_seconds = time.monotonic() - started
    cold = _say(NAMES[1], lambda: run_epoch(mounted, job, loader))
    workplace.delete("cold")

    mounted = workplace.create("warm", origin, quota)
    started = time.monotonic()
    workplace.atlasctl("cache", "warm", "warm")
    warm_seconds = time.monotonic() - started
    warm = _say(NAMES[2], lambda: run_epoch(mounted, job, loader))
    workplace.delete("warm")
    wrong = len({*differing(direct, cold), *differing(direct, warm)})
    return Outcome((direct, cold, warm), create_seconds, warm_seconds, wrong)


def _say(name: str, run: Callable[[], Epoch]) -> Epoch:
    epoch = run()
    print(f"{name}: {epoch.files:,} files in {epoch.seconds:.1f} s", file=sys.stderr)
    return epoch


def table(outcome: Outcome) -> Table:
    """The result as a table."""
    return Table(
        ("read", "files/s", "MB/s", "first sample", "consumer waited", "epoch"),
        [
            (
                name,
                f"{epoch.files_per_second:,.0f}",
                f"{epoch.bytes_per_second / 1e6:.1f}",
                f"{epoch.first_sample_seconds:.2f} s",
                f"{epoch.waiting_share:.0%}",
                f"{epoch.seconds:.1f} s",
            )
            for name, epoch in zip(NAMES, outcome.epochs, strict=True)
        ],
    )


def remarks(outcome: Outcome, slowness: Slowness, job: Job) -> list[str]:
    """What one must know to read the table."""
    direct = outcome.epochs[0]
    compared = len(direct.digests)
    limit = job.batch_files / job.step_seconds
    return [
        f"Bytes: {compared:,} files ({format_size(direct.read_bytes)}) read each way and compared"
        + f" by checksum, {outcome.differing:,} differ.",
        f"Atlas: created in {outcome.create_seconds:.2f} s, warmed in"
        + f" {outcome.warm_seconds:.1f} s.",
        f"Origin: emulated, {slowness.words()}, shared by all readers; cached by nobody else.",
        f"Job: {job.workers} worker processes, WAV decode and short-time Fourier transform, batches"
        + f" of {job.batch_files}, a simulated accelerator that needs {job.step_seconds * 1000:g}"
        + f" ms a batch (at most {limit:,.0f} files/s).",
        "First sample: from the start of listing the folder to the first batch at the consumer.",
    ]


def html(outcome: Outcome, notes: list[str]) -> str:
    """The page."""
    named = list(zip(NAMES, outcome.epochs, strict=True))
    charts = [
        bar_chart(
            "Files a second",
            [
                Bar(name, one.files_per_second, f"{one.files_per_second:,.0f}")
                for name, one in named
            ],
        ),
        bar_chart(
            "Time the consumer waited",
            [Bar(name, one.waiting_share, f"{one.waiting_share:.0%}") for name, one in named],
        ),
        bar_chart(
            "Time to first sample",
            [
                Bar(name, one.first_sample_seconds, f"{one.first_sample_seconds:.2f} s")
                for name, one in named
            ],
        ),
    ]
    return page(
        "Atlas: one epoch of speech behind a slow origin",
        [
            table(outcome).html(),
            line_chart(
                "Files read",
                "seconds",
                [(name, [(at, files) for at, files in one.progress]) for name, one in named],
            ),
            f'<div class="plots">{"".join(charts)}</div>',
            *(paragraph(note) for note in notes),
        ],
    )


def main() -> int:
    """Run the demonstration; exit code 9 when a byte differed."""
    parser = argparse.ArgumentParser(prog="python -m atlas.bench.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder to read instead of the speech")
    parser.add_argument("--page", type=Path, default=Path("demo.html"), help="page to write")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("error: the demonstration mounts file systems: run it as root", file=sys.stderr)
        return 6
    slowness, job = Slowness(), Job()

    def scenario(workplace: Workplace) -> int:
        data = arguments.data.resolve(strict=True) if arguments.data else speech_folder()
        try:
            outcome = measure(workplace, data, slowness, job)
        except (WorkerError, SlowOriginError) as error:
            raise CommandError(str(error)) from error
        notes = remarks(outcome, slowness, job)
        notes.append(f"Machine: {machine.words(machine.conditions())}.")
        print(table(outcome).text(), *notes, sep="\n")
        arguments.page.write_text(html(outcome, notes))
        print(f"Page: {arguments.page.resolve()}")
        return 9 if outcome.differing else 0

    return run_scenario(scenario)


if __name__ == "__main__":
    sys.exit(main())
