"""What this machine can do, found by trying it: versions say nothing about what was built in,
backported or forbidden."""

import os
import struct
from typing import Final

from atlas.api.errors import AtlasError
from atlas.node.native import System, failing

AVAILABLE: Final = "available"
_NOTIFY_RESEND: Final = 7
_HEADER: Final = struct.Struct("=IiQ")
"""fuse_out_header: length, code, unique (0 for a notification)."""


def probe(system: System) -> dict[str, str]:
    """`live`: the FUSE front; `resend`: a node's death harms no reader. "available", or why not.

    Mounts a FUSE file system that is attached nowhere and ends with this call.
    """
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
