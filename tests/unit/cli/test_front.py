"""The front of a data set: asked for at its creation, and changed later."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.api import errors
from unit.cli.conftest import Ended
from unit.cli.fake_node import FakeNode, dataset

Atlasctl = Callable[..., Ended]
NEW = ("cache", "create", "new", "--from", "/a", "--size", "1Gi")


@pytest.fixture(autouse=True)
def a_dataset(request: pytest.FixtureRequest) -> None:
    if "node" in request.fixturenames:
        node: FakeNode = request.getfixturevalue("node")
        node.datasets = {"wav": dataset("wav")}


def test_create_takes_a_front(node: FakeNode, atlasctl: Atlasctl) -> None:
    assert atlasctl(*NEW, "--front", "sealed").code == 0
    assert node.datasets["new"].spec.front == "sealed"


def test_create_with_a_front_that_this_machine_cannot_have(
    node: FakeNode, atlasctl: Atlasctl
) -> None:
    node.refuse("POST /v1/datasets", errors.AtlasError(errors.UNSUPPORTED, "no", "old kernel"))
    ended = atlasctl(*NEW, "--front", "sealed")
    assert ended.code == 1
    assert "old kernel" in ended.err
    assert "new" not in node.datasets


def test_update_says_what_follows(node: FakeNode, atlasctl: Atlasctl) -> None:
    ended = atlasctl("cache", "update", "wav", "--front", "sealed")
    assert (ended.code, ended.out) == (0, "")
    assert "front auto -> sealed" in ended.err
    assert "served live now; the node changes that when it can" in ended.err
    assert "served live now, and stays so" in atlasctl("cache", "update", "wav", "--front=live").err
    assert "unchanged" in atlasctl("cache", "update", "wav", "--front", "live").err
    node.datasets["wav"].status.front = None
    assert "not served now" in atlasctl("cache", "update", "wav", "--front", "lazy").err


@pytest.mark.parametrize("where", ["client", "server"])
def test_update_on_trial_changes_nothing(node: FakeNode, atlasctl: Atlasctl, where: str) -> None:
    line = ("cache", "update", "wav", "--front", "sealed", f"--dry-run={where}")
    assert "Nothing was done." in atlasctl(*line).err
    assert json.loads(atlasctl(*line, "-o", "json").out)["spec"]["front"] == "sealed"
    assert node.datasets["wav"].spec.front == "auto"
    asked = [request for request in node.requests if request.startswith("PATCH")]
    assert asked == ["PATCH /v1/datasets/wav?dryRun=server"] * (2 if where == "server" else 0)


def test_update_where_no_node_has_ever_been(home: Path, atlasctl: Atlasctl) -> None:
    assert atlasctl("cache", "update", "wav", "--front", "live").code == 3
    assert list(home.iterdir()) == []


def test_a_file_names_the_front(node: FakeNode, atlasctl: Atlasctl, tmp_path: Path) -> None:
    plain = json.loads(atlasctl(*NEW, "--front", "lazy", "--dry-run=client", "-o", "json").out)
    file = tmp_path / "new.json"
    file.write_text(json.dumps(plain))
    assert atlasctl("cache", "create", "-f", str(file), "--front", "live").code == 2
    assert atlasctl("cache", "create", "-f", str(file)).code == 0
    assert node.datasets["new"].spec.front == "lazy"
