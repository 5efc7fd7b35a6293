"""The mount table: where data sets are shown, and how they are attached and taken away.

Every mount of a data set carries its id in the source column, so that the table itself says
what is ours, whatever was lost. Paths are used by the privileged node only after a look by
descriptor: whoever owns a folder above could have put a link there.
"""

import os
import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atlas.api import errors
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.units import printable
from atlas.node.holders import mount_id_of
from atlas.node.native import Identity, System, failing

FILESYSTEM: Final = "fuse.atlas"
_SOURCE: Final = "atlas:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the mount table. `device` is "MAJOR:MINOR"."""

    id: int
    device: str
    path: str
    source: str
    is_atlas: bool


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
            if entry.is_atlas
            and entry.source.startswith(_SOURCE)
            and entry.source.endswith(f":{identifier}")
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
                    "{}:{}".format(*entry["device"]),
                    os.fspath(entry["path"]),
                    entry["source"],
                    entry["type"] == FILESYSTEM,
                )
                for entry in self._system.mount_table()
            ]

    def open_own(self, name: str) -> int:
        """The folder of the node's own mount, made where it is absent."""
        path = self._home.mounts / name
        with suppress(FileExistsError):
            path.mkdir(mode=0o755)
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def remove_own(self, name: str) -> None:
        """The empty folder that is left after the node's own mount has gone; it may have been
        removed already, or somebody has put something there."""
        with suppress(OSError):
            (self._home.mounts / name).rmdir()

    def attach(self, mount: int, folder: int) -> None:
        """Shows the mount at an opened folder. Raises AtlasError."""
        with failing("the data set cannot be mounted", errors.CANNOT_MOUNT):
            self._system.attach_mount(mount, folder)

    def clone(self, path: str) -> int:
        """One more mount of the file system at `path`."""
        with failing("the data set cannot be mounted once more", errors.CANNOT_MOUNT):
            return self._system.clone_mount(path)

    def unmount(self, entry: Entry, detach: bool) -> None:
        """Takes one mount away. Raises AtlasError: Busy where it is in use (not with `detach`),
        NotFound where another mount, or none, lies at its path."""
        parent, _, name = entry.path.rpartition("/")
        with failing(f"{printable(entry.path)} cannot be unmounted"):
            folder = self._open_parent(parent or "/", entry)
            try:
                # A mount point cannot be renamed or replaced while it is one, so what is found
                # here stays what it is; the folders above it may change, and are held open.
                if self._mount_at(folder, name) != entry.id:
                    raise AtlasError(
                        errors.NOT_FOUND, f"the mount at {printable(entry.path)} has moved"
                    )
                self._system.unmount(f"/proc/self/fd/{folder}/{name}", detach)
            finally:
                os.close(folder)

    def detach_all(self, identifier: str) -> None:
        """Takes all mounts of a data set out of the tree, in use or not, the newest first."""
        for entry in reversed(self.entries(identifier)):
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

    def _open_parent(self, parent: str, entry: Entry) -> int:
        try:
            return os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise AtlasError(
                errors.NOT_FOUND, f"the mount at {printable(entry.path)} has moved", error.strerror
            ) from error

    def _mount_at(self, folder: int, name: str) -> int:
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return -1
        try:
            return mount_id_of(descriptor)
        finally:
            # Open, it would keep the mount busy.
            os.close(descriptor)


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
