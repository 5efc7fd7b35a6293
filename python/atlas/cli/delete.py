"""`atlasctl cache delete`."""

from __future__ import annotations

import click

from atlas.cli.commands import command
from atlas.cli.run import Run, pass_run


@command("delete", formats=("table", "json", "yaml", "name"))
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--force",
    is_flag=True,
    help="Also while programs use it: its mounts are detached at once, open files stay readable, "
    "and the bytes are freed when the last user has left.",
)
@click.option("--ignore-not-found", is_flag=True, help="Exit 0 where there is no such data set.")
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: show the data set that would go; server: also what would be freed, who uses it.",
)
@pass_run
def delete(
    run: Run, name: str, yes: bool, force: bool, ignore_not_found: bool, dry_run: str | None
) -> None:
    """Delete a data set and free its cached bytes. The origin is untouched.

    Asks on a terminal, naming what leaves the cache; without a terminal it needs -y. A data set in
    use is refused (exit code 4) and the programs that use it are named, unless --force is given.
    """
    from atlas.api import errors
    from atlas.api.units import check_name, format_size
    from atlas.cli.confirm import confirm
    from atlas.cli.describe import dataset_table
    from atlas.cli.session import absent, nearest, used
    from atlas.cli.show import show

    check_name(name)
    client = used(run)
    try:
        if client is None:
            raise absent(name)
        with nearest(client, name):
            dataset = client.dataset(name)
            if dry_run == "client":
                show(
                    run,
                    dataset,
                    text=lambda: dataset_table([dataset], wide=False),
                    names=lambda: [f"dataset/{name}"],
                )
                run.say(f"Data set {name} would be deleted; nothing was done.")
                return
            media = " and ".join(tier.medium for tier in dataset.spec.tiers)
            if dry_run is None and not yes:
                size = format_size(dataset.status.cached_bytes)
                confirm(
                    f"Delete data set {name}? {dataset.status.cached_files:,} files, {size} leave"
                    f" {media}; the origin is untouched.",
                    f"data set {name} was not deleted",
                )
            deletion = client.delete(name, force=force, dry_run=dry_run == "server")
    except errors.AtlasError as error:
        if ignore_not_found and error.kind is errors.NOT_FOUND:
            run.say(f"There is no data set {name}.")
            return
        raise
    size = format_size(deletion.bytes)
    if deletion.dry_run:
        holders = "; ".join(
            f"{holder.command} (pid {holder.pid}, {holder.use})" for holder in deletion.holders
        )
        in_use = f" It is in use: {holders}." if holders else ""
        run.say(f"{size} of {media} would be freed ({deletion.files:,} files).{in_use}")
    elif deletion.releasing:
        run.say(f"Data set {name} is detached; {size} of {media} follow when its last user leaves.")
    else:
        run.say(f"Deleted data set {name}: {size} left {media}. The origin is untouched.")
    show(run, deletion, text=lambda: "", names=lambda: [f"dataset/{name}"])
