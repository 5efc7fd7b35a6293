"""Tables, and text laid out in terminal columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from atlas.api.units import printable


def width(text: str) -> int:
    """Terminal columns of `text`: wide East Asian characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    columns = 0
    for character in text:
        if not unicodedata.combining(character):
            columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return columns


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with left-aligned columns, three blanks apart. Cells are escaped here: they may hold
    foreign names."""
    cells = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(width(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        padded = [cell + " " * (widths[column] - width(cell)) for column, cell in enumerate(row)]
        lines.append("   ".join(padded).rstrip())
    return lines
