"""Loads: started, watched, left, stopped, and how each ending is told."""

import json
import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from atlas.api import errors, models
from atlas.cli.progress import numbers
from unit.cli.conftest import Ended, Terminal, start
from unit.cli.fake_node import FakeNode, dataset, load_status

Atlasctl = Callable[..., Ended]
RUNNING = load_status("Running", files=1204, bytes=1 << 30, eta_seconds=190.0)


@pytest.fixture(autouse=True)
def one_dataset(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.datasets = {"wav": dataset("wav")}
    node.datasets["wav"].spec.exclude = ["*.tmp"]
    monkeypatch.setattr("atlas.cli.warm._POLL_SECONDS", 0.0)


def test_complete(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.load_states = [RUNNING, RUNNING, load_status()]
    ended = atlasctl("cache", "warm", "wav")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "wav: Complete, 4,212 files, 3.00GiB in 12s\n"


def test_load_is_another_name_for_it(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.load_states = [load_status()]
    assert atlasctl("cache", "load", "wav").code == 0


def test_what_is_asked_for(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.load_states = [load_status()]
    ended = atlasctl(
        "cache", "warm", "wav:/a", "wav:/b/c", "wav:/a", "-p", "8", "--bwlimit", "2Gi/s"
    )
    assert ended.code == 0
    assert json.loads(node.bodies[-1]) == {
        "dataset": "wav", "paths": ["/a", "/b/c"], "parallel": 8, "bytesPerSecond": 2 << 30,
    }  # fmt: skip
    node.load_states = [load_status()]
    atlasctl("cache", "warm", "wav:/a", "wav")
    assert json.loads(node.bodies[-1])["paths"] == []


def test_nothing_is_started_if_one_name_is_wrong(node: FakeNode, atlasctl: Atlasctl) -> None:
    assert atlasctl("cache", "warm", "wav", "other").code == 3
    assert node.bodies == []


def test_partial_for_lack_of_space(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.load_states = [load_status("Partial", files=2000, skipped_bytes=1 << 30)]
    ended = atlasctl("cache", "warm", "wav")
    assert ended.code == 8
    assert "2,000 of 4,212 files are cached" in ended.err
    assert "cause: no space for 1.00GiB" in ended.err
    # 3 GiB, a page for each file, and 1 % of it.
    assert (
        "try: atlasctl cache delete wav && atlasctl cache create wav --from /lustre/wav"
        " --size 3120Mi --medium MEM --exclude '*.tmp'\n" in ended.err
    )


def test_partial_for_failed_files(node: FakeNode, atlasctl: Atlasctl) -> None:
    failed = [
        models.FailedFile(path=f"/{number}\x1b[2J", reason="Permission denied")
        for number in range(20)
    ]
    node.load_states = [load_status("Partial", files=4000, failed=failed, failed_count=212)]
    ended = atlasctl("cache", "warm", "wav", "-o", "json")
    assert ended.code == 8
    assert json.loads(ended.out)["status"]["failedCount"] == 212
    error = json.loads(ended.err)["error"]
    assert error["reason"] == "PartlyDone"
    assert len(error["details"]) == 11
    assert error["details"][0] == "/0\\x1b[2J: Permission denied"
    assert error["details"][10] == "and 202 more"
    assert error["try"] == "atlasctl cache warm wav"


@pytest.mark.parametrize(("phase", "code"), [("Failed", 1), ("Stopped", 1), ("Partial", 8)])
def test_exit_codes(node: FakeNode, atlasctl: Atlasctl, phase: str, code: int) -> None:
    node.load_states = [load_status(phase, message="because")]
    ended = atlasctl("cache", "warm", "wav")
    assert ended.code == code
    assert "because" in ended.err


@pytest.mark.parametrize(("reason", "code"), [("nope: no such entry in the data set", 3), ("x", 1)])
def test_a_path_that_is_not_there(
    node: FakeNode, atlasctl: Atlasctl, reason: str, code: int
) -> None:
    failed = [models.FailedFile(path="/nope", reason=reason)]
    node.load_states = [load_status("Failed", files=0, bytes=0, failed=failed, failed_count=1)]
    ended = atlasctl("cache", "warm", "wav:/nope")
    assert ended.code == code
    assert "/nope" in ended.err


def test_the_worst_of_several_counts(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.datasets["images"] = dataset("images")
    node.load_states = [load_status("Partial", failed_count=1), load_status("Failed")]
    ended = atlasctl("cache", "warm", "wav", "images")
    assert ended.code == 1
    assert "load of images failed" in ended.err
    assert "load of wav is partial" in ended.err


def test_what_has_begun_is_told_if_another_cannot(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.datasets["images"] = dataset("images")
    busy = errors.AtlasError(errors.CONFLICT, "another load of images is running")
    node.refuse("POST /v1/datasets/images/loads", busy)
    ended = atlasctl("cache", "warm", "wav", "images")
    assert ended.code == 4
    assert "the load of wav has begun" in ended.err


def test_background(node: FakeNode, atlasctl: Atlasctl) -> None:
    ended = atlasctl("cache", "warm", "wav", "--background")
    assert (ended.code, ended.out) == (0, "dataload/load-wav\n")
    assert "atlasctl cache warm wav" in ended.err


def test_stop(node: FakeNode, atlasctl: Atlasctl) -> None:
    assert "no running load" in atlasctl("cache", "warm", "wav", "--stop").err
    atlasctl("cache", "warm", "wav", "--background")
    assert "no running load" in atlasctl("cache", "warm", "wav:/a", "--stop").err
    ended = atlasctl("cache", "warm", "wav", "--stop")
    assert ended.code == 0
    assert "Stopped the load of wav" in ended.err
    assert node.loads["load-wav"].status.phase == "Stopped"


@pytest.mark.parametrize("where", ["client", "server"])
def test_dry_run(node: FakeNode, atlasctl: Atlasctl, where: str) -> None:
    ended = atlasctl("cache", "warm", "wav", f"--dry-run={where}")
    assert ended.code == 0
    assert ("3,212 files and 2.00GiB would be read" in ended.err) == (where == "server")
    asked = [request for request in node.requests if request.startswith("POST")]
    assert all("dryRun=server" in request for request in asked)


def test_objects_as_progress(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.load_states = [RUNNING, RUNNING, load_status()]
    ended = atlasctl("cache", "warm", "wav", "--progress=json")
    objects = [json.loads(line) for line in ended.out.splitlines()]
    assert {entry["kind"] for entry in objects} == {"DataLoad"}
    assert objects[-1]["status"]["phase"] == "Complete"
    assert [entry["status"]["phase"] for entry in objects].count("Complete") == 1


def test_lines_as_progress(
    node: FakeNode, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes by 20 s with each look at the clock: a line is due at each second look."""
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("atlas.cli.progress.monotonic", lambda: float(next(clock)))
    node.load_states = [*[RUNNING] * 9, load_status()]
    ended = atlasctl("cache", "warm", "wav")
    lines = [line for line in ended.err.splitlines() if line.startswith("wav: Running, ")]
    assert 1 < len(lines) < 10
    assert lines[-1] == ("wav: Running, 1,204/4,212 files, 1.00GiB/3.00GiB, 256MiB/s, ETA 3m10s")
    assert ended.out == ""


def test_unknown_totals_show_what_moves() -> None:
    status = load_status("Running", files=7, bytes=2048, files_total=None, bytes_total=None)
    assert numbers(status) == "7 files, 2.00KiB so far (the scan still counts), 256MiB/s"
    status = load_status("Running", failed_count=3, skipped_bytes=1024)
    assert numbers(status).endswith("256MiB/s, 3 failed, 1.00KiB without space")


def test_a_replaced_node_is_waited_for(node: FakeNode, atlasctl: Atlasctl) -> None:
    """The connection breaks, then the new node is not ready: the load goes on, and the watch."""
    node.load_states = [RUNNING, load_status()]
    node.refuse("GET /v1/loads", None)
    node.refuse("GET /v1/loads", errors.AtlasError(errors.NOT_READY, "starting"))
    assert atlasctl("cache", "warm", "wav").code == 0


def test_a_node_that_stays_away_ends_the_watch(
    node: FakeNode, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.cli.warm._ABSENCE_SECONDS", 0.0)
    node.refuse("GET /v1/loads", None)
    assert atlasctl("cache", "warm", "wav").code == 5


def test_a_load_that_is_gone_ends_the_watch(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.refuse("GET /v1/loads", errors.AtlasError(errors.NOT_FOUND, "no load"))
    assert atlasctl("cache", "warm", "wav").code == 3


def test_the_time_limit_ends_the_watch_only(node: FakeNode, atlasctl: Atlasctl) -> None:
    ended = atlasctl("--timeout", "300ms", "cache", "warm", "wav:/a b", "-p4", "--bwlimit=2Ki")
    assert ended.code == 124
    assert "the load goes on" in ended.err
    assert "try: atlasctl cache warm 'wav:/a b' -p 4 --bwlimit 2048/s\n" in ended.err
    assert not any("stop" in request for request in node.requests)


def test_create_and_warm(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.load_states = [load_status()]
    wish = ("cache", "create", "new", "--from", "/a", "--size", "1Gi", "--warm")
    ended = atlasctl(*wish)
    assert (ended.code, ended.out) == (0, "/run/atlas/mnt/new\n")
    assert "new: Complete" in ended.err
    node.load_states = [load_status("Partial", skipped_bytes=1)]
    assert atlasctl(*wish).code == 8


def interrupted(process: subprocess.Popen[bytes], node: FakeNode) -> None:
    """Ctrl-C, once the load is being watched."""
    deadline = time.monotonic() + 20
    while not any("/v1/loads/" in request for request in node.requests):
        node.asked.clear()
        assert node.asked.wait(deadline - time.monotonic()), node.requests
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("output", ["table", "json"])
def test_ctrl_c_stops_watching_not_the_work(node: FakeNode, output: str) -> None:
    process = start(
        "cache", "warm", "wav", "-o", output, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    interrupted(process, node)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, b"")
    assert b"the load goes on" in err
    assert b"atlasctl cache warm wav" in err
    assert b"Traceback" not in err
    if output == "json":
        assert json.loads(err)["error"]["reason"] == "Interrupted"
    assert not any("stop" in request for request in node.requests)


def test_a_bar_on_a_terminal(node: FakeNode, terminal: Terminal) -> None:
    node.load_states = [RUNNING]
    process = terminal.run("cache", "warm", "wav")
    terminal.read_until(b"1,204/4,212 files")
    node.load_states = [load_status()]
    terminal.read_until(b"wav: Complete, 4,212 files")
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"")
    assert b"\x1b[" in terminal.seen


@pytest.mark.parametrize("way", ["NO_COLOR", "--no-color"])
def test_a_bar_without_colour(
    node: FakeNode, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    node.load_states = [RUNNING]
    if way == "NO_COLOR":
        monkeypatch.setenv(way, "1")
    process = terminal.run("cache", "warm", "wav", *([way] if way == "--no-color" else []))
    terminal.read_until(b"1,204/4,212 files")
    node.load_states = [load_status()]
    terminal.read_until(b"")
    process.communicate(timeout=20)
    # Select Graphic Rendition with a colour; the cursor still moves.
    assert b"\x1b[3" not in terminal.seen
    assert b"\x1b[9" not in terminal.seen


@pytest.mark.parametrize("arguments", [("-q",), ("--progress=none",)])
def test_no_bar_if_unwanted(node: FakeNode, terminal: Terminal, arguments: tuple[str, ...]) -> None:
    node.load_states = [RUNNING, load_status()]
    process = terminal.run("cache", "warm", "wav", *arguments)
    terminal.read_until(b"")
    process.communicate(timeout=20)
    assert b"\x1b[" not in terminal.seen
    assert b"1,204" not in terminal.seen
