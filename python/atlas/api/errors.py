"""Every error that a user can see, in one table: code, reason, exit code, HTTP status.

Codes ATL1xxx come from the engine (`ErrorKind` in crates/atlas-core/src/error.rs), ATL2xxx from the
node and the command line. They are append-only: a code once shown keeps its meaning.
Exit codes are those of the command line's rules (0 ok, 1 failed, 2 usage, 3 not found, ...).
"""

from dataclasses import dataclass, field
from typing import Any, Final

DOCUMENTATION: Final = "docs/errors.md"


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One line of the table."""

    code: str
    reason: str
    exit_code: int
    http_status: int
    meaning: str

    @property
    def docs(self) -> str:
        """Where the code is explained."""
        return f"{DOCUMENTATION}#{self.code.lower()}"


INPUT_OUTPUT: Final = ErrorCode(
    "ATL1001", "IoError", 1, 502, "Reading or writing failed; the cause names the system's error."
)
STALE: Final = ErrorCode(
    "ATL1002", "Stale", 5, 409, "The origin holds another version than the data set's generation."
)
ACCESS_DENIED: Final = ErrorCode(
    "ATL1003", "AccessDenied", 6, 403, "The user may not do this in the file system."
)
PATH_NOT_FOUND: Final = ErrorCode(
    "ATL1004", "PathNotFound", 3, 404, "A folder or file of the machine or the origin is missing."
)
NO_SPACE: Final = ErrorCode(
    "ATL1005", "NoSpace", 7, 507, "A disk is full or a limit of the system is reached."
)
REFUSED: Final = ErrorCode(
    "ATL1006", "Refused", 2, 400, "The engine was asked for something that cannot be."
)
BUSY: Final = ErrorCode("ATL1007", "Busy", 4, 409, "It exists already, or somebody is using it.")
CORRUPT: Final = ErrorCode("ATL1008", "Corrupt", 9, 500, "Cached bytes or tables are damaged.")
UNSUPPORTED: Final = ErrorCode(
    "ATL1009", "Unsupported", 1, 501, "This machine or its kernel cannot do it."
)
ORIGIN_GONE: Final = ErrorCode(
    "ATL1010", "OriginGone", 5, 503, "The origin's root is not where it was: bring it back."
)

INVALID: Final = ErrorCode("ATL2001", "Invalid", 2, 400, "The request or an argument is wrong.")
NOT_FOUND: Final = ErrorCode(
    "ATL2002", "NotFound", 3, 404, "No data set, load or mount of that name."
)
CONFLICT: Final = ErrorCode(
    "ATL2003", "Conflict", 4, 409, "The name is taken by something that differs."
)
IN_USE: Final = ErrorCode("ATL2004", "InUse", 4, 409, "Programs still use a mount of the data set.")
DENIED: Final = ErrorCode("ATL2005", "Denied", 6, 403, "The caller may not do this.")
QUOTA: Final = ErrorCode(
    "ATL2006", "QuotaExceeded", 7, 507, "A limit on bytes or data sets, or a tier without space."
)
NOT_READY: Final = ErrorCode(
    "ATL2007", "NotReady", 10, 503, "The node or the data set cannot serve this yet."
)
TEMPORARY: Final = ErrorCode("ATL2008", "Temporary", 5, 503, "Trying again may help.")
TIMED_OUT: Final = ErrorCode("ATL2009", "TimedOut", 124, 504, "No answer within the time limit.")
VERSION_MISMATCH: Final = ErrorCode(
    "ATL2010", "VersionMismatch", 10, 426, "Client and node speak different versions of the API."
)
INTERNAL: Final = ErrorCode("ATL2011", "Internal", 1, 500, "A defect of Atlas; the log says more.")
PARTLY_DONE: Final = ErrorCode(
    "ATL2012", "PartlyDone", 8, 500, "A load ended without some of its files."
)
LOAD_FAILED: Final = ErrorCode("ATL2013", "LoadFailed", 1, 500, "A load failed or was stopped.")
INTERRUPTED: Final = ErrorCode("ATL2014", "Interrupted", 130, 500, "The user pressed Ctrl-C.")
UNTRUSTED: Final = ErrorCode(
    "ATL2015", "UntrustedNode", 6, 403, "The socket belongs to neither root nor the caller."
)
CANNOT_MOUNT: Final = ErrorCode(
    "ATL2016", "CannotMount", 10, 501, "The node has no /dev/fuse or no right to mount."
)
NOT_CONFIRMED: Final = ErrorCode(
    "ATL2017", "NotConfirmed", 2, 400, "A question was not answered with yes."
)
TIER_MISSING: Final = ErrorCode(
    "ATL2018", "TierMissing", 10, 503, "A tier folder is not the one it was: a disk is unmounted."
)

ALL: Final = (
    INPUT_OUTPUT, STALE, ACCESS_DENIED, PATH_NOT_FOUND, NO_SPACE, REFUSED, BUSY, CORRUPT,
    UNSUPPORTED, ORIGIN_GONE, INVALID, NOT_FOUND, CONFLICT, IN_USE, DENIED, QUOTA, NOT_READY,
    TEMPORARY, TIMED_OUT, VERSION_MISMATCH, INTERNAL, PARTLY_DONE, LOAD_FAILED, INTERRUPTED,
    UNTRUSTED, CANNOT_MOUNT, NOT_CONFIRMED, TIER_MISSING,
)  # fmt: skip
BY_CODE: Final = {entry.code: entry for entry in ALL}


@dataclass(slots=True, eq=False)
class AtlasError(Exception):
    """The one exception of the API, raised by the client and by the node's services.

    `message` says what failed, on which object; `cause` why; `hint` is a command to try;
    `unchanged` what stayed as it was; `details` are further lines (differences, holders).
    All texts are printable: whoever puts a foreign name into one escapes it first.
    """

    kind: ErrorCode
    message: str
    cause: str | None = None
    hint: str | None = None
    unchanged: str | None = None
    details: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.message if self.cause is None else f"{self.message}: {self.cause}"

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        return self.kind.exit_code

    def body(self) -> dict[str, Any]:
        """The JSON object of an HTTP answer, and of `-o json` on standard error."""
        return {
            "error": {
                "code": self.kind.code,
                "reason": self.kind.reason,
                "exitCode": self.kind.exit_code,
                "message": self.message,
                "cause": self.cause,
                "try": self.hint,
                "unchanged": self.unchanged,
                "details": self.details,
                "docs": self.kind.docs,
            }
        }


def from_body(body: object, http_status: int) -> AtlasError:
    """The error in an HTTP answer; a body that is none of ours becomes `Internal`.

    A code that this version does not know keeps its texts and its exit code.
    """
    entry = body.get("error") if isinstance(body, dict) else None
    if not isinstance(entry, dict):
        return AtlasError(INTERNAL, f"the node answered with HTTP status {http_status}")

    def text(key: str) -> str | None:
        value = entry.get(key)
        return None if value is None else str(value)

    kind = BY_CODE.get(str(entry.get("code")))
    if kind is None:
        exit_code = entry.get("exitCode")
        kind = ErrorCode(
            str(entry.get("code")),
            str(entry.get("reason")),
            exit_code if isinstance(exit_code, int) and 0 < exit_code < 256 else 1,
            http_status,
            "An error of a newer node.",
        )
    details = entry.get("details")
    return AtlasError(
        kind,
        text("message") or kind.meaning,
        text("cause"),
        text("try"),
        text("unchanged"),
        [str(line) for line in details] if isinstance(details, list) else [],
    )
