"""Asking before something is lost."""

from __future__ import annotations

import sys

from atlas.api import errors
from atlas.api.errors import AtlasError
from atlas.api.units import printable
from atlas.cli.run import is_terminal


def confirm(question: str, subject: str) -> None:
    """Returns only if a person says yes; `subject` names what stays otherwise.

    Raises AtlasError (NotConfirmed) after a no, and where nobody is there to be asked.
    """
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise AtlasError(
            errors.NOT_CONFIRMED,
            f"{subject}: nobody is there to confirm",
            "standard input or standard error is no terminal",
            hint="the same command with -y",
            unchanged="nothing was done",
        )
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AtlasError(
            errors.NOT_CONFIRMED, f"{subject}: not confirmed", unchanged="nothing was done"
        )
