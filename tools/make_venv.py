#!/usr/bin/env python3
"""Makes a virtual environment with pip, also on a Debian without python3-venv.

Debian moves ensurepip out of the interpreter's package; without it pip's own wheel is fetched as
a Debian package and installs itself.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

from fetch_debian import FetchError, fetch


def main() -> int:
    """Make the environment in the folder that the one argument names."""
    folder = Path(sys.argv[1])
    bundled = importlib.util.find_spec("ensurepip") is not None
    venv.EnvBuilder(with_pip=bundled, clear=folder.exists(), symlinks=True).create(folder)
    if not bundled:
        try:
            root = fetch(["python3-pip-whl"], Path(".cache/debian").resolve())
        except FetchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        wheels = root / "usr/share/python-wheels"
        wheel = next(wheels.glob("pip-*.whl"))
        subprocess.run(
            [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", str(wheel)],
            env={**os.environ, "PYTHONPATH": str(wheel)},
            check=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
