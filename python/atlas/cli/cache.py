"""`atlasctl cache`: data sets and their caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from atlas.cli.commands import Group, command
from atlas.cli.options import FORMATS
from atlas.cli.run import Run, pass_run

if TYPE_CHECKING:
    from atlas.api import models

cache = Group(
    "cache",
    help="Create, warm, inspect and delete caches of data sets.",
    modules={
        "create": "atlas.cli.create:create",
        "list": "atlas.cli.cache:list_",
        "get": "atlas.cli.cache:get",
        "describe": "atlas.cli.cache:describe",
        "events": "atlas.cli.cache:events",
        "update": "atlas.cli.update:update",
        "warm": "atlas.cli.warm:warm",
        "free": "atlas.cli.free:free",
        "delete": "atlas.cli.delete:delete",
        "mount": "atlas.cli.mounts:mount",
        "unmount": "atlas.cli.mounts:unmount",
        "mounts": "atlas.cli.mounts:mounts",
    },
    aliases={"load": "warm"},
)


@command("list", formats=FORMATS)
@pass_run
def list_(run: Run) -> None:
    """List your data sets (root: everybody's).

    CACHED counts verified bytes. A total with a '+' is not all: the scan of the origin goes on,
    or could not read a part. '-o wide' adds files, hit ratio, front, source and path.
    """
    from atlas.api.models import DatasetList
    from atlas.cli.session import used

    client = used(run)
    _show_datasets(run, DatasetList(items=client.datasets() if client else []))


@command("get", formats=FORMATS)
@click.argument("name")
@pass_run
def get(run: Run, name: str) -> None:
    """Show one data set: a row, or with -o json the object."""
    _show_datasets(run, find(run, name))


@command("describe", formats=("table", "json", "yaml", "name", "jsonpath"))
@click.argument("name")
@pass_run
def describe(run: Run, name: str) -> None:
    """Show all about one data set.

    Settings, scan, cache, its fronts and who uses each, conditions and the last events, and the
    links that leave the data set: what is read through them bypasses the cache.
    """
    from atlas.cli.describe import dataset_lines
    from atlas.cli.session import used
    from atlas.cli.show import show

    dataset = find(run, name, users=True)
    client = used(run)

    def text() -> list[str]:
        return dataset_lines(dataset, client.events(name) if client else [])

    show(run, dataset, text=text, names=lambda: [f"dataset/{name}"])


@command("events", formats=("table", "json", "yaml", "jsonpath"))
@click.argument("name")
@pass_run
def events(run: Run, name: str) -> None:
    """List what happened to a data set, oldest first."""
    from atlas.api.models import EventList
    from atlas.cli.describe import event_lines
    from atlas.cli.session import absent, nearest, used
    from atlas.cli.show import show

    client = used(run)
    if client is None:
        raise absent(name)
    with nearest(client, name):
        found = client.events(name)
    if not found:
        run.say(f"No events of data set {name}.")
    show(run, EventList(items=found), text=lambda: event_lines(found))


def find(run: Run, name: str, users: bool = False) -> models.Dataset:
    """The data set of that name. Raises AtlasError (NotFound) with the nearest name."""
    from atlas.api.units import check_name
    from atlas.cli.session import absent, nearest, used

    check_name(name)
    client = used(run)
    if client is None:
        raise absent(name)
    with nearest(client, name):
        return client.dataset(name, users=users)


def _show_datasets(run: Run, value: models.Dataset | models.DatasetList) -> None:
    from atlas.api.models import DatasetList
    from atlas.cli.describe import dataset_table
    from atlas.cli.show import show

    items: Sequence[models.Dataset] = value.items if isinstance(value, DatasetList) else [value]
    if not items:
        run.say("No data sets. Create one: atlasctl cache create NAME --from FOLDER --size SIZE")
    show(
        run,
        value,
        text=lambda: dataset_table(items, wide=run.output.name == "wide"),
        names=lambda: [f"dataset/{dataset.metadata.name}" for dataset in items],
    )
