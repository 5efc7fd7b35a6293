"""Tables and the page: what a person sees."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from atlas.bench import demo
from atlas.bench.epoch import Epoch, Job
from atlas.bench.report import Bar, Table, _ticks, bar_chart, line_chart
from atlas.bench.slow_origin import Slowness


def epoch(seconds: float) -> Epoch:
    return Epoch(
        files=200,
        read_bytes=20_000_000,
        seconds=seconds,
        first_sample_seconds=0.5,
        waited_seconds=seconds / 4,
        progress=[(seconds / 2, 100), (seconds, 200)],
        digests={f"{index}": b"" for index in range(200)},
    )


OUTCOME = demo.Outcome((epoch(20), epoch(10), epoch(2)), 0.4, 3.0, 0)


def test_the_table_holds_the_figures_of_each_way() -> None:
    text = demo.table(OUTCOME).text()
    assert re.search(r"^direct +10 +1\.0 +0\.50 s +25% +20\.0 s$", text, re.MULTILINE)
    assert re.search(r"^Atlas, after warm-up +100 +10\.0 .* 2\.0 s$", text, re.MULTILINE)
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_remarks_count_what_was_compared() -> None:
    notes = " ".join(demo.remarks(OUTCOME, Slowness(), Job()))
    assert "200 files (19.1MiB) read each way and compared by checksum, 0 differ" in notes
    assert "2 ms a call, 200 MB/s, 3,000 metadata operations/s" in notes


def test_the_page_is_well_formed_and_asks_nothing_of_a_network() -> None:
    text = demo.html(OUTCOME, ["a < b & c"])
    body = text[text.index("<body>") : text.index("</body>") + len("</body>")]
    root = ElementTree.fromstring(body)
    assert len(root.findall(".//svg")) == 4
    assert "a < b & c" in {paragraph.text for paragraph in root.findall("p")}
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)
    assert "prefers-color-scheme: dark" in text


def test_bars_share_a_scale_that_starts_at_zero() -> None:
    chart = ElementTree.fromstring(bar_chart("x", [Bar("a", 50, "50"), Bar("b", 100, "100")]))
    widths = [float(bar.attrib["width"]) for bar in chart.findall(".//rect")]
    assert widths == [120, 240]


def test_charts_of_nothing_are_still_charts() -> None:
    for chart in (bar_chart("x", []), bar_chart("x", [Bar("a", 0, "0")]), line_chart("x", "s", [])):
        ElementTree.fromstring(chart)


def test_a_table_escapes_what_it_shows() -> None:
    assert "<td>&lt;b&gt;</td>" in Table(["x"], [["<b>"]]).html()


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (0, [0, 1]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (14.2, [0, 5, 10, 15]),
        (2831, [0, 1000, 2000, 3000]),
        (99_999, [0, 20_000, 40_000, 60_000, 80_000, 100_000]),
    ],
)
def test_ticks_are_round_and_reach_the_largest(largest: float, ticks: list[float]) -> None:
    assert _ticks(largest) == pytest.approx(ticks)
