"""One table of errors, the same for the engine, the node and the command line."""

import re
from pathlib import Path

from atlas.api import errors
from atlas.api.errors import AtlasError, from_body
from atlas.api.version import VERSION

ROOT = Path(__file__).parents[3]


def test_codes_are_unique_and_all_are_listed() -> None:
    declared = [value for value in vars(errors).values() if isinstance(value, errors.ErrorCode)]
    assert len({entry.code for entry in errors.ALL}) == len(errors.ALL) == len(declared)


def test_the_engine_s_codes_are_all_known() -> None:
    """`ErrorKind::code` in crates/atlas-core and this table agree."""
    source = (ROOT / "crates/atlas-core/src/error.rs").read_text()
    engine = set(re.findall(r'"(ATL1\d{3})"', source))
    assert engine == {entry.code for entry in errors.ALL if entry.code.startswith("ATL1")}


def test_exit_codes_are_those_of_the_command_line() -> None:
    allowed = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 124, 130}
    assert {entry.exit_code for entry in errors.ALL} <= allowed


def test_an_error_survives_the_wire() -> None:
    sent = AtlasError(
        errors.IN_USE, "data set a is in use", "by 1", "atlasctl x", "a stays", ["1 cat"]
    )
    received = from_body(sent.body(), 409)
    assert (received.kind, received.message, received.cause, received.hint) == (
        sent.kind,
        sent.message,
        sent.cause,
        sent.hint,
    )
    assert (received.unchanged, received.details) == (sent.unchanged, sent.details)


def test_a_newer_node_s_error_keeps_its_words() -> None:
    body = {"error": {"code": "ATL2999", "reason": "New", "exitCode": 7, "message": "m"}}
    received = from_body(body, 500)
    assert (received.kind.code, received.exit_code, received.message) == ("ATL2999", 7, "m")


def test_what_is_no_error_object_is_internal() -> None:
    for body in (None, [], {}, {"error": 3}):
        assert from_body(body, 502).kind is errors.INTERNAL


def test_the_version_is_the_workspace_s() -> None:
    cargo = (ROOT / "Cargo.toml").read_text()
    assert re.search(r'^version = "(.+)"$', cargo, re.MULTILINE)[1] == VERSION  # type: ignore[index]
