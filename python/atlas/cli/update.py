"""`atlasctl cache update`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from atlas.cli.commands import command
from atlas.cli.create import FRONTS, front_choice
from atlas.cli.run import Run, pass_run

if TYPE_CHECKING:
    from atlas.api import models


@command("update", formats=("table", "json", "yaml", "name", "jsonpath"))
@click.argument("name")
@click.option(
    "--front",
    type=click.Choice(FRONTS),
    metavar="|".join(FRONTS),
    required=True,
    help="The fastest way to serve it that may be chosen; auto takes the best that there is.",
)
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: show the object as it would become; server: let the node check it too.",
)
@pass_run
def update(run: Run, name: str, front: str, dry_run: str | None) -> None:
    """Change the settings of a data set.

    It stays where it is, with all that is cached. Its front follows by itself, which may take a
    while: a sealed one needs every byte cached and verified. Programs keep what they have open. A
    front that this machine cannot have is refused. Set so already: unchanged.
    """
    from atlas.api.units import check_name
    from atlas.cli.session import absent, nearest, used
    from atlas.cli.show import show

    check_name(name)
    wanted = front_choice(front)
    client = used(run)
    if client is None:
        raise absent(name)
    with nearest(client, name):
        dataset = client.dataset(name)
        before = dataset.spec.front
        if dry_run == "client":
            dataset.spec.front = wanted
        else:
            dataset = client.update(name, wanted, dry_run=dry_run == "server")
    if before == wanted:
        run.say(f"Data set {name} unchanged: its front is set to {wanted} already.")
    elif dry_run:
        run.say(f"Data set {name} would change: front {before} -> {wanted}. Nothing was done.")
    else:
        run.say(f"Data set {name} changed: front {before} -> {wanted}. {_what_follows(dataset)}")
    show(run, dataset, text=lambda: "", names=lambda: [f"dataset/{name}"])


def _what_follows(dataset: models.Dataset) -> str:
    present = dataset.status.front
    watch = f"atlasctl cache describe {dataset.metadata.name}"
    if present is None:
        return f"It is not served now: {watch}"
    if present == dataset.spec.front:
        return f"It is served {present} now, and stays so."
    return f"It is served {present} now; the node changes that when it can: {watch}"
