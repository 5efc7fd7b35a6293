"""The control API over a real unix socket, with the real client."""

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from atlas.api import errors, models
from atlas.api.client import NodeAbsentError, NodeClient
from atlas.api.errors import AtlasError
from atlas.api.transport import connect
from atlas.node import server as server_module
from atlas.node.caller import Caller
from atlas.node.http import CONNECTIONS_OF_A_USER, HttpServer
from atlas.node.server import Api
from unit.node.world import OTHER, ROOT, USER, World, wanted


@pytest.fixture
def client(world: World) -> Iterator[NodeClient]:
    """Of a node that serves a fake machine."""
    node = world.node()
    node.start()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(world.home.socket))
    listener.listen()
    server: HttpServer

    def stop() -> None:
        server.should_exit = True

    server = HttpServer(Api(node, stop, 1).starlette())
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield NodeClient(world.home)
    stop()
    thread.join()
    node.shut_down()


def test_a_data_set_s_life(client: NodeClient, world: World) -> None:
    created = client.create(wanted(world))
    assert created.created
    assert not client.create(wanted(world)).created
    assert client.dataset("wav").status.cached_percentage == 50.0
    assert [dataset.metadata.name for dataset in client.datasets()] == ["wav"]
    assert [event.reason for event in client.events("wav")] == ["Created"]
    load = client.start_load("wav", models.LoadSpec())
    assert client.load(load.metadata.name, wait_seconds=0.1).status.phase == "Running"
    assert client.stop_load(load.metadata.name).status.phase == "Stopped"
    folder = world.folder / "it has spaces & ünïcode"
    folder.mkdir()
    assert client.mount("wav", str(folder)).status.attached
    assert len(client.mounts()) == 2
    assert [mount.spec.path for mount in client.unmount(dataset="wav")] == [str(folder)]
    assert not client.delete("wav").releasing
    with pytest.raises(AtlasError) as caught:
        client.delete("wav")
    assert caught.value.kind is errors.NOT_FOUND


def test_the_node_object(client: NodeClient) -> None:
    status = client.node().status
    assert list(status.capabilities) == ["live", "resend", "lazy", "sealed", "swap"]
    assert [tier.medium for tier in status.tiers] == ["MEM", "SSD", "HDD"]
    assert status.keeper.pid == 7


def test_an_update_changes_the_setting_once(client: NodeClient, world: World) -> None:
    created = client.create(wanted(world)).dataset
    assert client.update("wav", "lazy", dry_run=True).spec.front == "lazy"
    assert client.dataset("wav").spec.front == "auto"
    changed = client.update("wav", "lazy")
    assert (changed.spec.front, changed.metadata) == ("lazy", created.metadata)
    assert client.dataset("wav").spec.front == "lazy"
    assert client.update("wav", "lazy").spec.front == "lazy"
    updates = [event for event in client.events("wav") if event.reason == "Updated"]
    assert [(event.message, event.count) for event in updates] == [("spec.front: auto -> lazy", 1)]
    with pytest.raises(AtlasError) as caught:
        client.create(wanted(world))
    assert caught.value.kind is errors.CONFLICT
    assert caught.value.hint == "atlasctl cache update wav --front auto"


def test_an_update_to_what_the_machine_cannot_have_is_refused(
    client: NodeClient, world: World
) -> None:
    world.capabilities["sealed"] = "the kernel has no EROFS"
    client.create(wanted(world))
    for dry_run in (True, False):
        with pytest.raises(AtlasError) as caught:
            client.update("wav", "sealed", dry_run)
        error = caught.value
        assert (error.kind, error.cause) == (errors.UNSUPPORTED, "the kernel has no EROFS")
        assert error.unchanged == "nothing was changed"
    assert client.dataset("wav").spec.front == "auto"
    with pytest.raises(AtlasError) as caught:
        client.create(wanted(world, "new", front="sealed"))
    assert caught.value.kind is errors.UNSUPPORTED
    assert [dataset.metadata.name for dataset in client.datasets()] == ["wav"]


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b'{"spec": {"front": "fast"}}', b'{"spec": {"sync": "never"}}',
        b'{"spec": {}, "metadata": {}}', b'{"spec": {"front": ["live"]}}',
    ],
)  # fmt: skip
def test_an_update_of_anything_else_is_invalid(
    client: NodeClient, world: World, body: bytes
) -> None:
    before = client.create(wanted(world)).dataset.spec
    headers = {"Atlas-Api": "1"}
    answer, status = raw(client.home.socket, "PATCH", "/v1/datasets/wav", body, headers)
    assert (status, answer["error"]["code"]) == (400, "ATL2001")
    assert client.dataset("wav").spec == before


@pytest.mark.parametrize("caller", [OTHER, USER, ROOT])
def test_only_who_sees_a_data_set_may_update_it(world: World, caller: Caller) -> None:
    node = world.node()
    node.start()
    node.datasets.create(USER, wanted(world), None, dry_run=False)
    status, answer = asyncio.run(patched(Api(node, lambda: None, 1), caller, "wav"))
    if caller is OTHER:
        assert (status, answer["error"]["code"]) == (404, "ATL2002")
        absent = asyncio.run(patched(Api(node, lambda: None, 1), caller, "none"))
        # Nothing tells a data set of somebody else from one that is not there.
        assert json.dumps(answer) == json.dumps(absent[1]).replace("none", "wav")
        assert node.datasets.get(USER, "wav").spec.front == "auto"
    else:
        assert (status, answer["spec"]["front"]) == (200, "lazy")
    node.shut_down()


