"""A node without an engine: the control API over a real unix socket, its answers set by a test."""

import copy
import re
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from atlas.api import errors, models
from atlas.api.errors import AtlasError
from atlas.api.version import VERSION

TIME = "2026-01-02T03:04:05.000Z"


def dataset(name: str = "wav", **status: Any) -> models.Dataset:
    """A data set as a node would report it."""
    return models.Dataset(
        metadata=models.Metadata(name=name, uid=f"uid-{name}", creation_timestamp=TIME),
        spec=models.DatasetSpec(
            mounts=[models.Source(source=f"/lustre/{name}")],
            tiers=[models.TierSpec(medium="MEM", quota=2 << 30)],
            owner="0:0",
        ),
        status=models.DatasetStatus(
            **{
                "phase": "Bound",
                "front": "live",
                "front_reason": "the namespace is not an image yet",
                "mount_path": f"/run/atlas/mnt/{name}",
                "mount_paths": [f"/run/atlas/mnt/{name}"],
                "files": 4212,
                "folders": 12,
                "total_bytes": 3 << 30,
                "cached_files": 2106,
                "cached_bytes": 3 << 29,
                "cache_capacity_bytes": 2 << 30,
                "cached_percentage": 50.0,
                "hit_bytes": 300,
                "miss_bytes": 100,
                "origin_requests": 9000,
                "origin_read_bytes": 3 << 29,
                "tiers": [
                    models.TierStatus(
                        medium="MEM", path="/dev/shm/atlas-0/mem", quota_bytes=2 << 30,
                        used_bytes=3 << 29, available_bytes=1 << 29,
                    )
                ],
                "scan": models.ScanStatus(state="Complete", files=4212),
            }
            | status
        ),
    )  # fmt: skip


def load_status(phase: str = "Complete", **fields: Any) -> models.LoadStatus:
    """A load's state; whole unless `fields` say otherwise."""
    return models.LoadStatus(
        **{
            "phase": phase,
            "files": 4212,
            "bytes": 3 << 30,
            "files_total": 4212,
            "bytes_total": 3 << 30,
            "bytes_per_second": float(256 << 20),
            "start_time": TIME,
            "completion_time": "2026-01-02T03:04:17.000Z" if phase == "Complete" else None,
        }
        | fields
    )


