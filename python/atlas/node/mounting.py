"""The mount table: where data sets are shown, and how they are attached and taken away.

Every mount of a data set carries its id in the source column, so that the table itself says
what is ours, whatever was lost. Paths are used by the privileged node only after a look by
descriptor: whoever owns a folder above could have put a link there.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.units import printable
from atlas.node.holders import mount_id_of
from atlas.node.native import Identity, System, failing

LIVE: Final = "fuse.atlas"
IMAGE: Final = "erofs"
_SOURCE: Final = "atlas:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the mount table. `device` is "MAJOR:MINOR", `parent` the mount that it lies on:
    at its own path, where it covers that one."""

    id: int
    parent: int
    device: str
    path: str
    type: str
    source: str

    @property
    def is_atlas(self) -> bool:
        """Whether it shows a data set, of whichever node."""
        return self.type in (LIVE, IMAGE) and self.source.startswith(_SOURCE)


@dataclass(frozen=True, slots=True)
class Target:
    """A folder that was found fit to be mounted on; `descriptor` is the caller's to close."""

    descriptor: int
    path: str
    given: str


class Mounting:
    """The node's work on the mount table."""

    def __init__(self, system: System, home: Home) -> None:
        self._system = system
        self._home = home

    def own_path(self, name: str) -> str:
        """The node's own mount of the data set `name`."""
        return str(self._home.mounts / name)

    def source_of(self, name: str, identifier: str) -> str:
        """What the source column says; users see the name in `df`."""
        return f"{_SOURCE}{name}:{identifier}"

    def entries(self, identifier: str, table: list[Entry] | None = None) -> list[Entry]:
        """The mounts of a data set in this namespace, in the order they were made; in a `table`
        read before, for whoever asks about many."""
        return [
            entry
            for entry in (self.table() if table is None else table)
            if entry.is_atlas and entry.source.endswith(f":{identifier}")
        ]

    def strays(self, known: set[str]) -> list[Entry]:
        """Mounts below the node's own folder that belong to no data set of `known` ids."""
        prefix = f"{self._home.mounts}/"
        return [
            entry
            for entry in self.table()
            if entry.is_atlas
            and entry.path.startswith(prefix)
            and entry.source.rpartition(":")[2] not in known
        ]

    def table(self) -> list[Entry]:
        """All mounts of this namespace. Raises AtlasError."""
        with failing("the mount table cannot be read"):
            return [
                Entry(
                    entry["id"],
                    entry["parent"],
                    "{}:{}".format(*entry["device"]),
                    os.fspath(entry["path"]),
                    entry["type"],
                    entry["source"],
                )
                for entry in self._system.mount_table()
            ]

    def open_own(self, name: str) -> int:
        """The folder of the node's own mount, made where it is absent. Raises AtlasError."""
        path = self._home.mounts / name
        try:
            with suppress(FileExistsError):
                path.mkdir(mode=0o755)
            return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            shown = printable(str(path))
            raise AtlasError(
                errors.CANNOT_MOUNT, f"the mount folder {shown} is not fit", str(error)
            ) from error

    def remove_own(self, name: str) -> None:
        """The empty folder that is left after the node's own mount has gone; it may have been
        removed already, or somebody has put something there."""
        with suppress(OSError):
            (self._home.mounts / name).rmdir()

    def attach(self, mount: int, folder: int) -> None:
        """Shows the mount at an opened folder. Raises AtlasError."""
        with failing("the data set cannot be mounted", errors.CANNOT_MOUNT):
            self._system.attach_mount(mount, folder)

    def clone(self, entry: Entry) -> int:
        """One more mount of the file system that `entry` shows. Raises as `attach_beneath`."""
        with failing("the data set cannot be mounted once more", errors.CANNOT_MOUNT):
            folder, name = self._open_place(entry)
            try:
                os.close(self._open_root(folder, name, entry))
                return self._system.clone_mount(f"/proc/self/fd/{folder}/{name}")
            finally:
                os.close(folder)

    def unmount(self, entry: Entry, detach: bool) -> None:
        """Takes one mount away. Raises AtlasError: Busy where it is in use (not with `detach`),
        NotFound where another mount, or none, lies at its path."""
        with failing(f"{printable(entry.path)} cannot be unmounted"):
            folder, name = self._open_place(entry)
            try:
                # Open, the root would keep the mount busy. Nothing takes its place: a mount point
                # cannot be renamed or replaced while it is one, and the folders above it are held.
                os.close(self._open_root(folder, name, entry))
                self._system.unmount(f"/proc/self/fd/{folder}/{name}", detach)
            finally:
                os.close(folder)

    def attach_beneath(self, mount: int, entry: Entry) -> None:
        """Shows the mount at the path of `entry` as soon as that one is unmounted. Raises
        AtlasError: NotFound where another mount, or none, lies at its path."""
        message = f"{printable(entry.path)} cannot be replaced"
        with failing(message, errors.CANNOT_MOUNT), self._root(entry) as root:
            self._system.attach_beneath(mount, root)

    def cover(self, mount: int, entry: Entry) -> None:
        """Shows the mount at the path of `entry`, which stays below. Raises as `attach_beneath`."""
        message = f"{printable(entry.path)} cannot be covered"
        with failing(message, errors.CANNOT_MOUNT), self._root(entry) as root:
            self._system.attach_mount(mount, root)

    def detach_all(self, identifier: str) -> None:
        """Takes all mounts of a data set out of the tree, in use or not, the topmost first."""
        for entry in from_the_top(self.entries(identifier)):
            # Gone or moved meanwhile: the table of the next look says what is left.
            with suppress(AtlasError):
                self.unmount(entry, detach=True)

    def open_target(self, identity: Identity, given: str, source: str) -> Target:
        """Checks a folder to mount on, with the rights of `identity`, and opens it.

        It must be empty, the user's own (root: anybody's), no mount point, and neither in the
        data set's own source, nor in an Atlas mount, nor among the node's own folders.
        Raises AtlasError.
        """
        path = check_path(given, "the mount folder")
        shown = printable(path)
        try:
            with failing(f"the mount folder {shown} cannot be opened"):
                descriptor = self._system.open_folder_as(identity, path)
        except AtlasError as error:
            if error.kind is errors.PATH_NOT_FOUND:
                error.hint = f"mkdir -p {shlex.quote(path)}"
            raise
        try:
            # Links may lead to a name that the given one does not show.
            real = check_path(os.readlink(f"/proc/self/fd/{descriptor}"), "the mount folder")
            self._check_target(identity, descriptor, real, shown, source)
        except OSError as error:
            os.close(descriptor)
            raise AtlasError(
                errors.ACCESS_DENIED,
                f"the mount folder {shown} cannot be looked at by the node",
                error.strerror,
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        return Target(descriptor, real, path)

    def _check_target(
        self, identity: Identity, descriptor: int, real: str, shown: str, source: str
    ) -> None:
        mount_id = mount_id_of(descriptor)
        for entry in self.table():
            if entry.path == real:
                raise AtlasError(
                    errors.CONFLICT,
                    f"the mount folder {shown} is in use",
                    f"{printable(entry.source)} is mounted there",
                    hint=f"atlasctl cache unmount {shown}" if entry.is_atlas else None,
                )
            if entry.id == mount_id and entry.is_atlas:
                raise AtlasError(errors.INVALID, f"the mount folder {shown} is in an Atlas mount")
        if is_below(real, source):
            raise AtlasError(
                errors.INVALID, f"the mount folder {shown} lies in the source {printable(source)}"
            )
        for own in own_folders(self._home):
            if is_below(real, str(own)):
                raise AtlasError(errors.INVALID, f"the mount folder {shown} is the node's own")
        status = os.fstat(descriptor)
        if identity[0] not in (0, status.st_uid):
            raise AtlasError(
                errors.DENIED,
                f"the mount folder {shown} is not yours",
                f"it belongs to uid {status.st_uid}",
            )
        # Through /proc: the descriptor itself is no more than a place.
        if os.listdir(f"/proc/self/fd/{descriptor}"):
            raise AtlasError(errors.CONFLICT, f"the mount folder {shown} is not empty")
        if not stat.S_ISDIR(status.st_mode):
            raise AtlasError(errors.INVALID, f"{shown} is no folder")

    @contextmanager
    def _root(self, entry: Entry) -> Iterator[int]:
        folder, name = self._open_place(entry)
        try:
            root = self._open_root(folder, name, entry)
        finally:
            os.close(folder)
        try:
            yield root
        finally:
            os.close(root)

    def _open_place(self, entry: Entry) -> tuple[int, str]:
        """The folder that the mount point lies in, and its name there."""
        parent, _, name = entry.path.rpartition("/")
        try:
            return os.open(parent or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), name
        except OSError as error:
            raise _moved(entry, error.strerror) from error

    def _open_root(self, folder: int, name: str, entry: Entry) -> int:
        try:
            root = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise _moved(entry, error.strerror) from error
        if mount_id_of(root) != entry.id:
            os.close(root)
            raise _moved(entry, "another mount, or none, lies there")
        return root


def _moved(entry: Entry, cause: str | None) -> AtlasError:
    return AtlasError(errors.NOT_FOUND, f"the mount at {printable(entry.path)} has moved", cause)


def from_the_top(entries: list[Entry]) -> list[Entry]:
    """The newest first, and each before those that it covers: so they can be unmounted."""
    ordered, left = [], list(reversed(entries))
    while left:
        covered = {entry.parent for entry in left}
        free = [entry for entry in left if entry.id not in covered]
        # The kernel's tables have no circles; a torn one must not hold this up.
        ordered += free or left
        left = [entry for entry in left if entry.id in covered] if free else []
    return ordered


def stacks_at(entries: list[Entry]) -> dict[str, list[Entry]]:
    """The entries at each path, the topmost first."""
    stacks: dict[str, list[Entry]] = {}
    for entry in from_the_top(entries):
        stacks.setdefault(entry.path, []).append(entry)
    return stacks


def shown_at(entries: list[Entry]) -> dict[str, Entry]:
    """What each path shows."""
    return {path: stack[0] for path, stack in stacks_at(entries).items()}


def check_path(given: str, what: str) -> str:
    """`given` in its shortest form. Raises AtlasError (Invalid) unless it is absolute and UTF-8."""
    if not given.startswith("/") or "\0" in given:
        raise AtlasError(errors.INVALID, f"{what} {printable(given)} is no absolute path")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise AtlasError(errors.INVALID, f"{what} {printable(given)} is not in UTF-8") from None
    # Only what no link can change: ".." is left to the kernel.
    parts = [part for part in given.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it; both without links."""
    return folder == "/" or path == folder or path.startswith(f"{folder}/")


def own_folders(home: Home) -> tuple[Path, ...]:
    """What the node works in: neither a source nor a mount folder may lie here."""
    return home.run, home.state, home.log, home.tiers, home.shared_memory