async def patched(api: Api, caller: Caller, name: str) -> tuple[int, Any]:
    """A request to set the front to lazy, as that caller."""
    sent: list[Any] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b'{"spec": {"front": "lazy"}}'}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "PATCH", "path": f"/v1/datasets/{name}", "query_string": b"",
        "headers": [(b"atlas-api", b"1")], "state": {"caller": caller},
    }  # fmt: skip
    await api.starlette()(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(part.get("body", b"") for part in sent))


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/nothing", None, 404, "ATL2001"),
        ("PUT", "/v1/datasets", b"{}", 405, "ATL2001"),
        ("POST", "/v1/datasets", b"{", 400, "ATL2001"),
        ("POST", "/v1/datasets?dryRun=client", b"{}", 400, "ATL2001"),
        ("POST", "/v1/datasets", b" " * (1 << 21), 400, "ATL2001"),
        ("GET", "/v1/datasets/..%2f..%2fetc", None, 404, "ATL2001"),
        ("GET", "/v1/datasets/%00", None, 404, "ATL2002"),
        ("DELETE", "/v1/datasets/a?force=maybe", None, 400, "ATL2001"),
        ("PATCH", "/v1/datasets/none", b'{"spec": {"front": "live"}}', 404, "ATL2002"),
        ("PATCH", "/v1/datasets/none?dryRun=yes", b'{"spec": {}}', 400, "ATL2001"),
        ("DELETE", "/v1/mounts", None, 400, "ATL2001"),
        ("GET", "/v1/loads/a?wait=-1", None, 400, "ATL2001"),
    ],
)
def test_wrong_requests_get_error_objects(
    client: NodeClient, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    answer, found = raw(client.home.socket, method, path, body, {"Atlas-Api": "1"})
    assert (found, answer["error"]["code"]) == (status, code)


@pytest.mark.parametrize("headers", [{}, {"Atlas-Api": "2"}])
def test_another_version_of_the_api_is_refused(client: NodeClient, headers: dict[str, str]) -> None:
    answer, status = raw(client.home.socket, "GET", "/v1/version", None, headers)
    assert (status, answer["error"]["code"]) == (426, "ATL2010")


def test_without_a_node_the_client_says_so(world: World) -> None:
    with pytest.raises(NodeAbsentError):
        NodeClient(world.home).version()


def raw(
    path: Path, method: str, target: str, body: bytes | None, headers: dict[str, str]
) -> tuple[dict[str, dict[str, str]], int]:
    connection = http.client.HTTPConnection("atlas")
    connection.sock = connect(path, 10.0)
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.headers["Atlas-Api"] == "1"
    assert response.headers["Atlas-Version"]
    connection.close()
    return answer, response.status


def test_a_user_whose_folders_hang_leaves_threads_for_others() -> None:
    """Many calls that hang are those of one user: another one's is answered."""
    hanging = threading.Event()

    def handler(call: server_module.Call) -> server_module.Answer:
        if call.caller.uid == 2001:
            assert hanging.wait(60)
        return 200, models.MountList()

    async def call(api: Api, uid: int) -> Response:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b""}

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"atlas-api", b"1")],
            "state": {"caller": Caller(1, uid, uid, ())},
        }
        return await api._answer(Request(scope, receive), handler, api._limiter)

    async def scenario() -> None:
        api = Api(None, lambda: None, 1)  # type: ignore[arg-type]
        calls = [asyncio.ensure_future(call(api, 2001)) for _ in range(200)]
        try:
            for uid in (2002, 0):
                answer = await asyncio.wait_for(call(api, uid), 30)
                assert answer.status_code == 200
        finally:
            hanging.set()
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes another user")
def test_a_user_cannot_take_all_connections(client: NodeClient, tmp_path: Path) -> None:
    client.home.socket.chmod(0o666)
    folder = os.open(client.home.run, os.O_PATH)
    script = (
        "import os, select, socket\n"
        f"os.fchdir({folder})\n"
        "os.setgroups([]); os.setresgid(2001, 2001, 2001); os.setresuid(2001, 2001, 2001)\n"
        "made = [socket.socket(socket.AF_UNIX) for _ in range(300)]\n"
        "for one in made: one.connect('node.sock')\n"
        "refused = set()\n"
        # Those that are refused come to their end; the others never do.
        "while len(refused) < %d:\n"
        "    refused |= {*select.select(made, [], [], 60)[0]} or exit('too few')\n"
        "print(len(refused) + len({*select.select(made, [], [], 0.2)[0]} - refused))\n"
        % (300 - CONNECTIONS_OF_A_USER)
    )
    result = subprocess.run(
        [sys.executable, "-c", script], pass_fds=[folder], capture_output=True, text=True
    )
    os.close(folder)
    assert int(result.stdout) == 300 - CONNECTIONS_OF_A_USER, result.stderr
    assert client.version().pid == 1
