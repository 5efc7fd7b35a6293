"""Options that every command takes, before or after the verb, and what they say about one run."""

from __future__ import annotations

from typing import Any

import click

from atlas.cli.run import Output, Run

FORMATS = ("table", "wide", "json", "yaml", "name", "jsonpath")

LONGEST_SECONDS = 366 * 86400.0


class OutputType(click.ParamType[Output]):
    """Value of `-o`."""

    name = "format"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Output:
        if isinstance(value, Output):
            return value
        name, equals, template = str(value).partition("=")
        if name == "jsonpath":
            from atlas.cli.jsonpath import JsonPathError, parse

            try:
                return Output(name, parse(template))
            except JsonPathError as error:
                self.fail(f"jsonpath: {error}", param, ctx)
        if equals or name not in FORMATS:
            from difflib import get_close_matches

            near = get_close_matches(name, FORMATS, 1)
            hint = f" Did you mean {near[0]!r}?" if near and near[0] != name else ""
            self.fail(
                f"{value!r} is not an output format ({', '.join(FORMATS)}=TEMPLATE).{hint}",
                param,
                ctx,
            )
        return Output(name)


class DurationType(click.ParamType[float]):
    """A time such as 30s, 5m, 2h or 7d, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from atlas.api.errors import AtlasError
        from atlas.api.units import parse_duration

        try:
            seconds = parse_duration(str(value))
        except AtlasError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"{value!r} is no time to wait", param, ctx)
        if seconds > LONGEST_SECONDS:
            self.fail(f"{value!r} is longer than a year; leave it out to wait on", param, ctx)
        return seconds


def run_of(context: click.Context) -> Run:
    """What this run was asked for, shared by all levels of the command."""
    return context.ensure_object(Run)


def _set_output(context: click.Context, _: click.Parameter, value: Output | None) -> None:
    if value is not None:
        run_of(context).output = value


def _set_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    run_of(context).quiet |= value


def _set_verbosity(context: click.Context, _: click.Parameter, value: int) -> None:
    run_of(context).verbosity += value


def _set_no_color(context: click.Context, _: click.Parameter, value: bool) -> None:
    run_of(context).no_color |= value


def _set_timeout(context: click.Context, _: click.Parameter, value: float | None) -> None:
    if value is not None:
        run_of(context).timeout_seconds = value


GLOBAL_OPTIONS: tuple[click.Option, ...] = (
    click.Option(
        ["-o", "--output"],
        type=OutputType(),
        metavar="FORMAT",
        expose_value=False,
        callback=_set_output,
        help="table, wide, json, yaml, name or jsonpath=TEMPLATE.",
    ),
    click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_set_quiet,
        help="Only data and errors.",
    ),
    click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=_set_verbosity,
        help="Show the requests to the node; -vv shows tracebacks too.",
    ),
    click.Option(
        ["--no-color"],
        is_flag=True,
        expose_value=False,
        callback=_set_no_color,
        help="No colour; so does NO_COLOR in the environment.",
    ),
    click.Option(
        ["--timeout"],
        type=DurationType(),
        metavar="TIME",
        expose_value=False,
        callback=_set_timeout,
        help="Stop waiting after this time (30s, 5m); exit code 124. Work that has begun goes on.",
    ),
)


def wants_objects(arguments: list[str]) -> bool:
    """Whether `-o json` stands on a command line that could not be parsed.

    Errors of usage are objects too, and they come before the options are known.
    """
    for position, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument in ("-ojson", "-o=json", "--output=json"):
            return True
        if argument in ("-o", "--output") and arguments[position + 1 : position + 2] == ["json"]:
            return True
    return False
