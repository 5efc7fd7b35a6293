"""The same folder behind each front, beside the plain folder: what is compared, and how fairly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

from atlas.bench.workplace import CommandError, Workplace

PLAIN = "plain"
FRONTS = ("sealed", "lazy", "live")

SETTLING_PASSES = 2
"""Passes before the first measured one: pages move to the kernel's active list in the second."""

PATIENCE = 120.0
"""Seconds after which a front that does not come is an error."""


class Timed(Protocol):
    """What a pass took."""

    @property
    def seconds(self) -> float: ...


Result = TypeVar("Result", bound=Timed)


def offered(workplace: Workplace) -> tuple[str, ...]:
    """The fronts that this atlasctl lets one choose; one that cannot serves everything live."""
    return FRONTS if "--front" in workplace.atlasctl("cache", "create", "--help") else ("live",)


def status(workplace: Workplace, name: str) -> dict[str, Any]:
    """The status of a data set, as the API shows it."""
    found: dict[str, Any] = workplace.atlasctl_object("cache", "get", name)["status"]
    return found


def messages(workplace: Workplace, name: str) -> int:
    """How many messages the kernel has sent for a data set so far, by whatever front."""
    found = status(workplace, name)
    return sum(sum(found.get(kind, {}).values()) for kind in ("fuseRequests", "twinRequests"))


def origin_requests(workplace: Workplace, name: str) -> int:
    """How many requests a data set has sent to its origin so far."""
    count: int = status(workplace, name)["originRequests"]
    return count


def wait_scanned(workplace: Workplace, name: str) -> None:
    """Wait until the namespace of a data set is known."""
    while status(workplace, name)["scan"]["state"] == "Running":
        time.sleep(0.05)


def wait_front(workplace: Workplace, name: str, front: str) -> None:
    """Wait until a data set is served by this front. Raises CommandError if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while (found := status(workplace, name))["front"] != front:
        if time.monotonic() > deadline:
            raise CommandError(
                f"{name} is served {found['front']}, not {front}: {found.get('frontReason')}"
            )
        time.sleep(0.05)


@dataclass(frozen=True)
class Shown:
    """A folder served by one front."""

    front: str
    dataset: str
    root: Path


def show(
    workplace: Workplace, source: Path, name: str, front: str, *, quota: int, warm: bool = True
) -> Shown:
    """Create a data set, load it unless told otherwise, and wait for its front."""
    dataset = f"{name}-{front}"
    only = (front,) == offered(workplace)
    root = workplace.create(dataset, source, quota, None if only else front)
    wait_scanned(workplace, dataset)
    if warm:
        workplace.atlasctl("cache", "warm", dataset)
    if not only:
        wait_front(workplace, dataset, front)
    return Shown(front, dataset, root)


def drop(paths: Iterable[bytes]) -> None:
    """Give up the pages of files, of this mount alone."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def read_in_turn(sets: Sequence[Sequence[bytes]]) -> None:
    """Bring all sets into the page cache in the same way: read, and file by file in turn.

    A warm read of 100 kB is a copy, whose speed hangs on where its pages lie. Files that were just
    written lie in large folios, and a set that is read in after another gets the scraps of memory
    that are left: 0.7 to 0.9 of the speed, on the same file system.
    """
    os.sync()
    for paths in sets:
        drop(paths)
    for number, same in enumerate(zip(*sets, strict=True)):
        for path in same if number % 2 else reversed(same):
            with open(path, "rb") as file:
                file.read()


def rounds(
    things: dict[str, Callable[[int], Result]],
    passes: int,
    settling: int = SETTLING_PASSES,
) -> dict[str, list[Result]]:
    """Passes of several things in turn, in a changing order, without the settling ones."""
    names = list(things)
    measured: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(settling + passes):
        # Another one begins each time, and neighbours change places.
        turn = number // 2 % len(names)
        order = names[turn:] + names[:turn]
        for name in reversed(order) if number % 2 else order:
            result = things[name](number)
            if number >= settling:
                measured[name].append(result)
    return measured


def ratio(plain: Sequence[Timed], own: Sequence[Timed]) -> float:
    """The median over the passes of plain time to own time: more is better."""
    return median(one.seconds / other.seconds for one, other in zip(plain, own, strict=True))
