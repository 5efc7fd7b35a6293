"""The conditions of a measurement: what ran, on what, and how busy it was."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def load_average() -> float:
    """The mean number of runnable processes over the last minute."""
    return os.getloadavg()[0]


def conditions() -> dict[str, Any]:
    """The machine, its kernel, the commit (where there is one) and the time, for a result file."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(load_average(), 2),
    }


def words(found: dict[str, Any]) -> str:
    """The conditions on one line."""
    return (
        f"{found['processors']} x {found['processor']}, "
        f"{found['memory_bytes'] / 2**30:.0f} GiB, Linux {found['kernel']}, "
        f"Python {found['python']}, load {found['load_average']}, commit {found['commit']}"
    )


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, for example "ext4"."""
    return _mount(path)[0]


def huge_pages(path: Path) -> str:
    """Whether the tmpfs that holds `path` uses huge pages: what its mount says, or "never"."""
    options = _mount(path)[2].split(",")
    return next((word[5:] for word in options if word.startswith("huge=")), "never")


def _mount(path: Path) -> list[str]:
    """Type, source and options of the file system that holds `path`."""
    device = path.stat().st_dev
    mark = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == mark:
            return fields[fields.index("-") + 1 :]
    return ["unknown", "", ""]


def process_seconds(pid: int) -> float:
    """Processor seconds that a process and its ended threads have used (user + system)."""
    # The command's name may hold spaces and parentheses: fields count from the last ")".
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown"
    return result.stdout.strip() or "unknown"
