#!/usr/bin/env python3
"""Brings Debian packages into a folder without installing them.

Downloads with apt-get and unpacks with dpkg-deb, so it needs no root and changes nothing outside
the folder: apt's lists and cache lie in it too, and are brought up to date there, whatever the
state of the machine's own. Packages that are already there are not asked for again. Maintainer
scripts and dependencies are left out: this is for data and wheels.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
from pathlib import Path


class FetchError(Exception):
    """A package could not be brought here; the message says which and why."""


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder, raising FetchError with its last words when it fails."""
    result = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        last = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise FetchError(f"{command[0]} {command[-1]}: {' / '.join(last)}")


def apt_options(folder: Path) -> list[str]:
    """The options that keep apt inside `folder`, for a caller who may not be root."""
    state, cache = folder / "apt" / "state", folder / "apt" / "cache"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": state,
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": cache,
        # As root apt would change to a user that may not write here.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": 3,
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def fetch(packages: list[str], folder: Path) -> Path:
    """Unpack `packages` below `folder`/root and return that path."""
    root, done, downloads = folder / "root", folder / "done", folder / "downloads"
    for needed in (root, done, downloads):
        needed.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in packages if not (done / name).exists()]
        if not missing:
            return root
        own = apt_options(folder)
        try:
            run(["apt-get", *own, "update"], folder)
        except FetchError as error:
            # A machine whose own lists are good may still reach the packages.
            print(f"{error}; trying the machine's own package lists", file=sys.stderr)
            own = []
        for name in missing:
            run(["apt-get", *own, "download", name], downloads)
            archive = max(downloads.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
            run(["dpkg-deb", "-x", str(archive), str(root)], folder)
            archive.unlink()
            (done / name).touch()
    return root


def main() -> int:
    """Fetch what the arguments name; print the folder they were unpacked in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=Path(".cache/debian"), metavar="FOLDER")
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")
    arguments = parser.parse_args()
    os.environ["LC_ALL"] = "C"
    try:
        print(fetch(arguments.packages, arguments.into.resolve()))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
