"""Reading and printing sizes, rates, durations, times and names, the same way everywhere.

Sizes are whole bytes and durations seconds inside the program; units exist at its edges only.
Everything here raises `AtlasError` (Invalid) with a message that a user can act on.
"""

import re
from datetime import UTC, datetime
from typing import Final

from atlas.api.errors import INVALID, AtlasError

_POWERS: Final = "KMGTPE"
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)(i?)B?", re.ASCII | re.IGNORECASE)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_LARGEST_SIZE: Final = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Bytes of "40Gi" (powers of 1024), "40G" (powers of 1000), "4096"; also "1.5Ti"."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise AtlasError(
            INVALID, f"{printable(text)!r} is not a size", "write a number and a unit, as in 40Gi"
        )
    digits, power, binary = match.groups()
    if binary and not power:
        raise AtlasError(INVALID, f"{printable(text)!r} is not a size", "Ki, Mi, Gi, Ti or Pi")
    factor: int = (1024 if binary else 1000) ** (_POWERS.index(power.upper()) + 1 if power else 0)
    whole, _, fraction = digits.partition(".")
    # In whole numbers: a float would lose bytes above 2^53.
    size = int(whole) * factor
    if fraction:
        size += int(fraction) * factor // 10 ** len(fraction)
    if size > _LARGEST_SIZE:
        raise AtlasError(INVALID, f"{printable(text)!r} is too large for a size")
    return size


def format_size(size: int) -> str:
    """Bytes with a binary unit, three significant digits: "1.50GiB", "512B"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1023.5 or unit == "PiB":
            if unit == "B":
                return f"{size}B"
            digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
        value /= 1024
    raise AssertionError("the last unit takes every value")


def parse_rate(text: str) -> int:
    """Bytes a second of "2Gi/s"; the "/s" may be left out."""
    return parse_size(text.strip().removesuffix("/s"))


def parse_duration(text: str) -> float:
    """Seconds of "30s", "5m", "1h30m", "7d" or of a bare number."""
    stripped = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", stripped, re.ASCII):
        return float(stripped)
    position, seconds = 0, 0.0
    while match := _DURATION.match(stripped, position):
        seconds += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if position == 0 or position != len(stripped):
        raise AtlasError(
            INVALID, f"{printable(text)!r} is not a duration", "write 30s, 5m, 2h or 7d"
        )
    return seconds


def format_duration(seconds: float) -> str:
    """The two largest units: "45s", "3m10s", "2h05m", "7d3h"."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    if minutes:
        return f"{minutes}m{whole % 60:02}s"
    return f"{whole}s"


def format_time(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, from seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )  # fmt: skip


def parse_time(text: str) -> float:
    """Seconds since 1970 from an RFC 3339 time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise AtlasError(INVALID, f"{printable(text)!r} is not an RFC 3339 time") from None


def check_name(name: str) -> str:
    """`name` itself, if it is a DNS label: it becomes a folder, a URL part and a cluster object."""
    if _NAME.fullmatch(name) is None:
        raise AtlasError(
            INVALID,
            f"{printable(name)!r} is not a data set name",
            "1 to 63 lower-case letters, digits and '-', beginning and ending with no '-'",
        )
    return name


def printable(text: str | bytes) -> str:
    """`text` with everything a terminal could obey, and bytes that are no UTF-8, as \\xNN escapes.

    For every name that comes from a user, a folder or a process before it is shown or logged.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(
        character if character.isprintable() else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that surrogateescape carried through
        number -= 0xDC00
    width, letter = (2, "x") if number < 0x100 else (4, "u") if number < 0x10000 else (8, "U")
    return f"\\{letter}{number:0{width}x}"
