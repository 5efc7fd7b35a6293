"""`atlasctl node`: the process on this machine that serves data sets."""

from __future__ import annotations

import click

from atlas.cli.commands import Group, command
from atlas.cli.run import Run, pass_run

node = Group(
    "node",
    help="Start, stop and inspect this machine's node.",
    modules={
        "start": "atlas.cli.node:start",
        "stop": "atlas.cli.node:stop",
        "describe": "atlas.cli.node:describe",
    },
)


@command("start", formats=("table", "json", "yaml", "name", "jsonpath"))
@pass_run
def start(run: Run) -> None:
    """Start the node, which brings back its data sets and mounts.

    Commands that need it do so themselves; running already is no error.
    """
    from atlas.api.environment import client_home
    from atlas.api.launch import start_node
    from atlas.cli.session import Client, running, time_left
    from atlas.cli.show import show

    client = running(run)
    new = False
    if client is None:
        home = client_home()
        new = start_node(home, time_left(run))
        client = Client(run, home)
    found = client.node()
    run.say(
        f"{'Started the node' if new else 'The node is already running'}"
        f" (pid {found.status.pid}, {found.status.datasets} data sets)."
    )
    show(run, found, text=lambda: "", names=lambda: [f"node/{found.metadata.name}"])


@command("stop", formats=("table", "json", "yaml"))
@click.option(
    "--force", is_flag=True, help="Also while programs use its mounts: they are detached."
)
@pass_run
def stop(run: Run, force: bool) -> None:
    """Stop the node; data sets and caches stay.

    Its mounts go, and come back with the next start. Refused (exit code 4) while programs use a
    mount, naming them, unless --force is given. Not running is no error.
    """
    from atlas.api.models import to_builtins
    from atlas.cli.session import running
    from atlas.cli.show import show

    client = running(run)
    if client is None:
        pid = _stop_unreachable(run, force)
        stopped = None if pid is None else {"pid": pid}
    else:
        stopped = to_builtins(client.stop(force=force))
    run.say(
        f"Stopped the node (pid {stopped['pid']}). Data sets and caches stay."
        if stopped
        else "No node is running."
    )
    show(run, {"stopped": stopped}, text=lambda: "")


def _stop_unreachable(run: Run, force: bool) -> int | None:
    """Stops a node whose socket somebody has removed. Gives the keeper's pid, None for no node."""
    import os
    from pathlib import Path

    from atlas.api import errors, keeper
    from atlas.api.environment import own_home
    from atlas.cli import machine
    from atlas.cli.session import time_left

    home = own_home()
    own = f"{os.path.realpath(home.mounts)}/"
    mounts = machine.atlas_mounts(Path("/proc/self/mountinfo"))
    if not force and keeper.is_locked(home) and any(path.startswith(own) for path in mounts):
        raise errors.AtlasError(
            errors.IN_USE,
            "the node cannot be asked who uses its mounts",
            f"nothing listens at {home.socket}",
            hint="atlasctl node stop --force",
            unchanged="the node goes on",
        )
    return keeper.stop_keeper(home, time_left(run))


@command("describe", formats=("table", "json", "yaml", "name", "jsonpath"))
@pass_run
def describe(run: Run) -> None:
    """Show the running node.

    Process, folders, limits, tiers, and what this machine can do. Starts nothing; exit code 10
    where no node runs.
    """
    from atlas.api.environment import client_home
    from atlas.cli.describe import node_lines
    from atlas.cli.session import Client
    from atlas.cli.show import show

    found = Client(run, client_home()).node()
    show(run, found, text=lambda: node_lines(found), names=lambda: [f"node/{found.metadata.name}"])
