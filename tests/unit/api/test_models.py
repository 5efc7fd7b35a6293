"""The objects: names in JSON, and what is refused."""

import json

import pytest

from atlas.api import models
from atlas.api.errors import INVALID, AtlasError

SPEC = {"mounts": [{"source": "/a"}], "tiers": [{"medium": "MEM", "quota": 1}]}


def read(spec: dict[str, object]) -> models.Dataset:
    body = json.dumps({"metadata": {"name": "a"}, "spec": spec}).encode()
    return models.decode(body, models.Dataset, "the data set")


def test_fields_are_camel_case_and_all_are_there() -> None:
    answer = models.to_builtins(read(SPEC))
    assert answer["apiVersion"] == "atlas.io/v1alpha1"
    assert answer["status"]["cachedPercentage"] == 0.0
    assert answer["status"]["scan"] == {"state": "Running", "files": 0, "error": None}
    assert answer["spec"]["mounts"] == [{"source": "/a", "path": "/"}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"mounts": []},
        {"mounts": [{"source": "/a"}, {"source": "/b"}]},
        {"mounts": [{"source": "/a", "path": "/x"}]},
        {"mounts": [{"source": "/a", "secretRef": "s"}]},
        {"tiers": [{"medium": "RAM", "quota": 1}]},
        {"tiers": [{"medium": "MEM", "quota": 0}]},
        {"tiers": [{"medium": "MEM", "quota": "1Gi"}]},
        {"sync": "5m"},
        {"front": "fast"},
        {"sharedWith": ["user:a"]},
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(AtlasError) as caught:
        read({**SPEC, **wrong})
    assert caught.value.kind is INVALID


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"metadata": 3}'])
def test_bodies_that_are_no_object_are_invalid(body: bytes) -> None:
    with pytest.raises(AtlasError) as caught:
        models.decode(body, models.Dataset, "the data set")
    assert caught.value.kind is INVALID


def test_a_client_reads_the_answers_of_a_newer_node() -> None:
    answer = models.to_builtins(read(SPEC))
    answer["status"]["novelty"] = 1
    assert models.convert(answer, models.Dataset, "it").status.phase == "Pending"
