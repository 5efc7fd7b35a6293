"""Each command and each option has help, and a place in docs/cli.md."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from atlas.api import errors
from atlas.api.environment import VARIABLES
from atlas.cli.commands import Command
from atlas.cli.options import GLOBAL_OPTIONS
from atlas.cli.program import root
from atlas.node.settings import Settings

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()


def tree(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            assert below.name == name
            yield from tree(below, f"{path} {name}")


COMMANDS = dict(tree(root, "atlasctl"))


def section(path: str) -> str:
    """What the page says under the heading of a command."""
    head = f"### {path}"
    lines = iter(PAGE.splitlines())
    for line in lines:
        if line == head or line.startswith(f"{head} "):
            text = [line]
            for below in lines:
                if below.startswith("#"):
                    break
                text.append(below)
            return "\n".join(text)
    raise AssertionError(f"docs/cli.md has no section {head!r}")


@pytest.mark.parametrize("path", COMMANDS)
def test_help(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    summary = command.get_short_help_str(60)
    assert summary.endswith("."), f"{summary!r} is cut off in the list of commands"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.name}"


@pytest.mark.parametrize(
    "path", [path for path, command in COMMANDS.items() if isinstance(command, Command)]
)
def test_docs(path: str) -> None:
    text = section(path)
    for parameter in COMMANDS[path].params:
        if parameter in GLOBAL_OPTIONS:
            continue
        names = [*parameter.opts, *parameter.secondary_opts]
        shown = names if isinstance(parameter, click.Option) else [parameter.make_metavar(context)]
        for name in shown:
            assert name.strip("[]") in text, f"{name} is not under {path}"


def test_global_options_and_aliases() -> None:
    for option in GLOBAL_OPTIONS:
        for name in option.opts:
            assert f"`{name}" in PAGE
    for command in COMMANDS.values():
        for alias in getattr(command, "aliases", {}):
            assert f"`{alias}`" in PAGE


def test_each_variable_is_in_the_page() -> None:
    for variable in VARIABLES:
        assert f"| `{variable.name}` | {variable.meaning} |\n" in PAGE


def test_each_setting_of_a_node_is_in_the_page() -> None:
    for setting in fields(Settings):
        assert f"\n| `{setting.name}`" in PAGE.replace("`[[tiers]]`", "`tiers`")


def test_each_error_is_explained_where_its_docs_line_points() -> None:
    page = (Path(__file__).parents[3] / errors.DOCUMENTATION).read_text()
    for kind in errors.ALL:
        explained = f"`{kind.reason}`, exit code {kind.exit_code}. {kind.meaning}"
        assert f"### {kind.code}\n\n{explained}\n" in page


context = click.Context(root)
