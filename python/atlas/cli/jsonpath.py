"""The part of kubectl's JSONPath that scripts use: fields, indexes, `[*]` and literal text.

A template is text with expressions in braces: `{.metadata.name}{"\n"}`. Nothing is evaluated, so
that a template from anywhere is safe to use. What kubectl knows beyond this (range, filters,
slices, recursion) is refused with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Step = str | int | None
"""A field's name, an index (negative counts from the end), or None for `[*]`."""

_STEP = re.compile(
    r"""\.(?P<field>[A-Za-z_][A-Za-z0-9_-]*)
      | \[(?P<index>-?[0-9]+)\]
      | (?P<all>\[\*\]|\.\*)
      | \['(?P<single>[^']*)'\]
      | \["(?P<double>[^"]*)"\]""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


class JsonPathError(ValueError):
    """The template is not in the subset; the message says where and what is accepted."""


@dataclass(frozen=True)
class Template:
    """A parsed template: literal text and paths, in order."""

    parts: tuple[str | tuple[Step, ...], ...]

    def render(self, value: Any, clean: Callable[[str], str] = str) -> str:
        """The text for one object; `clean` is applied to what comes out of it, not to the literals.

        A field that is not there gives nothing, as in kubectl.
        """
        pieces = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
            else:
                pieces.append(" ".join(clean(_text(found)) for found in _follow(value, part)))
        return "".join(pieces)


def parse(template: str) -> Template:
    """Parses a template; a bare path (`.status.phase`) is taken as one in braces.

    Raises JsonPathError.
    """
    if not template:
        raise JsonPathError("the template is empty; write for example {.status.phase}")
    if "{" not in template and "}" not in template:
        template = "{" + (template if template[0] in ".[$" else "." + template) + "}"
    parts: list[str | tuple[Step, ...]] = []
    position = 0
    while position < len(template):
        brace = template.find("{", position)
        literal = template[position : brace if brace >= 0 else len(template)]
        if "}" in literal:
            raise JsonPathError(f"a '}}' without its '{{' in {template!r}")
        if literal:
            parts.append(literal)
        if brace < 0:
            break
        end = _closing(template, brace)
        parts.append(_expression(template[brace + 1 : end].strip()))
        position = end + 1
    return Template(tuple(parts))


def _closing(template: str, brace: int) -> int:
    """Where the brace at `brace` is closed; braces within quotes do not count."""
    quote = ""
    position = brace + 1
    while position < len(template):
        character = template[position]
        if quote and character == "\\":
            position += 1
        elif character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        elif not quote and character == "}":
            return position
        position += 1
    raise JsonPathError(f"a '{{' without its '}}' in {template!r}")


def _expression(text: str) -> str | tuple[Step, ...]:
    if len(text) >= 2 and text[0] in "\"'" and text[-1] == text[0]:
        return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text[1:-1])
    path = text.removeprefix("$").removeprefix("@")
    if path == ".":
        return ()
    steps: list[Step] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise JsonPathError(
                f"cannot read {path[position:]!r} in {{{text}}}; fields (.status.phase), indexes"
                " ([0], [-1]), [*] and quoted text are understood; filters, slices, '..' are not"
            )
        if match["field"] is not None:
            steps.append(match["field"])
        elif match["index"] is not None:
            steps.append(int(match["index"]))
        elif match["all"] is not None:
            steps.append(None)
        else:
            steps.append(match["single"] if match["single"] is not None else match["double"])
        position = match.end()
    if not steps:
        raise JsonPathError("an expression is empty; write for example {.status.phase}")
    return tuple(steps)


def _follow(value: Any, steps: tuple[Step, ...]) -> list[Any]:
    found = [value]
    for step in steps:
        following: list[Any] = []
        for item in found:
            if step is None:
                if isinstance(item, list):
                    following.extend(item)
                elif isinstance(item, dict):
                    following.extend(item.values())
            elif isinstance(step, int):
                if isinstance(item, list) and -len(item) <= step < len(item):
                    following.append(item[step])
            elif isinstance(item, dict) and step in item:
                following.append(item[step])
        found = following
    return found


def _text(value: Any) -> str:
    from atlas.cli.formats import json_text

    if isinstance(value, str):
        return value
    return json_text(value, indent=None)
