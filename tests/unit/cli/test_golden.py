"""What programs and people read, pinned to files. `ATLAS_GOLDEN=write` writes them anew."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas.api import errors, models
from unit.cli.conftest import Ended
from unit.cli.fake_node import TIME, FakeNode, dataset, load_status

GOLDEN = Path(__file__).parent / "golden"
Atlasctl = Callable[..., Ended]


@pytest.fixture(autouse=True)
def two_hours_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages do not move."""
    from atlas.api.units import parse_time

    monkeypatch.setattr("atlas.cli.describe.time.time", lambda: parse_time(TIME) + 7500)


@pytest.fixture
def full(node: FakeNode) -> FakeNode:
    """A node with one of everything."""
    node.datasets = {
        "wav": dataset(
            "wav",
            mount_paths=["/run/atlas/mnt/wav", "/home/ada/wav"],
            stale_files=2,
            fuse_requests={"lookup": 4212, "read": 30, "getattr": 3, "init": 1},
            twin_requests={"read": 12},
            image=models.ImageStatus(state="Ready", bytes=600 << 10, seconds=0.25),
            damaged_extents=1,
            verified_bytes=3 << 29,
            fronts=[
                models.Front(
                    front="live",
                    attached=True,
                    since=TIME,
                    users=0,
                    mount_paths=["/run/atlas/mnt/wav", "/home/ada/wav"],
                    reason="a sealed front failed a moment ago",
                ),
                models.Front(
                    front="sealed",
                    attached=False,
                    since=TIME,
                    users=5,
                    reason="everything is cached and verified",
                    holders=[
                        models.Holder(pid=pid, command="python \x1b[31m", use="open file")
                        for pid in (41, 42, 43, 44, 45)
                    ],
                ),
            ],
            leaving_links=models.LeavingLinks(count=3, names=["a/link", "b/\x1b[31mlink"]),
            conditions=[
                models.Condition(
                    type="Ready", status="True", reason="Mounted", last_transition_time=TIME
                )
            ],
        ),
        "growing": dataset("growing", scan=models.ScanStatus(state="Running", files=4212)),
    }
    node.mounts = [
        models.Mount(
            metadata=models.Metadata(),
            spec=models.MountSpec(dataset="wav", path="/run/atlas/mnt/wav"),
            status=models.MountStatus(own=True),
        ),
        models.Mount(
            metadata=models.Metadata(),
            spec=models.MountSpec(dataset="wav", path="/home/ada/wav"),
        ),
    ]
    node.events = [
        models.Event(
            dataset="wav", time=TIME, type="Normal", reason="Created", message="from /lustre/wav"
        ),
        models.Event(
            dataset="wav", time=TIME, type="Warning", reason="Stale", message="a.wav", count=2
        ),
    ]
    return node


def check(name: str, text: str) -> None:
    """Compares with the golden file of that name."""
    path = GOLDEN / name
    if os.environ.get("ATLAS_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


COMMANDS = {
    "cache-list": ["cache", "list"],
    "cache-get": ["cache", "get", "wav"],
    "cache-describe": ["cache", "describe", "wav"],
    "cache-events": ["cache", "events", "wav"],
    "cache-mounts": ["cache", "mounts"],
    "cache-mount": ["cache", "mount", "wav", "/home/ada/wav"],
    "cache-unmount": ["cache", "unmount", "wav"],
    "cache-create": ["cache", "create", "new", "--from", "/lustre/new", "--size", "2Gi"],
    "cache-create-dry-run": [
        "cache", "create", "new", "--from", "/lustre/new", "--tier", "ssd:1.5Gi:/nvme0",
        "--front", "lazy", "--include", "*.wav", "--exclude", ".*", "--dry-run=client",
    ],
    "cache-update": ["cache", "update", "wav", "--front", "sealed"],
    "cache-update-unchanged": ["cache", "update", "wav", "--front", "auto"],
    "cache-update-dry-run": [
        "cache", "update", "wav", "--front", "lazy", "--dry-run=server",
    ],
    "cache-delete": ["cache", "delete", "wav", "-y"],
    "node-describe": ["node", "describe"],
    "cache-warm": ["cache", "warm", "wav"],
    "cache-warm-background": ["cache", "warm", "wav:/a", "growing", "--background", "-p", "8"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_transcript(full: FakeNode, atlasctl: Atlasctl, name: str) -> None:
    """Each command in each of its formats: standard output, then what is said beside it."""
    transcript = []
    datasets, states = dict(full.datasets), [load_status()]
    for output in ("table", "wide", "name", "json", "yaml"):
        full.datasets, full.load_states = dict(datasets), list(states)
        ended = atlasctl(*COMMANDS[name], "-o", output)
        if ended.code == 2:
            assert f"has no output format '{output}'" in ended.err
            continue
        assert ended.code == 0, ended.err
        if output in ("json", "yaml", "name"):
            assert ended.err == ""
        said = "".join(f"2> {line}\n" for line in ended.err.splitlines())
        transcript.append(f"$ atlasctl {' '.join(COMMANDS[name])} -o {output}\n{ended.out}{said}")
    check(f"{name}.txt", "\n".join(transcript).replace(os.environ["ATLAS_HOME"], "/atlas"))


def fields(value: Any, path: str = "") -> list[str]:
    """The paths of all fields of an object, with their types."""
    if isinstance(value, dict):
        return [field for key in value for field in fields(value[key], f"{path}.{key}")] or [
            f"{path}: object"
        ]
    if isinstance(value, list):
        return fields(value[0], f"{path}[]") if value else [f"{path}[]"]
    return [f"{path}: {type(value).__name__}"]


def test_the_fields_of_objects_stay(full: FakeNode, atlasctl: Atlasctl) -> None:
    """Names may be added, never renamed or removed: scripts read them."""
    outputs = [
        atlasctl("cache", "get", "wav", "-o", "json"),
        atlasctl("node", "describe", "-o", "json"),
        atlasctl("doctor", "-o", "json"),
    ]
    shown = [field for ended in outputs for field in fields(json.loads(ended.out))]
    # A finding has a command to try or not, as the machine that runs this has it.
    shown = [field.replace(".try: str", ".try: NoneType") for field in shown]
    check("fields.txt", "\n".join(shown) + "\n")


def test_the_exit_code_of_each_error_stays(node: FakeNode, atlasctl: Atlasctl) -> None:
    table = ["code reason exit", "- - 0"]
    for kind in errors.ALL:
        node.refuse("GET /v1/datasets", errors.AtlasError(kind, "message", "cause"))
        ended = atlasctl("cache", "list", "-o", "json")
        body = json.loads(ended.err)["error"]
        assert ended.out == ""
        assert body["exitCode"] == ended.code
        table.append(f"{body['code']} {body['reason']} {ended.code}")
    check("exit-codes.txt", "\n".join(table) + "\n")
