"""Which front a data set should have: one pure function, all of whose inputs can be seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from atlas.api.models import FrontChoice, FrontKind, ImageState, ScanState
from atlas.node.capabilities import AVAILABLE

RESTING: Final = "a sealed front failed a moment ago"
WHOLE: Final = "everything is cached and verified"


@dataclass(frozen=True, slots=True)
class Situation:
    """What the choice depends on.

    `present` is the front that serves now. `capabilities` are those of the machine, by name:
    "available" or why not. `sealable`: every byte is cached and was verified by this process (else
    `unsealed_reason`); `sealed_trouble`: why a front that is sealed already must not stay so.
    `resting`: the last sealed front has just been left because it failed.
    """

    setting: FrontChoice
    present: FrontKind | None
    capabilities: Mapping[str, str]
    scan: ScanState
    scan_error: str | None
    image: ImageState
    image_error: str | None
    sealable: bool
    unsealed_reason: str
    sealed_trouble: str | None
    resting: bool = False


def choose(situation: Situation) -> tuple[FrontKind, str]:
    """(the front, why it and no faster one).

    The order of preference is sealed, lazy, live. A setting names the fastest that may be chosen:
    what is forced cannot always be had yet: a sealed front needs all bytes, a lazy one the image.
    """
    if situation.setting == "live":
        return "live", "as the data set's setting says"
    unsealed = _unsealed(situation)
    if unsealed is None and situation.present == "sealed":
        return "sealed", WHOLE if situation.sealable else f"as it was: {situation.unsealed_reason}"
    lazy = situation.capabilities["lazy"]
    impossible = situation.setting == "lazy" or situation.capabilities["sealed"] != AVAILABLE
    if impossible and lazy != AVAILABLE:
        return "live", f"{unsealed}; lazy: {lazy}"
    if situation.image != "Ready":
        return "live", _no_image(situation)
    if unsealed is None:
        return "sealed", WHOLE
    if lazy == AVAILABLE:
        chosen = situation.setting == "lazy"
        return "lazy", "as the data set's setting says" if chosen else unsealed
    return "live", f"{unsealed}; lazy: {lazy}"


def _no_image(situation: Situation) -> str:
    if situation.image == "Failed":
        return f"the image could not be made: {situation.image_error or 'unknown'}"
    if situation.scan == "Running":
        return "the scan of the origin goes on"
    if situation.scan != "Complete":
        return f"the scan of the origin is {situation.scan}: {situation.scan_error or 'unknown'}"
    return "the image is being made"


def _unsealed(situation: Situation) -> str | None:
    """Why the front cannot be sealed, or stay so; None: it can."""
    if situation.setting == "lazy":
        return "not sealed: the data set's setting excludes it"
    if situation.present == "sealed":
        trouble = situation.sealed_trouble
        return None if trouble is None else f"not sealed: {trouble}"
    sealed = situation.capabilities["sealed"]
    if sealed != AVAILABLE:
        return f"this machine has no sealed front: {sealed}"
    if not situation.sealable:
        return f"not sealed: {situation.unsealed_reason}"
    return RESTING if situation.resting else None
