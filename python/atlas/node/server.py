"""The control API over HTTP: routes, and what every request and answer has in common.

Services block, so each request runs in a thread of its own; the event loop only moves bytes.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atlas.api import errors, models
from atlas.api.errors import AtlasError
from atlas.api.units import printable
from atlas.api.version import VERSION
from atlas.node.application import Application
from atlas.node.caller import Caller

logger = logging.getLogger("atlas.node.server")

_LARGEST_BODY_BYTES: Final = 1 << 20
_THREADS: Final = 64
_WAITING_THREADS: Final = 128
"""Of their own: clients that wait for loads must not keep others from being answered."""
_USERS: Final = 4
"""So many users other than root it takes to hold all threads: one whose folders hang must not keep
others from being answered. Further calls of the same user wait."""

Answer = tuple[int, Any]
Handler = Callable[["Call"], Answer]


class Call:
    """One request, read whole."""

    def __init__(self, request: Request, caller: Caller, body: bytes) -> None:
        self.caller = caller
        self.body = body
        self._request = request

    def part(self, name: str) -> str:
        """A part of the path."""
        return str(self._request.path_params[name])

    def text(self, name: str) -> str | None:
        return self._request.query_params.get(name)

    def flag(self, name: str) -> bool:
        value = self.text(name)
        if value not in (None, "true", "false"):
            raise AtlasError(errors.INVALID, f"{name} must be true or false")
        return value == "true"

    def seconds(self, name: str) -> float:
        value = self.text(name)
        try:
            seconds = float(value or 0)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e6:
            raise AtlasError(errors.INVALID, f"{name} must be a number of seconds")
        return seconds

    @property
    def dry_run(self) -> bool:
        value = self.text("dryRun")
        if value not in (None, "server"):
            raise AtlasError(errors.INVALID, "dryRun must be server")
        return value == "server"


class Api:
    """The handlers. `stop` is called, without waiting, after the answer to a stop was sent."""

    def __init__(self, application: Application, stop: Callable[[], None], pid: int) -> None:
        self._application = application
        self._stop = stop
        self._pid = pid
        self._limiter = CapacityLimiter(_THREADS)
        self._waiting = CapacityLimiter(_WAITING_THREADS)
        self._turns: dict[tuple[int, CapacityLimiter], CapacityLimiter] = {}

    def starlette(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                self._route("GET", "/v1/version", self._version),
                self._route("GET", "/v1/node", self._node),
                Route("/v1/node/stop", self._stop_node, methods=["POST"]),
                self._route("GET", "/v1/datasets", self._datasets),
                self._route("POST", "/v1/datasets", self._create),
                self._route("GET", "/v1/datasets/{name}", self._dataset),
                self._route("PATCH", "/v1/datasets/{name}", self._update),
                self._route("DELETE", "/v1/datasets/{name}", self._delete),
                self._route("POST", "/v1/datasets/{name}/free", self._free),
                self._route("GET", "/v1/datasets/{name}/events", self._events),
                self._route("GET", "/v1/datasets/{name}/loads", self._loads),
                self._route("POST", "/v1/datasets/{name}/loads", self._start_load),
                self._route("GET", "/v1/loads/{id}", self._load, self._waiting),
                self._route("POST", "/v1/loads/{id}/stop", self._stop_load),
                self._route("GET", "/v1/mounts", self._mounts),
                self._route("POST", "/v1/mounts", self._mount),
                self._route("DELETE", "/v1/mounts", self._unmount),
            ],
            exception_handlers={HTTPException: _no_route},
        )

    def _version(self, call: Call) -> Answer:  # noqa: ARG002
        return 200, models.Version(version=VERSION, pid=self._pid)

    def _node(self, call: Call) -> Answer:  # noqa: ARG002
        return 200, self._application.node()

    def _datasets(self, call: Call) -> Answer:
        return 200, models.DatasetList(items=self._application.datasets.visible(call.caller))

    def _dataset(self, call: Call) -> Answer:
        return 200, self._application.datasets.get(
            call.caller, call.part("name"), call.flag("users")
        )

    def _create(self, call: Call) -> Answer:
        wanted = models.decode(call.body, models.Dataset, "the data set")
        dataset, created = self._application.datasets.create(
            call.caller, wanted, call.text("mount"), call.dry_run
        )
        return (201 if created and not call.dry_run else 200), dataset

    def _update(self, call: Call) -> Answer:
        patch = models.decode(call.body, models.DatasetPatch, "the change")
        return 200, self._application.datasets.update(
            call.caller, call.part("name"), patch.spec, call.dry_run
        )

    def _free(self, call: Call) -> Answer:
        return 200, self._application.datasets.free(call.caller, call.part("name"), call.dry_run)

    def _delete(self, call: Call) -> Answer:
        return 200, self._application.datasets.delete(
            call.caller, call.part("name"), call.flag("force"), call.dry_run
        )

    def _events(self, call: Call) -> Answer:
        row = self._application.datasets.find(call.caller, call.part("name"))
        self._application.events.drain()
        return 200, models.EventList(items=self._application.database.events(row.id, row.name))

    def _loads(self, call: Call) -> Answer:
        items = self._application.loads.visible(call.caller, call.part("name"))
        return 200, models.DataLoadList(items=items)

    def _start_load(self, call: Call) -> Answer:
        spec = models.decode(call.body, models.LoadSpec, "the load")
        load, created = self._application.loads.start(
            call.caller, call.part("name"), spec, call.dry_run
        )
        return (201 if created and not call.dry_run else 200), load

    def _load(self, call: Call) -> Answer:
        return 200, self._application.loads.get(call.caller, call.part("id"), call.seconds("wait"))

    def _stop_load(self, call: Call) -> Answer:
        return 200, self._application.loads.stop(call.caller, call.part("id"))

    def _mounts(self, call: Call) -> Answer:
        return 200, models.MountList(items=self._application.mounts.visible(call.caller))

    def _mount(self, call: Call) -> Answer:
        wanted = models.decode(call.body, models.MountSpec, "the mount")
        mount, created = self._application.mounts.add(call.caller, wanted, call.dry_run)
        return (201 if created and not call.dry_run else 200), mount

    def _unmount(self, call: Call) -> Answer:
        items = self._application.mounts.remove(
            call.caller, call.text("path"), call.text("dataset"), call.flag("force"), call.dry_run
        )
        return 200, models.MountList(items=items)

    async def _stop_node(self, request: Request) -> Response:
        def stop(call: Call) -> Answer:
            self._application.stop(call.caller, call.flag("force"))
            return 200, models.Version(version=VERSION, pid=self._pid)

        response = await self._answer(request, stop, self._limiter)
        if response.status_code == 200:
            self._stop()
        return response

    def _route(
        self, method: str, path: str, handler: Handler, limiter: CapacityLimiter | None = None
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            return await self._answer(request, handler, limiter or self._limiter)

        return Route(path, endpoint, methods=[method])

    async def _answer(
        self, request: Request, handler: Handler, limiter: CapacityLimiter
    ) -> Response:
        try:
            caller = request.state.caller
            if isinstance(caller, AtlasError):
                raise caller
            api = request.headers.get("Atlas-Api")
            if api != models.HTTP_API:
                raise AtlasError(
                    errors.VERSION_MISMATCH,
                    "the request and this node do not fit together",
                    f"the node is {VERSION} (API {models.HTTP_API}), the request's API is"
                    f" {printable(api or 'not given')}",
                )
            call = Call(request, caller, await _body(request))
            async with self._turn(caller, limiter):
                status, answer = await to_thread.run_sync(handler, call, limiter=limiter)
            return _response(status, models.to_json(answer))
        except AtlasError as error:
            return _response(error.kind.http_status, models.to_json(error.body()))
        except Exception as error:
            logger.exception("%s %s failed", request.method, printable(request.url.path))
            defect = AtlasError(
                errors.INTERNAL, "the node failed at this", printable(repr(error))[:500]
            )
            return _response(500, models.to_json(defect.body()))

    def _turn(self, caller: Caller, limiter: CapacityLimiter) -> AbstractAsyncContextManager[None]:
        """What a call of this caller waits for before it takes a thread."""
        if caller.is_root:
            return nullcontext()
        return self._turns.setdefault(
            (caller.uid, limiter), CapacityLimiter(limiter.total_tokens // _USERS)
        )


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _LARGEST_BODY_BYTES:
            raise AtlasError(errors.INVALID, "the request is too large")
        parts.append(part)
    return b"".join(parts)


def _response(status: int, body: bytes) -> Response:
    return Response(
        body,
        status,
        {"Atlas-Api": models.HTTP_API, "Atlas-Version": VERSION},
        "application/json",
    )


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    wrong = AtlasError(
        errors.INVALID, f"the API has no {request.method} {printable(request.url.path)}"
    )
    return _response(status, models.to_json(wrong.body()))
