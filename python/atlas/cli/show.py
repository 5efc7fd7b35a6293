"""Printing the API's objects in the format that `-o` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from atlas.cli.run import Run

if TYPE_CHECKING:
    import msgspec


def show(
    run: Run,
    value: msgspec.Struct | dict[str, Any],
    *,
    text: Callable[[], str | Sequence[str]],
    names: Callable[[], Sequence[str]] | None = None,
) -> None:
    """Writes one object as data. `text` makes what a person reads (table and wide), `names` what
    `-o name` prints, one a line."""
    output = run.output
    if output.name in ("table", "wide"):
        shown = text()
        lines = shown if isinstance(shown, str) else "\n".join(shown)
        if lines:
            run.emit(lines)
        return
    if output.name == "name" and names is not None:
        if names():
            run.emit("\n".join(names()))
        return
    run.emit(_formatted(run, value))


def _formatted(run: Run, value: Any) -> str:
    from atlas.api.models import to_builtins
    from atlas.api.units import printable
    from atlas.cli.formats import json_text, yaml_text

    plain = to_builtins(value)
    if run.output.template is not None:
        # Line breaks and tabs are the template's own; what comes out of the object is escaped.
        return run.output.template.render(plain, printable)
    return json_text(plain) if run.output.name == "json" else yaml_text(plain)
