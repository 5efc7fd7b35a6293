"""Tables for a terminal, and a self-contained page with plots (inline SVG, no network)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --back: #ffffff; --line: #d0d7de;
        --s0: #b35900; --s1: #0969da; --s2: #1a7f37; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --back: #0d1117; --line: #3d444d;
          --s0: #f0883e; --s1: #58a6ff; --s2: #56d364; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
figure { margin: 1rem 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { fill: var(--text); font: 12px system-ui; }
.axis { stroke: var(--line); fill: none; } .f0 { fill: var(--s0); } .f1 { fill: var(--s1); }
.f2 { fill: var(--s2); } .l0 { stroke: var(--s0); } .l1 { stroke: var(--s1); }
.l2 { stroke: var(--s2); } .line { fill: none; stroke-width: 2; }
"""
COLOURS = 3
BAR_WIDTH = 240


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; the first column names the row."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal: columns aligned, numbers to the right."""
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def html(self) -> str:
        """The same as an HTML table."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.headings)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Bar:
    """One bar of a chart; `label` is the figure as it is printed."""

    name: str
    value: float
    label: str


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars on a scale from zero."""
    largest = max((bar.value for bar in bars), default=0) or 1
    parts = []
    for index, bar in enumerate(bars):
        top = index * 46
        width = max(1.0, BAR_WIDTH * bar.value / largest)
        parts.append(
            f'<text x="0" y="{top + 13}">{escape(bar.name)}</text>'
            f'<rect class="f{index % COLOURS}" x="0" y="{top + 18}" width="{width:.1f}" '
            f'height="18" rx="2"/>'
            f'<text x="{width + 6:.1f}" y="{top + 32}">{escape(bar.label)}</text>'
        )
    return _figure(title, BAR_WIDTH + 60, 46 * len(bars), "".join(parts))


def line_chart(
    title: str, horizontal: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]]
) -> str:
    """Lines from a common origin; `horizontal` names the x axis."""
    points = [point for _, line in series for point in line]
    right = _ticks(max((x for x, _ in points), default=0))
    up = _ticks(max((y for _, y in points), default=0))
    parts = ['<path class="axis" d="M60 10V230H690"/>']
    for tick in right:
        at = 60 + 630 * tick / right[-1]
        parts.append(f'<text x="{at:.0f}" y="246" text-anchor="middle">{tick:g}</text>')
    for tick in up:
        at = 234 - 215 * tick / up[-1]
        parts.append(f'<text x="54" y="{at:.0f}" text-anchor="end">{tick:,g}</text>')
    parts.append(f'<text x="690" y="266" text-anchor="end">{escape(horizontal)}</text>')
    for index, (name, line) in enumerate(series):
        path = "".join(
            f"L{60 + 630 * x / right[-1]:.1f} {230 - 215 * y / up[-1]:.1f}" for x, y in line
        )
        parts.append(
            f'<path class="line l{index % COLOURS}" d="M60 230{path}"/>'
            f'<rect class="f{index % COLOURS}" x="{60 + 180 * index}" y="254" width="12" '
            f'height="12"/><text x="{78 + 180 * index}" y="265">{escape(name)}</text>'
        )
    return _figure(title, 700, 270, "".join(parts))


def _ticks(largest: float) -> list[float]:
    """Round numbers from zero to the first that is not below `largest`, about five."""
    if largest <= 0:
        return [0, 1]
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= largest)
    return [step * index for index in range(math.ceil(largest / step) + 1)]


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page from pieces of HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def _figure(title: str, width: int, height: int, content: str) -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"{content}</svg></figure>"
    )
