"""How an error is shown: what failed and on which object, why, what stayed, what to try."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from atlas.api.errors import INVALID, AtlasError
from atlas.api.units import printable
from atlas.cli.run import Run, complain

if TYPE_CHECKING:
    from collections.abc import Iterator


def report(run: Run, error: AtlasError, *, as_object: bool) -> None:
    """Writes an error to standard error: lines for a person, or one JSON object."""
    if as_object:
        from atlas.cli.formats import json_text

        complain(json_text(error.body(), indent=None))
        return
    for label, text in _lines(error):
        colour = {"error": "red", "try": "green"}.get(label)
        head = f"{label}:" if label else " "
        shown = run.styled(head, sys.stderr, fg=colour, bold=True) if colour else head
        complain(f"{shown} {printable(text)}")


def _lines(error: AtlasError) -> Iterator[tuple[str, str]]:
    yield "error", error.message
    if error.cause:
        yield "cause", error.cause
    for detail in error.details:
        yield "", detail
    if error.unchanged:
        yield "unchanged", error.unchanged
    if error.hint:
        yield "try", error.hint
    yield "docs", f"{error.kind.code} ({error.kind.docs})"


def usage_error(error: click.ClickException) -> AtlasError:
    """A mistake on the command line, as the error that is shown; Click has found near matches."""
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
    # Click lays choices out in lines; a message is one.
    message = " ".join(error.format_message().split()).rstrip(".")
    return AtlasError(
        INVALID,
        message[:1].lower() + message[1:],
        hint=f"{path or 'atlasctl'} --help",
        unchanged="nothing was done",
    )
