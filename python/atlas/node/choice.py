"""Which front a data set should have: one pure function, all of whose inputs can be seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from atlas.api.models import FrontChoice, FrontKind, ImageState, ScanState
from atlas.node.capabilities import AVAILABLE

RESTING: Final = "a sealed front failed a moment ago"


@dataclass(frozen=True, slots=True)
class Situation:
    """What the choice depends on.

    `capabilities` are those of the machine, by name: "available" or why not. `sealable`: every byte
    is cached and was verified (else `unsealed_reason`). `resting`: the last sealed front has just
    been left because it failed.
    """

    setting: FrontChoice
    capabilities: Mapping[str, str]
    scan: ScanState
    scan_error: str | None
    image: ImageState
    image_error: str | None
    sealable: bool
    unsealed_reason: str
    resting: bool = False


def choose(situation: Situation) -> tuple[FrontKind, str]:
    """(the front, why it and no faster one).

    The order of preference is sealed, lazy, live. A setting names the fastest that may be chosen:
    what is forced cannot always be had yet: a sealed front needs all bytes, a lazy one the image.
    """
    setting = situation.setting
    if setting == "live":
        return "live", "as the data set's setting says"
    can_seal = setting != "lazy" and situation.capabilities["sealed"] == AVAILABLE
    can_be_lazy = situation.capabilities["lazy"] == AVAILABLE
    if not can_seal and not can_be_lazy:
        return "live", f"this machine has no mapped front: {situation.capabilities['lazy']}"
    if situation.image != "Ready":
        return "live", _no_image(situation)
    unsealed = _unsealed(situation)
    if unsealed is None:
        return "sealed", "everything is cached and verified"
    if can_be_lazy:
        return "lazy", "as the data set's setting says" if setting == "lazy" else unsealed
    return "live", f"{unsealed}; lazy: {situation.capabilities['lazy']}"


def _no_image(situation: Situation) -> str:
    if situation.image == "Failed":
        return f"the image could not be made: {situation.image_error or 'unknown'}"
    if situation.scan == "Running":
        return "the scan of the origin goes on"
    if situation.scan != "Complete":
        return f"the scan of the origin is {situation.scan}: {situation.scan_error or 'unknown'}"
    return "the image is being made"


def _unsealed(situation: Situation) -> str | None:
    """Why the front cannot be sealed; None: it can."""
    if situation.setting == "lazy":
        return "the data set's setting excludes it"
    sealed = situation.capabilities["sealed"]
    if sealed != AVAILABLE:
        return f"this machine has no sealed front: {sealed}"
    if not situation.sealable:
        return f"not sealed: {situation.unsealed_reason}"
    return RESTING if situation.resting else None
