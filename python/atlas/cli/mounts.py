"""`atlasctl cache mount`, `unmount` and `mounts`: where data sets are shown."""

from __future__ import annotations

import click

from atlas.cli.arguments import absolute
from atlas.cli.commands import command
from atlas.cli.run import Run, pass_run


@command("mount", formats=("table", "json", "yaml", "name"))
@click.argument("name")
@click.argument("folder", metavar="DIR")
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: show the object; server: check all that can be checked.",
)
@pass_run
def mount(run: Run, name: str, folder: str, dry_run: str | None) -> None:
    """Show a data set at one more folder.

    The folder must exist, be empty and be yours. Mounted there already: unchanged.
    """
    from atlas.api import models
    from atlas.api.units import check_name, printable
    from atlas.cli.session import absent, nearest, used
    from atlas.cli.show import show

    check_name(name)
    path = absolute(folder, "DIR")
    if dry_run == "client":
        mounted = models.Mount(
            metadata=models.Metadata(), spec=models.MountSpec(dataset=name, path=path)
        )
    else:
        client = used(run)
        if client is None:
            raise absent(name)
        with nearest(client, name):
            mounted = client.mount(name, path, dry_run=dry_run == "server")
    shown = printable(mounted.spec.path)
    run.say(
        f"{name} would be mounted at {shown}; nothing was done."
        if dry_run
        else f"{name} is mounted at {shown}."
    )
    show(run, mounted, text=lambda: "", names=lambda: [f"mount/{shown}"])


@command("unmount", formats=("table", "json", "yaml", "name"))
@click.argument("target", metavar="DIR|NAME")
@click.option(
    "--force", is_flag=True, help="Also while programs use it: detached, open files stay readable."
)
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: show what would be unmounted; server: also whether it is in use.",
)
@pass_run
def unmount(run: Run, target: str, force: bool, dry_run: str | None) -> None:
    """Take away a mount, or all mounts of a data set.

    What holds a '/' is a folder, else a data set (write ./DIR for a folder here). The data set, its
    cache and the path that the node itself gave it stay.
    """
    from atlas.api import errors, models
    from atlas.api.units import check_name, printable
    from atlas.cli.session import absent, nearest, used
    from atlas.cli.show import show

    path = absolute(target, "DIR") if "/" in target else None
    name = None if path else check_name(target)
    client = used(run)
    if client is None:
        if name:
            raise absent(name)
        raise errors.AtlasError(
            errors.NOT_FOUND,
            f"no data set is mounted at {printable(path or '')}",
            hint="atlasctl cache mounts",
        )
    if dry_run == "client":
        taken = [
            mount
            for mount in client.mounts()
            if mount.spec.path == path or (mount.spec.dataset == name and not mount.status.own)
        ]
    elif name:
        with nearest(client, name):
            taken = client.unmount(dataset=name, force=force, dry_run=dry_run == "server")
    else:
        taken = client.unmount(path=path, force=force, dry_run=dry_run == "server")
    for mount in taken:
        verb = "would be unmounted" if dry_run else "is unmounted"
        run.say(f"{printable(mount.spec.path)} {verb} (data set {mount.spec.dataset}).")
    if not taken:
        run.say(f"{printable(target)} has no mount to take away.")
    show(
        run,
        models.MountList(items=taken),
        text=lambda: "",
        names=lambda: [f"mount/{printable(mount.spec.path)}" for mount in taken],
    )


@command("mounts", formats=("table", "json", "yaml", "name", "jsonpath"))
@pass_run
def mounts(run: Run) -> None:
    """List where data sets are shown.

    The node's own paths, and those of 'cache mount' and 'cache create --mount'.
    """
    from atlas.api.models import MountList
    from atlas.api.units import printable
    from atlas.cli.describe import mount_table
    from atlas.cli.session import used
    from atlas.cli.show import show

    client = used(run)
    found = client.mounts() if client else []
    if not found:
        run.say("No mounts.")
    show(
        run,
        MountList(items=found),
        text=lambda: mount_table(found),
        names=lambda: [f"mount/{printable(mount.spec.path)}" for mount in found],
    )
