"""JSON, YAML and tables: the same values, and nothing that a terminal obeys."""

import json

import pytest
import yaml

from atlas.cli.formats import json_text, yaml_text
from atlas.cli.text import table, width

NASTY = 'a\x1b]0;title\x07\x9b2Jb\u202egnp\u2028c\x7f\ud83d Grüße 数据 \U000e0001 \\ " : #'
VALUES = [
    {},
    [],
    {"a": {}, "b": [], "c": None, "d": True, "e": 1.5, "f": -3, "g": ""},
    {"list": [{"a": 1, "b": [1, [2, []], {}]}, "text", [["deep"]]]},
    ["yes", "No", "null", "~", "1e3", "0x1f", "12:30", "2026-01-02", "- a", "a: b", "=", "<<"],
    {"key with blank": 1, "yes": 2, "*": 3},
    {"lines": "a\nb\n", "blank": " a ", "name": NASTY.replace("\ud83d", "")},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_yaml_is_read_back_as_it_was(value: object) -> None:
    assert yaml.safe_load(yaml_text(value)) == value


@pytest.mark.parametrize("indent", [None, 2])
def test_json_is_read_back_as_it_was(indent: int | None) -> None:
    assert json.loads(json_text({"a": NASTY}, indent=indent)) == {"a": NASTY}


def test_nothing_moves_the_cursor() -> None:
    for shown in (json_text({"a": [NASTY]}), yaml_text({"a": [NASTY]}), table(["A"], [[NASTY]])[1]):
        assert all(character.isprintable() or character == "\n" for character in shown)
        assert "Grüße 数据" in shown


def test_columns_line_up_also_with_wide_characters() -> None:
    lines = table(["NAME", "N"], [["数据", "1"], ["e\u0301", "2"], ["abcdef", "3"]])
    assert {width(line.rpartition(" ")[0]) for line in lines} == {8}
    assert lines[0] == "NAME     N"
