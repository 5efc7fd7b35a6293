"""What this machine can do, found by trying it: versions say nothing about what was built in,
backported or forbidden."""

import os
import struct
import threading
import time
from pathlib import Path
from typing import Final

from atlas.api.errors import AtlasError
from atlas.node.native import System, failing

AVAILABLE: Final = "available"
AGAIN_SECONDS: Final = 60.0
MAPPED: Final = ("lazy", "sealed", "swap")
_NOTIFY_RESEND: Final = 7
_HEADER: Final = struct.Struct("=IiQ")
"""fuse_out_header: length, code, unique (0 for a notification)."""


class Capabilities:
    """What was tried, by name: "available", or why not. Tried by whoever asks first; what failed
    for a reason that may pass (a full disk, others that mount images) is tried again.

    `live`: the FUSE front; `resend`: a node's death harms no reader; `lazy`, `sealed`: the mapped
    fronts; `swap`: a front is changed without a moment in which nothing is mounted.
    """

    def __init__(self, system: System, folder: Path) -> None:
        """The mapped fronts are tried in `folder`, on the file system that images lie on."""
        self._system = system
        self._folder = folder
        self._trying = threading.Lock()
        self._live: dict[str, str] | None = None
        self._mapped: dict[str, str] | None = None
        self._next_try = 0.0

    def all(self) -> dict[str, str]:
        with self._trying:
            if self._live is None:
                self._live = _probe_live(self._system)
            found, now = self._mapped, time.monotonic()
            if found is None or (_missing(found) and now >= self._next_try):
                again = self._probe_mapped()
                # What worked once is not gone because another try met a full disk.
                kept = {
                    name: answer for name, answer in (found or {}).items() if answer == AVAILABLE
                }
                found = self._mapped = again | kept
                self._next_try = now + AGAIN_SECONDS
            return self._live | found

    def has(self, name: str) -> bool:
        return self.all()[name] == AVAILABLE

    def _probe_mapped(self) -> dict[str, str]:
        try:
            with failing("no image can be mounted here"):
                found = self._system.probe_mapped(str(self._folder))
        except AtlasError as error:
            return dict.fromkeys(MAPPED, error.cause or error.message)
        return {name: found[name] for name in MAPPED}


def _missing(found: dict[str, str]) -> bool:
    return any(answer != AVAILABLE for answer in found.values())


def _probe_live(system: System) -> dict[str, str]:
    """Mounts a FUSE file system that is attached nowhere and ends with this call."""
    try:
        with failing("no FUSE here"):
            fuse = system.open_fuse()
        try:
            with failing("no mount here"):
                mount = system.mount_fuse(fuse, "atlas:probe", os.geteuid(), os.getegid())
            try:
                return {"live": AVAILABLE, "resend": _resend(fuse)}
            finally:
                os.close(mount)
        finally:
            os.close(fuse)
    except AtlasError as error:
        return dict.fromkeys(("live", "resend"), error.cause or error.message)


def _resend(fuse: int) -> str:
    try:
        os.write(fuse, _HEADER.pack(_HEADER.size, _NOTIFY_RESEND, 0))
    except OSError as error:
        return f"the kernel does not ask again: {error.strerror}"
    return AVAILABLE
