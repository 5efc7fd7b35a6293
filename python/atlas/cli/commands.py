"""The classes of all commands and groups: global options anywhere, modules loaded when used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import click

from atlas.cli.options import GLOBAL_OPTIONS, run_of

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(click.Command):
    """A verb. `formats` are the values of `-o` that it has an answer for."""

    def __init__(
        self, *arguments: Any, formats: tuple[str, ...] = ("table", "json", "yaml"), **rest: Any
    ) -> None:
        rest["context_settings"] = {**CONTEXT, **(rest.get("context_settings") or {})}
        super().__init__(*arguments, **rest)
        self.formats = formats
        self.params.extend(GLOBAL_OPTIONS)

    def invoke(self, ctx: click.Context) -> Any:
        chosen = run_of(ctx).output.name
        if chosen not in self.formats:
            raise click.UsageError(
                f"'{ctx.command_path}' has no output format {chosen!r}; "
                f"it has {', '.join(self.formats)}.",
                ctx,
            )
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)


class Group(click.Group):
    """A noun. `modules` gives each verb's "module:attribute", imported when used or listed."""

    def __init__(
        self,
        *arguments: Any,
        modules: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
        **rest: Any,
    ) -> None:
        rest["context_settings"] = {**CONTEXT, **(rest.get("context_settings") or {})}
        super().__init__(*arguments, **rest)
        self.modules = dict(modules or {})
        self.aliases = dict(aliases or {})
        self.params.extend(GLOBAL_OPTIONS)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click calls it
        return list(self.modules)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - Click calls it
        cmd_name: str,
    ) -> click.Command | None:
        place = self.modules.get(self.aliases.get(cmd_name, cmd_name))
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{place} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.NoSuchCommand(name, possibilities=[*self.modules, *self.aliases], ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def command(
    name: str, *, formats: tuple[str, ...] = ("table", "json", "yaml")
) -> Callable[[Callable[..., Any]], Command]:
    """Declares a verb; see Command."""
    return click.command(name, cls=Command, formats=formats)


def _format_options(
    this: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    own: list[tuple[str, str]] = []
    everywhere: list[tuple[str, str]] = []
    for parameter in this.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and isinstance(parameter, click.Option):
            (everywhere if parameter in GLOBAL_OPTIONS else own).append(record)
    if own:
        with formatter.section("Options"):
            formatter.write_dl(own)
    with formatter.section("Global options"):
        formatter.write_dl(everywhere)
