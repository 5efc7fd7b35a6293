"""A scenario's folder is gone after every end of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from atlas.bench.workplace import CommandError, run_scenario

def scenario(workplace):
    (workplace.home / "file").touch()
    workplace.stack.callback(lambda: print("entered things end", flush=True))
    what = sys.argv[1]
    if what == "fail":
        raise CommandError("it did not work")
    if what != "done":
        # The second comes while the first is being handled.
        workplace.stack.callback(os.kill, os.getpid(), int(what))
        os.kill(os.getpid(), int(what))
        signal.pause()
    return 0

sys.exit(run_scenario(scenario))
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("done", 0, ""),
        ("fail", 1, "error: it did not work"),
        (str(int(signal.SIGINT)), 130, "stopped"),
        (str(int(signal.SIGTERM)), 143, "stopped"),
    ],
)
def test_nothing_stays(tmp_path: Path, end: str, code: int, said: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, end],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code
    assert result.stdout == "entered things end\n"
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


LINGERING = """
import subprocess, sys
from atlas.bench.workplace import run_scenario

def scenario(workplace):
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"],
        env=workplace._variables, start_new_session=True, stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    return 0

sys.exit(run_scenario(scenario))
"""


def test_a_process_with_the_scenarios_home_is_ended(tmp_path: Path) -> None:
    # Stands for a node that no longer answers: atlasctl cannot stop it.
    # It holds our end of standard error open: `run` returns when it is gone.
    result = subprocess.run(
        [sys.executable, "-c", LINGERING],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
