"""Values as JSON and YAML text that a terminal shows safely."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*\Z")
_UNUSUAL = re.compile(r"[^\n\x20-\x7e]")
# Words that some YAML reader takes for a boolean or for nothing (YAML 1.1 included).
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"})


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """JSON in which everything a terminal could obey is escaped.

    Such characters stand only inside strings, where an escape in their place is the same value.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    # DEL is the one control character that JSON's own escaping leaves as it is.
    if text.isascii() and "\x7f" not in text:
        return text
    return _UNUSUAL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    if match[0].isprintable():
        return match[0]
    return "\\u007f" if match[0] == "\x7f" else json.dumps(match[0])[1:-1]


def yaml_text(value: Any) -> str:
    """YAML in block style. Strings that are more than a plain word are written as in JSON, which
    YAML 1.1 and 1.2 read alike."""
    return "\n".join(_yaml_lines(value)) + "\n"


def _yaml_lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                yield f"{_scalar(str(key))}:"
                indent = "  " if isinstance(item, dict) else ""
                for line in _yaml_lines(item):
                    yield indent + line
            else:
                yield f"{_scalar(str(key))}: {_scalar(item)}"
    elif isinstance(value, list) and value:
        for item in value:
            lines = _yaml_lines(item)
            yield f"- {next(lines)}"
            for line in lines:
                yield f"  {line}"
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return _UNUSUAL.sub(_escape_yaml, text)


def _escape_yaml(match: re.Match[str]) -> str:
    number = ord(match[0])
    if match[0].isprintable():
        return match[0]
    # YAML has no pairs of surrogates; characters beyond 16 bits have an escape of their own.
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
