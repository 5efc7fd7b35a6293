"""What only a process of its own shows: terminals, pipes, and what a start costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unit.cli.conftest import Terminal, start
from unit.cli.fake_node import FakeNode, dataset


@pytest.fixture(autouse=True)
def some_datasets(request: pytest.FixtureRequest) -> None:
    if "node" in request.fixturenames:
        node: FakeNode = request.getfixturevalue("node")
        node.datasets = {name: dataset(name) for name in ("wav", "images")}


def test_delete_asks_naming_the_cost(node: FakeNode, terminal: Terminal) -> None:
    process = terminal.run("cache", "delete", "wav")
    terminal.read_until(b"[y/N]")
    assert b"2,106 files, 1.50GiB leave MEM; the origin is untouched." in terminal.seen
    terminal.type(b"y\n")
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert "wav" not in node.datasets


@pytest.mark.parametrize(
    ("answer", "code"), [(b"n\n", 2), (b"\n", 2), (b"\x04", 2), (b"\x03", 130)]
)
def test_anything_but_yes_deletes_nothing(
    node: FakeNode, terminal: Terminal, answer: bytes, code: int
) -> None:
    # Ctrl-C is a signal only on the controlling terminal, which setsid and TIOCSCTTY would make.
    process = terminal.run("cache", "delete", "wav")
    terminal.read_until(b"[y/N]")
    if answer == b"\x03":
        process.send_signal(2)
    else:
        terminal.type(answer)
    process.communicate(timeout=20)
    assert process.returncode == code
    assert "wav" in node.datasets


def test_errors_are_coloured_on_a_terminal_only(node: FakeNode, terminal: Terminal) -> None:
    terminal.run("cache", "get", "no").communicate(timeout=20)
    terminal.read_until(b"")
    assert b"\x1b[31m" in terminal.seen
    process = start("cache", "get", "no", stderr=subprocess.PIPE)
    assert b"\x1b" not in process.communicate(timeout=20)[1]


@pytest.mark.parametrize("arguments", [("cache", "list"), ("--help",), ("cache", "mounts")])
def test_a_reader_that_has_seen_enough_is_no_error(
    node: FakeNode, arguments: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*arguments, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    err = process.communicate(timeout=20)[1].decode()
    assert process.returncode == 0
    assert "Broken" not in err
    assert "error" not in err


def test_output_that_cannot_be_written(node: FakeNode) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = start("cache", "list", stdout=full, stderr=subprocess.PIPE)
    os.close(full)
    err = process.communicate(timeout=20)[1].decode()
    assert process.returncode == 1
    assert "No space left" in err
    assert "defect" not in err
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" -m atlas.cli.main cache list >&-', sys.executable],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "python")},
        capture_output=True,
        check=False,
    )
    assert closed.returncode == 1
    assert b"standard output is closed" in closed.stderr


def test_an_interrupt_while_modules_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    package = Path(__file__).parents[3] / "python"
    ended = subprocess.run(
        [sys.executable, "-m", "atlas.cli.main", "version"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{package}"},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 130
    assert ended.stderr == b"error: interrupted\n"


def test_values_beyond_all_measure(node: FakeNode, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.write_text('{"a":' * 100_000)
    for arguments, code in (
        (("--timeout", "999999999999h", "cache", "list"), 2),
        (("--timeout", "60d", "cache", "list"), 0),
        (("cache", "create", "-f", str(deep)), 2),
    ):
        process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        err = process.communicate(timeout=20)[1]
        assert (process.returncode, b"defect" in err) == (code, False), err


def test_a_name_that_the_encoding_lacks(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    node.datasets["wav"].spec.mounts[0].source = "/Grüße"
    process = start("cache", "list", "-o", "wide", stdout=subprocess.PIPE)
    assert b"/Gr\\xfc\\xdfe" in process.communicate(timeout=20)[0]
    assert process.returncode == 0


def imported(*arguments: str) -> set[str]:
    """Top-level modules that a command has imported at its end."""
    package = Path(__file__).parents[3] / "python"
    program = (
        "import sys, json; from atlas.cli.main import execute; code = execute(sys.argv[1:]);"
        "json.dump([code, sorted(sys.modules)], sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        check=True,
    )
    code, modules = json.loads(ended.stderr)
    assert code == 0
    assert "atlas.cli.main" in modules
    return {name.partition(".")[0] for name in modules} | set(modules)


# Each costs a start more than all of atlasctl's own modules together.
HEAVY = {
    "asyncio", "atlas._native", "atlas.node", "numpy", "pygments", "rich", "sqlite3", "ssl",
    "starlette", "uvicorn", "xml", "yaml",
}  # fmt: skip


@pytest.mark.parametrize("arguments", [("--help",), ("cache", "--help"), ("cache", "warm", "-h")])
def test_help_imports_click_and_little_else(arguments: tuple[str, ...]) -> None:
    allowed_not = HEAVY | {"msgspec", "http", "email", "socket", "subprocess", "atlas.api.client"}
    assert imported(*arguments) & allowed_not == set()


@pytest.mark.parametrize("arguments", [("cache", "list"), ("cache", "list", "-o", "json")])
def test_list_imports_nothing_heavy(node: FakeNode, arguments: tuple[str, ...]) -> None:
    # http.client brings ssl, whether it is used or not.
    assert imported(*arguments) & (HEAVY - {"ssl"} | {"subprocess"}) == set()
