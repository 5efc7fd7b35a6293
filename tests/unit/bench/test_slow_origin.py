"""The slow origin's command line; its file system is tested where it is written."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from atlas.bench.slow_origin import Slowness, SlowOriginError, slow_origin


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "atlas.bench.slow_origin", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("option", ["--latency=soon", "--bandwidth=wide", "--operations=few"])
def test_a_wrong_option_is_a_usage_error(tmp_path: Path, option: str) -> None:
    result = run(option, str(tmp_path), str(tmp_path))
    assert result.returncode == 2
    assert option.split("=")[1] in result.stderr


def test_an_absent_source_is_an_error_with_its_cause(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with (
        pytest.raises(SlowOriginError, match=r"error: .*absent"),
        slow_origin(tmp_path / "absent", target, Slowness()),
    ):
        pass


def test_slowness_in_words() -> None:
    assert Slowness(0.01, 5_000_000, 20).words() == "10 ms a call, 5 MB/s, 20 metadata operations/s"


needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="mounts: needs root and /dev/fuse"
)


@needs_mount
def test_the_origin_is_there_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(b"content")
    with slow_origin(source, target, Slowness(0.0, 1 << 30, 1_000_000)):
        assert (target / "file").read_bytes() == b"content"
        assert os.path.ismount(target)
    assert not os.path.ismount(target)


@needs_mount
def test_the_origin_ends_with_its_parent(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    program = (
        "import os, sys; from pathlib import Path\n"
        "from atlas.bench.slow_origin import Slowness, slow_origin\n"
        f"with slow_origin(Path({str(source)!r}), Path({str(target)!r}), Slowness()):\n"
        "    os._exit(7)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], check=False)
    assert result.returncode == 7
    with open("/proc/self/mounts") as mounts:
        changes = select.poll()
        # The kernel wakes who polls this file at each change of the mount table.
        changes.register(mounts, select.POLLPRI)
        while str(target) in mounts.read():
            assert changes.poll(10_000), "the origin is still mounted after 10 s"
            mounts.seek(0)
