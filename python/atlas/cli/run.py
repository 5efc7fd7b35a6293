"""One run of atlasctl: what the global options ask for, and the two streams.

Data goes to standard output, everything said to a person to standard error.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from atlas.cli.jsonpath import Template


class OutputClosedError(Exception):
    """The program that read standard output has seen enough (`atlasctl ... | head`)."""


@dataclass(frozen=True)
class Output:
    """How data is printed: the name of a format, with the template of `jsonpath`."""

    name: str = "table"
    template: Template | None = None


@dataclass
class Run:
    """Shared by all levels of a command through Click's context."""

    output: Output = field(default_factory=Output)
    quiet: bool = False
    verbosity: int = 0
    no_color: bool = False
    timeout_seconds: float | None = None
    """How long the whole command may wait; None waits as long as the work takes."""
    started: float = field(default_factory=time.monotonic)

    @property
    def for_programs(self) -> bool:
        """Whether a program reads the output: nothing but one error object goes to stderr then."""
        return self.output.name in ("json", "yaml", "name", "jsonpath")

    def remaining(self) -> float | None:
        """Seconds until `--timeout` has passed, never below zero; None without a limit."""
        if self.timeout_seconds is None:
            return None
        return max(0.0, self.started + self.timeout_seconds - time.monotonic())

    def colour(self, stream: TextIO) -> bool:
        """Whether `stream` shows colour: a terminal that nobody asked to stay plain."""
        return (
            not self.no_color
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
            and is_terminal(stream)
        )

    def styled(self, text: str, stream: TextIO, **style: Any) -> str:
        """`text` in a colour where the stream shows colour."""
        return click.style(text, **style) if self.colour(stream) else text

    def emit(self, text: str) -> None:
        """Writes data. Raises OutputClosedError when nobody reads it any more, and AtlasError where
        it cannot be written (a full disk, a closed standard output)."""
        try:
            if sys.stdout is None:
                raise OSError(errno.EBADF, "standard output is closed")
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            from atlas.api.errors import INPUT_OUTPUT, AtlasError

            give_up_output()
            raise AtlasError(
                INPUT_OUTPUT, "the output cannot be written", error.strerror, "df -h ."
            ) from error

    def say(self, text: str) -> None:
        """Tells a person something; silent with `-q` and where a program reads."""
        if not self.quiet and not self.for_programs:
            complain(text)


def complain(text: str) -> None:
    """Writes a line to standard error; a stderr that is closed is nobody's loss."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        return


def give_up_output() -> None:
    """Python flushes standard output once more at its end, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees `stream`; a closed stream has nobody."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


pass_run = click.make_pass_decorator(Run, ensure=True)
