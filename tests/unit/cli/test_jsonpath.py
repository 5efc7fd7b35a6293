"""The subset of JSONPath, and what is outside of it."""

import pytest

from atlas.cli.jsonpath import JsonPathError, parse

OBJECT = {
    "metadata": {"name": "wav", "labels": {"a.b": "c"}},
    "status": {"files": 3, "ready": True, "scan": {"state": "Complete"}, "none": None},
    "items": [{"name": "x", "n": [1, 2]}, {"name": "y", "n": []}],
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{.metadata.name}", "wav"),
        (".metadata.name", "wav"),
        ("metadata.name", "wav"),
        ("{$.metadata.name}", "wav"),
        ("{.status.files}", "3"),
        ("{.status.ready}", "true"),
        ("{.status.none}", "null"),
        ("{.status.scan}", '{"state": "Complete"}'),
        ("{.items[*].name}", "x y"),
        ("{.items[0].name}", "x"),
        ("{.items[-1].name}", "y"),
        ("{.items[7].name}", ""),
        ("{.items[*].n[*]}", "1 2"),
        ("{.items.name}", ""),
        ("{.metadata.labels['a.b']}", "c"),
        ('{.metadata.labels["a.b"]}', "c"),
        ("{.nothing.here}", ""),
        ('{.metadata.name}{"\\n"}{.status.files}', "wav\n3"),
        ("name={.metadata.name};", "name=wav;"),
        ('{"}"}', "}"),
    ],
)
def test_what_is_understood(template: str, expected: str) -> None:
    assert parse(template).render(OBJECT) == expected


@pytest.mark.parametrize(
    "template",
    [
        "", "{}", "{.a", "a}", "{.a..b}", "{range .items[*]}{.name}{end}",
        "{.items[?(@.name=='x')]}", "{.items[0:2]}", "{__import__('os')}", "{.a b}", "{.items[}",
    ],
)  # fmt: skip
def test_what_is_refused(template: str) -> None:
    with pytest.raises(JsonPathError):
        parse(template)


def test_what_comes_out_is_cleaned_and_literals_are_not() -> None:
    assert parse('{.a}{"\\n"}').render({"a": "x\ny"}, lambda text: repr(text)) == "'x\\ny'\n"