class FakeNode:
    """Serves until `close`. `requests` holds what was asked; `refuse` injects errors."""

    def __init__(self, socket: Path) -> None:
        self.datasets: dict[str, models.Dataset] = {}
        self.events: list[models.Event] = []
        self.mounts: list[models.Mount] = []
        self.loads: dict[str, models.DataLoad] = {}
        self.load_states: list[models.LoadStatus] = []
        """What the next polls of a load find; the last one stays."""
        self.deletion = models.Deletion(metadata=models.Metadata(), bytes=3 << 29, files=2106)
        self.requests: list[str] = []
        self.bodies: list[Any] = []
        self.asked = threading.Event()
        self.api = models.HTTP_API
        self.node_version = VERSION
        self.stopped = threading.Event()
        self._refusals: list[tuple[re.Pattern[str], AtlasError | None]] = []
        self.socket = socket
        socket.parent.mkdir(parents=True, exist_ok=True)
        node = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.node = node
                super().handle_one_request()

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self) -> None:
                answer = node.answer(self.command, self.path, self._body())
                if answer is None:
                    self.close_connection = True
                    return
                status, body = answer
                content = models.to_json(body)
                self.send_response(status)
                self.send_header("Atlas-Api", node.api)
                self.send_header("Atlas-Version", node.node_version)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _body(self) -> Any:
                length = int(self.headers.get("Content-Length") or 0)
                return self.rfile.read(length) if length else b""

            do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's names

        class Server(ThreadingMixIn, UnixStreamServer):
            daemon_threads = True

            def get_request(self) -> tuple[Any, Any]:
                connection, _ = super().get_request()
                return connection, ("", 0)

            def handle_error(self, *_: Any) -> None:
                """A client that was interrupted does not read its answer."""

        self._server = Server(str(socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.socket.unlink(missing_ok=True)

    def refuse(self, request: str, error: AtlasError | None) -> None:
        """The next request that matches fails with `error`, or with None loses its connection."""
        self._refusals.append((re.compile(request), error))

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any] | None:
        """(HTTP status, object), or None for a connection that breaks."""
        self.requests.append(f"{method} {target}")
        self.asked.set()
        for refusal in self._refusals:
            if refusal[0].match(f"{method} {target}"):
                self._refusals.remove(refusal)
                error = refusal[1]
                return None if error is None else (error.kind.http_status, error.body())
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = [unquote(part) for part in parts.path.split("/")[2:]]
        try:
            routes = {
                "GET": self._get,
                "POST": self._post,
                "PATCH": self._patch,
                "DELETE": self._delete,
            }
            return routes[method](path, query, body)
        except AtlasError as error:
            return error.kind.http_status, error.body()

    def _get(self, path: list[str], query: dict[str, str], _: bytes) -> tuple[int, Any]:
        match path:
            case ["version"]:
                return 200, models.Version(version=self.node_version, pid=42)
            case ["node"]:
                return 200, self.node()
            case ["datasets"]:
                return 200, models.DatasetList(items=list(self.datasets.values()))
            case ["datasets", name]:
                return 200, self._find(name)
            case ["datasets", name, "events"]:
                self._find(name)
                return 200, models.EventList(items=self.events)
            case ["datasets", name, "loads"]:
                self._find(name)
                found = [load for load in self.loads.values() if load.spec.dataset == name]
                return 200, models.DataLoadList(items=found)
            case ["loads", identifier]:
                load = self.loads[identifier]
                if self.load_states:
                    load.status = self.load_states.pop(0)
                return 200, load
            case ["mounts"]:
                return 200, models.MountList(items=self.mounts)
        raise AtlasError(errors.NOT_FOUND, f"no such path {path}")

    def _post(self, path: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:
        self.bodies.append(body)
        dry = "dryRun" in query
        match path:
            case ["datasets"]:
                wish = models.decode(body, models.Dataset, "the body")
                name = wish.metadata.name
                if name in self.datasets:
                    return 200, self.datasets[name]
                made = dataset(name)
                made.spec = wish.spec
                if not dry:
                    self.datasets[name] = made
                return 201, made
            case ["datasets", name, "loads"]:
                self._find(name)
                spec = models.decode(body, models.LoadSpec, "the body")
                load = models.DataLoad(
                    metadata=models.Metadata(name=f"load-{name}", creation_timestamp=TIME),
                    spec=spec,
                    status=load_status("Running", files=1000, bytes=1 << 30),
                )
                self.loads[load.metadata.name] = load
                return 201, load
            case ["loads", identifier, "stop"]:
                self.loads[identifier].status.phase = "Stopped"
                return 200, self.loads[identifier]
            case ["mounts"]:
                spec = models.decode(body, models.MountSpec, "the body")
                self._find(spec.dataset)
                return 201, models.Mount(metadata=models.Metadata(), spec=spec)
            case ["node", "stop"]:
                self.stopped.set()
                return 200, models.Version(version=self.node_version, pid=42)
        raise AtlasError(errors.NOT_FOUND, f"no such path {path}")

    def _patch(self, path: list[str], query: dict[str, str], body: bytes) -> tuple[int, Any]:
        self.bodies.append(body)
        match path:
            case ["datasets", name]:
                changed = copy.deepcopy(self._find(name))
                patch = models.decode(body, models.DatasetPatch, "the body")
                changed.spec.front = patch.spec.front or changed.spec.front
                if "dryRun" not in query:
                    self.datasets[name] = changed
                return 200, changed
        raise AtlasError(errors.NOT_FOUND, f"no such path {path}")

    def _delete(self, path: list[str], query: dict[str, str], _: bytes) -> tuple[int, Any]:
        match path:
            case ["datasets", name]:
                self._find(name)
                self.deletion.metadata = models.Metadata(name=name)
                self.deletion.dry_run = "dryRun" in query
                if not self.deletion.dry_run:
                    del self.datasets[name]
                return 200, self.deletion
            case ["mounts"]:
                found = [
                    mount
                    for mount in self.mounts
                    if mount.spec.path == query.get("path")
                    or (mount.spec.dataset == query.get("dataset") and not mount.status.own)
                ]
                return 200, models.MountList(items=found)
        raise AtlasError(errors.NOT_FOUND, f"no such path {path}")

    def _find(self, name: str) -> models.Dataset:
        if name not in self.datasets:
            raise AtlasError(errors.NOT_FOUND, f"there is no data set '{name}'")
        return self.datasets[name]

    def node(self) -> models.Node:
        """What the node says of itself; its pids are none that live."""
        return models.Node(
            metadata=models.Metadata(name="here"),
            status=models.NodeStatus(
                pid=2**22 + 1,
                version=self.node_version,
                uptime_seconds=3725.0,
                socket=str(self.socket),
                keeper=models.KeeperStatus(pid=2**22 + 2, alive=True),
                capabilities=dict.fromkeys(
                    ("live", "resend", "lazy", "sealed", "swap"), "available"
                ),
                limits=models.NodeLimits(
                    memory_bytes=8 << 30,
                    memory_granted_bytes=2 << 20,
                    user_bytes=4 << 30,
                    user_datasets=100,
                ),
                datasets=len(self.datasets),
                log="/var/log/atlas/node.log",
                state="/var/lib/atlas",
            ),
        )
