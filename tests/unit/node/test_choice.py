"""Which front is chosen, and the reason that users are given."""

from collections.abc import Mapping
from typing import Any

import pytest

from atlas.node.capabilities import AVAILABLE
from atlas.node.choice import RESTING, WHOLE, Situation, choose

ALL = dict.fromkeys(("live", "lazy", "sealed", "swap", "resend"), AVAILABLE)


def situation(**changes: Any) -> Situation:
    """Everything is cached and verified on a machine that can do all, but for the changes."""
    values: dict[str, Any] = {
        "setting": "auto",
        "present": "lazy",
        "capabilities": ALL,
        "scan": "Complete",
        "scan_error": None,
        "image": "Ready",
        "image_error": None,
        "sealable": True,
        "unsealed_reason": "",
        "sealed_trouble": None,
    }
    return Situation(**{**values, **changes})


def without(*names: str) -> Mapping[str, str]:
    return {**ALL, **dict.fromkeys(names, f"no {names[0]} here")}


@pytest.mark.parametrize(
    ("changes", "front", "reason"),
    [
        ({}, "sealed", WHOLE),
        ({"setting": "sealed"}, "sealed", WHOLE),
        ({"setting": "lazy"}, "lazy", "as the data set's setting says"),
        ({"setting": "live"}, "live", "as the data set's setting says"),
        (
            {"sealable": False, "unsealed_reason": "2 files are not cached"},
            "lazy",
            "not sealed: 2 files are not cached",
        ),
        (
            {"setting": "sealed", "sealable": False, "unsealed_reason": "2 files are not cached"},
            "lazy",
            "not sealed: 2 files are not cached",
        ),
        ({"resting": True}, "lazy", RESTING),
        ({"present": "sealed", "resting": True}, "sealed", WHOLE),
        (
            {"present": "sealed", "sealable": False, "unsealed_reason": "being verified"},
            "sealed",
            "as it was: being verified",
        ),
        (
            {
                "present": "sealed",
                "image": "None",
                "sealable": False,
                "unsealed_reason": "no image",
            },
            "sealed",
            "as it was: no image",
        ),
        (
            {"present": "sealed", "sealable": False, "sealed_trouble": "the tier fails"},
            "lazy",
            "not sealed: the tier fails",
        ),
        ({"present": "sealed", "setting": "lazy"}, "lazy", "as the data set's setting says"),
        (
            {"image": "None", "scan": "Running", "sealable": False},
            "live",
            "the scan of the origin goes on",
        ),
        (
            {"image": "None", "scan": "Partial", "scan_error": "d: EACCES", "sealable": False},
            "live",
            "the scan of the origin is Partial: d: EACCES",
        ),
        ({"image": "Building", "sealable": False}, "live", "the image is being made"),
        (
            {"image": "Failed", "image_error": "disk full", "sealable": False},
            "live",
            "the image could not be made: disk full",
        ),
        (
            {"capabilities": without("lazy", "sealed")},
            "live",
            "this machine has no sealed front: no lazy here; lazy: no lazy here",
        ),
        (
            {"capabilities": without("sealed")},
            "lazy",
            "this machine has no sealed front: no sealed here",
        ),
        ({"capabilities": without("lazy")}, "sealed", WHOLE),
        (
            {"capabilities": without("lazy"), "sealable": False, "unsealed_reason": "cold"},
            "live",
            "not sealed: cold; lazy: no lazy here",
        ),
        (
            {"capabilities": without("lazy"), "setting": "lazy"},
            "live",
            "not sealed: the data set's setting excludes it; lazy: no lazy here",
        ),
    ],
)
def test_the_choice(changes: dict[str, Any], front: str, reason: str) -> None:
    assert choose(situation(**changes)) == (front, reason)
