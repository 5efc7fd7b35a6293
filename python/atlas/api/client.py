"""The client of the node's HTTP API, over its unix socket. Blocking; no thread of its own."""

import http.client
import os
import select
import socket
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from atlas.api import errors, models
from atlas.api.environment import Home
from atlas.api.errors import AtlasError
from atlas.api.transport import connect, peer_of
from atlas.api.version import VERSION

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
_LARGEST_ANSWER_BYTES: Final = 256 << 20

_Model = TypeVar("_Model")


class Created(NamedTuple):
    """Answer to a create: `created` is false where the same data set existed already."""

    dataset: models.Dataset
    created: bool


class NodeAbsentError(AtlasError):
    """No node listens at the socket: nothing is there, or it was left by a dead one."""


class _Connection(http.client.HTTPConnection):
    """HTTP over an already connected socket."""

    def __init__(self, connected: socket.socket, timeout_seconds: float) -> None:
        super().__init__("atlas", timeout=timeout_seconds)
        self.sock = connected


class NodeClient:
    """Calls of one node. Every method raises AtlasError; each call is a connection of its own.

    `timeout_seconds` bounds the wait for each answer (TimedOut, exit code 124).
    """

    def __init__(self, home: Home, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        self.home = home
        self.timeout_seconds = timeout_seconds

    def version(self) -> models.Version:
        return self._get("/v1/version", models.Version)

    def node(self) -> models.Node:
        return self._get("/v1/node", models.Node)

    def stop(self, force: bool = False) -> models.Version:
        """Stops node and keeper and waits until both processes are gone; data sets are kept.

        Without `force` a mount in use is an error (InUse) and the node lives on. Gives who was
        stopped. Raises TimedOut where they are still there after the client's time limit.
        """
        status = self.node().status
        watched = [
            descriptor
            for pid in (status.pid, status.keeper.pid)
            if pid is not None and (descriptor := _open_process(pid)) is not None
        ]
        try:
            answer = self._call("POST", _path("/v1/node/stop", force=force), models.Version)
            for descriptor in watched:
                if not select.select([descriptor], [], [], self.timeout_seconds)[0]:
                    raise AtlasError(
                        errors.TIMED_OUT,
                        f"the node has not ended within {self.timeout_seconds:g} s",
                        hint="atlasctl node describe",
                    )
        finally:
            for descriptor in watched:
                os.close(descriptor)
        return answer

    def datasets(self) -> list[models.Dataset]:
        """The caller's own (root: everybody's), by name."""
        return self._get("/v1/datasets", models.DatasetList).items

    def dataset(self, name: str, users: bool = False) -> models.Dataset:
        """With `users` those of each of its fronts, whom the node looks for in all processes."""
        return self._get(_path(f"/v1/datasets/{_segment(name)}", users=users), models.Dataset)

    def create(
        self, dataset: models.Dataset, mount: str | None = None, dry_run: bool = False
    ) -> Created:
        """Creates a data set, shown at the node's own path and at `mount` (absolute) if given.

        `dry_run` checks all that can be checked and gives the object as it would become.
        """
        path = _path("/v1/datasets", mount=mount, dryRun="server" if dry_run else None)
        status, body = self._send("POST", path, models.to_json(dataset))
        answer = models.decode(body, models.Dataset, "the node's answer")
        return Created(answer, status == HTTPStatus.CREATED)

    def update(self, name: str, front: models.FrontChoice, dry_run: bool = False) -> models.Dataset:
        """Changes a data set's setting of the front; the front itself follows in its own time.

        Raises Unsupported where the machine cannot have it.
        """
        patch = models.DatasetPatch(spec=models.DatasetChanges(front=front))
        path = _path(f"/v1/datasets/{_segment(name)}", dryRun="server" if dry_run else None)
        return self._call("PATCH", path, models.Dataset, models.to_json(patch))

    def free(self, name: str, dry_run: bool = False) -> models.Freed:
        """Gives up what is cached of a data set that stays."""
        path = _path(f"/v1/datasets/{_segment(name)}/free", dryRun="server" if dry_run else None)
        return self._call("POST", path, models.Freed)

    def delete(self, name: str, force: bool = False, dry_run: bool = False) -> models.Deletion:
        """Deletes a data set. In use: InUse (exit code 4) naming the holders, or with `force`
        detached at once and freed when the last user leaves (`releasing`)."""
        path = _path(
            f"/v1/datasets/{_segment(name)}",
            force=force,
            dryRun="server" if dry_run else None,
        )
        return self._call("DELETE", path, models.Deletion)

    def events(self, name: str) -> list[models.Event]:
        """Oldest first."""
        return self._get(f"/v1/datasets/{_segment(name)}/events", models.EventList).items

    def loads(self, name: str) -> list[models.DataLoad]:
        """Oldest first."""
        return self._get(f"/v1/datasets/{_segment(name)}/loads", models.DataLoadList).items

    def start_load(
        self, name: str, spec: models.LoadSpec, dry_run: bool = False
    ) -> models.DataLoad:
        """Starts a load, or gives the running one with the same spec (another: Conflict)."""
        path = _path(f"/v1/datasets/{_segment(name)}/loads", dryRun="server" if dry_run else None)
        return self._call("POST", path, models.DataLoad, models.to_json(spec))

    def load(self, identifier: str, wait_seconds: float = 0.0) -> models.DataLoad:
        """A load; with `wait_seconds` the node answers when it has changed, or after that time."""
        wait = min(wait_seconds, max(self.timeout_seconds / 2, 0.1))
        path = _path(f"/v1/loads/{_segment(identifier)}", wait=wait or None)
        return self._get(path, models.DataLoad)

    def stop_load(self, identifier: str) -> models.DataLoad:
        path = f"/v1/loads/{_segment(identifier)}/stop"
        return self._call("POST", path, models.DataLoad)

    def mounts(self) -> list[models.Mount]:
        return self._get("/v1/mounts", models.MountList).items

    def mount(self, dataset: str, path: str, dry_run: bool = False) -> models.Mount:
        """Shows a data set at one more folder; there already: unchanged."""
        body = models.to_json(models.MountSpec(dataset=dataset, path=path))
        target = _path("/v1/mounts", dryRun="server" if dry_run else None)
        return self._call("POST", target, models.Mount, body)

    def unmount(
        self,
        path: str | None = None,
        dataset: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> list[models.Mount]:
        """Takes away one mount (`path`) or all of a `dataset`'s but the node's own.

        Gives those taken away. In use: InUse, or with `force` detached.
        """
        target = _path(
            "/v1/mounts",
            path=path,
            dataset=dataset,
            force=force,
            dryRun="server" if dry_run else None,
        )
        return self._call("DELETE", target, models.MountList).items

    def _get(self, path: str, model: type[_Model]) -> _Model:
        return self._call("GET", path, model)

    def _call(
        self, method: str, path: str, model: type[_Model], body: bytes | None = None
    ) -> _Model:
        _, answer = self._send(method, path, body)
        return models.decode(answer, model, "the node's answer")

    def _send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        headers = {"Atlas-Api": models.HTTP_API, "User-Agent": f"atlas/{VERSION}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        with self._connect() as connected:
            connection = _Connection(connected, self.timeout_seconds)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                answer = response.read(_LARGEST_ANSWER_BYTES)
            except TimeoutError as error:
                raise AtlasError(
                    errors.TIMED_OUT,
                    f"the node has not answered within {self.timeout_seconds:g} s",
                    unchanged="the work goes on in the node",
                    hint="atlasctl node describe",
                ) from error
            except (OSError, http.client.HTTPException) as error:
                raise AtlasError(
                    errors.TEMPORARY,
                    "the connection to the node broke",
                    str(error) or type(error).__name__,
                    hint="the same command again; atlasctl node describe",
                ) from error
        if not 200 <= response.status < 300:
            _check_api(response.headers.get("Atlas-Api"), response.headers.get("Atlas-Version"))
            raise errors.from_body(_json(answer), response.status)
        _check_api(response.headers.get("Atlas-Api"), response.headers.get("Atlas-Version"))
        return response.status, answer

    def _connect(self) -> socket.socket:
        path = self.home.socket
        try:
            connected = connect(path, self.timeout_seconds)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise NodeAbsentError(
                errors.NOT_READY, "no node is running", f"{path}: {error.strerror}",
                hint="atlasctl node start",
            ) from error  # fmt: skip
        except TimeoutError as error:
            raise AtlasError(errors.TIMED_OUT, "the node does not take connections") from error
        except OSError as error:
            raise AtlasError(
                errors.DENIED, "the node cannot be reached", f"{path}: {error.strerror}"
            ) from error
        # Before the first byte is sent: whoever listens gets paths and orders of this user.
        _, uid, _ = peer_of(connected)
        if uid not in (0, os.geteuid()):
            connected.close()
            raise AtlasError(
                errors.UNTRUSTED,
                f"the socket {path} belongs to neither root nor you",
                f"uid {uid} listens there",
            )
        return connected


def _check_api(api: str | None, version: str | None) -> None:
    if api != models.HTTP_API:
        raise AtlasError(
            errors.VERSION_MISMATCH,
            "this command and the running node do not fit together",
            f"the command is {VERSION} (API {models.HTTP_API}),"
            f" the node is {version or 'unknown'} (API {api or 'unknown'})",
            hint="atlasctl node stop, with the node's own version of atlasctl",
        )


def _json(answer: bytes) -> object:
    try:
        return models.decode(answer, dict[str, object], "the node's answer")
    except AtlasError:
        return None


def _segment(name: str) -> str:
    return quote(name, safe="")


def _path(path: str, /, **query: str | float | bool | None) -> str:
    given = {
        key: "true" if value is True else str(value)
        for key, value in query.items()
        if value is not None and value is not False
    }
    return f"{path}?{urlencode(given)}" if given else path


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
