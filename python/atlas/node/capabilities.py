"""What this machine can do, found by trying it: versions say nothing about what was built in,
backported or forbidden."""

import os
import struct
import threading
from pathlib import Path
from typing import Final

from atlas.api.errors import AtlasError
from atlas.node.native import System, failing

AVAILABLE: Final = "available"
MAPPED: Final = ("lazy", "sealed", "swap")
_NOTIFY_RESEND: Final = 7
_HEADER: Final = struct.Struct("=IiQ")
"""fuse_out_header: length, code, unique (0 for a notification)."""


class Capabilities:
    """What was tried, by name: "available", or why not. Tried once, by whoever asks first.

    `live`: the FUSE front; `resend`: a node's death harms no reader; `lazy`, `sealed`: the mapped
    fronts; `swap`: a front is changed without a moment in which nothing is mounted.
    """

    def __init__(self, system: System, folder: Path) -> None:
        """The mapped fronts are tried in `folder`, on the file system that images lie on."""
        self._system = system
        self._folder = folder
        self._trying = threading.Lock()
        self._found: dict[str, str] | None = None

    def all(self) -> dict[str, str]:
        with self._trying:
            if self._found is None:
                self._found = _probe_live(self._system) | self._probe_mapped()
            return self._found

    def has(self, name: str) -> bool:
        return self.all()[name] == AVAILABLE

    def _probe_mapped(self) -> dict[str, str]:
        try:
            with failing("no image can be mounted here"):
                found = self._system.probe_mapped(str(self._folder))
        except AtlasError as error:
            return dict.fromkeys(MAPPED, error.cause or error.message)
        return {name: found[name] for name in MAPPED}


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
