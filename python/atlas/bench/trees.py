"""Folders of files for measurements: the same names and bytes for the same arguments."""

from __future__ import annotations

import os
import random
from pathlib import Path


def make_files(root: Path, count: int, size: int, per_folder: int) -> list[str]:
    """Fill `root` with `count` files of `size` bytes, and return their names below it."""
    source = random.Random(count * 1_000_003 + size)
    names = []
    for index in range(count):
        if index % per_folder == 0:
            folder = f"{index // per_folder:05}"
            (root / folder).mkdir(parents=True)
        name = f"{folder}/{index:08}"
        (root / name).write_bytes(source.randbytes(size))
        names.append(name)
    return names


def make_empty_files(root: Path, count: int, per_folder: int) -> None:
    """Fill `root` with `count` empty files: a namespace without the disk space."""
    for start in range(0, count, per_folder):
        folder = root / f"{start // per_folder:05}"
        folder.mkdir(parents=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for index in range(start, min(start + per_folder, count)):
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(f"{index:08}", flags, 0o644, dir_fd=descriptor))
        finally:
            os.close(descriptor)


def total_bytes(root: Path) -> int:
    """Read every file below `root` once, which also brings it into the kernel's page cache."""
    size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                size += len(file.read())
    return size
