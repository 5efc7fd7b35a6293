"""Types of arguments, with errors that name the option."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click


class ByteType(click.ParamType[int]):
    """A size (40Gi) or, with `rate`, a rate (2Gi/s); whole bytes, above zero."""

    def __init__(self, *, rate: bool = False) -> None:
        self.name = "rate" if rate else "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        from atlas.api.errors import AtlasError
        from atlas.api.units import parse_rate, parse_size

        try:
            size = (parse_rate if self.name == "rate" else parse_size)(str(value))
        except AtlasError as error:
            self.fail(str(error), param, ctx)
        if size <= 0:
            self.fail(f"{value!r} is nothing", param, ctx)
        return size


def once(why: str) -> Callable[[click.Context, click.Parameter, Sequence[str]], str | None]:
    """A callback for an option that may be given once; Click alone would silently take the last."""

    def callback(
        context: click.Context, parameter: click.Parameter, values: Sequence[str]
    ) -> str | None:
        if len(values) > 1:
            raise click.BadParameter(f"given {len(values)} times; {why}.", context, parameter)
        return values[0] if values else None

    return callback


def absolute(value: str, what: str) -> str:
    """`value` as an absolute path of the folder that this process means by it.

    Raises UsageError for an empty one (a variable that is not set), which would else be the working
    folder, or nothing.
    """
    if not text(value, what):
        raise click.UsageError(f"{what} is empty.", click.get_current_context(silent=True))
    if ".." in value.split("/"):
        # As the kernel goes: up from where a link leads to, not from where it lies.
        return os.path.realpath(value)
    return os.path.normpath(os.path.join(os.getcwd(), value))


def text(value: str, what: str) -> str:
    """`value` itself, if the API can carry it.

    Raises UsageError for bytes that are not UTF-8: Python holds them as halves of surrogate pairs,
    which JSON has no text for.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        from atlas.api.units import printable

        raise click.UsageError(f"{what} {printable(value)!r} is not UTF-8.") from None
    return value
