"""The native module as the node uses it: its shape for the type checker, and its errors as ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from atlas.api import errors
from atlas.api.errors import AtlasError, ErrorCode

if TYPE_CHECKING:
    from atlas import _native

Identity = tuple[int, int, list[int]]
"""uid, gid, supplementary groups."""


class Engine(Protocol):
    """What the node asks of the engine; `atlas._native.Engine` is one, tests have another."""

    def create(self, dataset: "_native.DatasetSettings") -> None: ...
    def open(self, dataset: "_native.DatasetSettings") -> None: ...
    def serve(self, id: str, fuse: int, resume: bool) -> None: ...
    def status(self, id: str) -> "_native.DatasetStatus": ...
    def start_load(
        self, id: str, load: str, paths: list[bytes], parallel: int, bytes_per_second: int
    ) -> None: ...
    def load_status(self, id: str, load: str) -> "_native.LoadStatus": ...
    def stop_load(self, id: str, load: str) -> None: ...
    def events(self) -> list["_native.Event"]: ...
    def close(self, id: str) -> None: ...
    def destroy(self, id: str) -> None: ...
    def ended(self, id: str) -> bool: ...


class System(Protocol):
    """The functions of the native module: calls of the kernel that Python has no names for."""

    def open_folder_as(self, identity: Identity, path: str) -> int: ...
    def check_source(self, path: str) -> None: ...
    def open_tier(self, folder: str, medium: str, create: bool, uuid: str | None) -> str: ...
    def open_fuse(self) -> int: ...
    def mount_fuse(self, fuse: int, name: str, uid: int, gid: int) -> int: ...
    def attach_mount(self, mount: int, folder: int) -> None: ...
    def clone_mount(self, path: str) -> int: ...
    def unmount(self, path: str, detach: bool) -> None: ...
    def mount_table(self) -> "list[_native.MountEntry]": ...


def kind_of(error: Exception) -> ErrorCode | None:
    """The line of the error table for an exception of the native module; None for any other."""
    code = getattr(error, "code", None)
    return errors.BY_CODE.get(code) if isinstance(code, str) else None


@contextmanager
def failing(message: str, kind: ErrorCode | None = None, hint: str | None = None) -> Iterator[None]:
    """Turns an exception of the native module into an AtlasError about `message`.

    `kind` replaces the engine's where the place of the failure says more than its errno.
    """
    try:
        yield
    except AtlasError:
        raise
    except Exception as error:
        native = kind_of(error)
        if native is None:
            raise
        raise AtlasError(kind or native, message, str(error), hint) from error
