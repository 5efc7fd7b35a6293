"""What cannot be done is refused: a clear error, the right exit code, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atlas.testing.node import LocalNode
from atlas.testing.trees import differences, make_files, snapshot

USER = 2001


@pytest.fixture
def source(work: Path) -> Path:
    folder = work / "source"
    make_files(folder, 10, 1000)
    return folder


def create(node: LocalNode, name: str, source: Path | str, *options: str) -> tuple[str, ...]:
    del node
    defaults = {} if "--tier" in options else {"--size": "64Mi", "--medium": "MEM"}
    for option in options[::2]:
        defaults.pop(option, None)
    pairs = [part for pair in defaults.items() for part in pair]
    return ("cache", "create", name, "--from", str(source), *pairs, *options)


def refused(node: LocalNode, code: int, *arguments: str) -> str:
    """Run a command that must fail with `code`, and leave everything as it was."""
    before = _state(node)
    result = node.run(*arguments)
    assert result.returncode == code, (arguments, result.returncode, result.stderr)
    assert result.stdout == ""
    assert any(line.startswith("error: ") for line in result.stderr.splitlines()), result.stderr
    assert "Traceback" not in result.stderr
    assert _state(node) == before
    return result.stderr


def _state(node: LocalNode) -> tuple[list[str], list[str], list[str]]:
    folders = node.home / "state" / "datasets"
    return (
        sorted(item["metadata"]["name"] for item in node.json("cache", "list")["items"]),
        sorted(os.listdir(folders)) if folders.exists() else [],
        sorted(node.mounts()),
    )


def test_absent_source(node: LocalNode, work: Path) -> None:
    assert str(work / "nowhere") in refused(node, 3, *create(node, "a", work / "nowhere"))


def test_source_is_a_file(node: LocalNode, source: Path) -> None:
    refused(node, 2, *create(node, "a", source / "0000" / "0000001.bin"))


@pytest.mark.parametrize(
    "name", ["", "UPPER", "with space", "a/b", "..", "-lead", "x" * 64, "new\nline", "\x1b[31m"]
)
def test_invalid_name(node: LocalNode, source: Path, name: str) -> None:
    arguments = list(create(node, "a", source))
    arguments[2:3] = ["--", name] if name.startswith("-") else [name]
    if name.startswith("-"):
        arguments = ["cache", "create", *arguments[4:], "--", name]
    error = refused(node, 2, *arguments)
    assert "\x1b" not in error


@pytest.mark.parametrize("size", ["0", "-1Gi", "many", "1Xi", "", "99999999999Ti"])
def test_invalid_size(node: LocalNode, source: Path, size: str) -> None:
    result = node.run(*create(node, "a", source, "--size", size))
    assert result.returncode in (2, 7), result.stderr
    assert "error: " in result.stderr


def test_taken_name_and_idempotence(node: LocalNode, source: Path, work: Path) -> None:
    node.ok(*create(node, "a", source))
    assert "unchanged" in node.run(*create(node, "a", source)).stderr
    assert node.run(*create(node, "a", source)).returncode == 0
    make_files(work / "other", 3, 10)
    error = refused(node, 4, *create(node, "a", work / "other"))
    assert str(work / "other") in error


def test_mount_folder_must_be_empty_and_free(node: LocalNode, source: Path, work: Path) -> None:
    full = work / "full"
    full.mkdir()
    (full / "file").touch()
    refused(node, 4, *create(node, "a", source, "--mount", str(full)))
    refused(node, 3, *create(node, "a", source, "--mount", str(work / "absent")))
    refused(node, 2, *create(node, "a", source, "--mount", str(full / "file")))
    refused(node, 2, *create(node, "a", source, "--mount", str(source / "0000")))
    folder = work / "mount"
    folder.mkdir()
    node.ok(*create(node, "a", source, "--mount", str(folder)))
    assert differences(snapshot(source), snapshot(folder)) == []
    refused(node, 4, *create(node, "b", source, "--mount", str(folder)))
    node.ok("cache", "unmount", str(folder))
    assert list(folder.iterdir()) == []
    node.ok("cache", "mount", "a", str(folder))
    assert str(folder) in node.ok("cache", "mounts")
    node.ok("cache", "delete", "a", "-y")
    assert list(folder.iterdir()) == []


def test_own_mounts_are_no_source(node: LocalNode, source: Path, work: Path) -> None:
    mount = node.create("a", source)
    refused(node, 2, *create(node, "b", mount))
    refused(node, 2, *create(node, "b", mount / "0000"))
    refused(node, 2, *create(node, "b", node.home))
    node.ok("cache", "delete", "a", "-y")


def test_no_space_in_the_memory_limit(node: LocalNode, source: Path) -> None:
    error = refused(node, 7, *create(node, "a", source, "--size", "900Gi"))
    assert "MEM" in error


def test_tier_without_space(node: LocalNode, source: Path, work: Path) -> None:
    small = work / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(small)], check=True)
    try:
        tier = small / "tier"
        error = refused(node, 7, *create(node, "a", source, "--tier", f"ssd:1Gi:{tier}"))
        assert str(tier) in error
        make_files(source, 60, 100_000)
        mount = node.create_on(source, f"ssd:10Mi:{tier}")
        # Somebody else fills the disk: the origin serves what does not fit.
        (small / "foreign").write_bytes(bytes(9 << 20))
        result = node.run("cache", "warm", "data")
        assert result.returncode == 8, result.stderr
        assert differences(snapshot(source), snapshot(mount)) == []
        assert node.status("data")["cachedPercentage"] < 100
        # And it goes on when there is space again.
        (small / "foreign").unlink()
        node.wait_for(
            lambda: node.run("cache", "warm", "data").returncode == 0, "the tier's recovery"
        )
        assert node.status("data")["cachedPercentage"] == 100
        node.ok("cache", "delete", "data", "-y")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_unmounted_tier_is_noticed(node: LocalNode, source: Path, work: Path) -> None:
    disk = work / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], check=True)
    mounted = True
    try:
        node.create_on(source, f"ssd:32Mi:{disk / 'tier'}")
        other = node.create("other", source)
        node.ok("node", "stop", "--force")
        subprocess.run(["umount", str(disk)], check=True)
        mounted = False
        status = node.status("data")
        assert status["phase"] == "Failed"
        assert any(str(disk) in item["message"] for item in status["conditions"])
        assert list(disk.iterdir()) == [], "something was written below the empty mount point"
        assert node.status("other")["phase"] == "Bound"
        assert differences(snapshot(source), snapshot(other)) == []
        node.ok("cache", "delete", "data", "-y", "--force")
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)


def shell_as(uid: int, command: str, path: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command as another user without any special right."""
    return subprocess.run(
        [command, str(path)],
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )


def test_another_user_of_a_system_node(node: LocalNode, source: Path, work: Path) -> None:
    node.create("mine", source)
    closed = work / "closed"
    make_files(closed, 3, 100)
    closed.chmod(0o700)
    refused_by = [
        (6, create(node, "theirs", closed)),
        (6, create(node, "theirs", source, "--tier", f"ssd:64Mi:{work / 'tier'}")),
        (3, ("cache", "get", "mine")),
        (3, ("cache", "delete", "mine", "-y")),
        (3, ("cache", "warm", "mine")),
    ]
    for code, arguments in refused_by:
        result = node.run(*arguments, uid=USER)
        assert result.returncode == code, (arguments, result.stderr)
    assert "mine" not in node.run("cache", "list", uid=USER).stdout

    home = work / "user-home"
    home.mkdir()
    os.chown(home, USER, USER)
    (source / "0000" / "0000003.bin").chmod(0o600)
    result = node.run(*create(node, "theirs", source, "--mount", str(home)), uid=USER)
    assert result.returncode == 0, result.stderr
    read = shell_as(USER, "cat", home / "0000" / "0000001.bin")
    assert read.stdout == (source / "0000" / "0000001.bin").read_bytes()
    secret = shell_as(USER, "cat", home / "0000" / "0000003.bin")
    assert b"Permission denied" in secret.stderr
    stranger = shell_as(USER + 1, "ls", home)
    assert b"Permission denied" in stranger.stderr
    assert node.run("cache", "delete", "theirs", "-y", uid=USER).returncode == 0
    node.ok("cache", "delete", "mine", "-y")


def in_own_mounts(node: LocalNode, script: str, *arguments: str) -> Any:
    """Run a shell script that may change mounts for itself alone."""
    path = f"{Path(node.atlasctl).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", script, "sh", *arguments],
        env={**os.environ, "ATLAS_HOME": str(node.home), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_without_fuse(node: LocalNode, work: Path, source: Path) -> None:
    """A machine without FUSE: a clear error, and no data set."""
    result = in_own_mounts(
        node,
        # A device number that no driver has: what opening it says is what a missing module says.
        'mknod "$2" c 10 1; mount --bind "$2" /dev/fuse; '
        'atlasctl cache create a --from "$1" --size 64Mi --medium MEM || echo "code $?"; '
        "atlasctl cache list -o name; atlasctl node stop --force",
        str(source),
        str(work / "no-driver"),
    )
    assert result.stdout == "code 10\n", (result.stdout, result.stderr)
    assert "/dev/fuse" in result.stderr
    assert "try: " in result.stderr


def test_not_root(node: LocalNode, work: Path, source: Path) -> None:
    """A user without a system node and without the right to mount: told what to do."""
    home = work / "user-home"
    home.mkdir()
    os.chown(home, USER, USER)
    own = LocalNode(home)
    interpreter = Path(sys.base_prefix)
    closed = [folder for folder in interpreter.parents if not folder.stat().st_mode & 0o001]
    script = (
        'mkdir "$4"; mount --bind "$2" "$4"; '
        'if [ -n "$3" ]; then mount -t tmpfs -o mode=755 none "$3"; mkdir -p "$2"; '
        'mount --bind "$4" "$2"; fi; '
        f"setpriv --reuid {USER} --regid {USER} --clear-groups "
        'atlasctl cache create a --from "$1" --size 64Mi --medium MEM || echo "code $?"; '
        f"setpriv --reuid {USER} --regid {USER} --clear-groups atlasctl cache list -o name; "
        f"setpriv --reuid {USER} --regid {USER} --clear-groups atlasctl node stop --force"
    )
    top = str(closed[-1]) if closed else ""
    result = in_own_mounts(own, script, str(source), str(interpreter), top, str(work / "python"))
    assert result.stdout == "code 10\n", (result.stdout, result.stderr)
    assert "/dev/fuse" in result.stderr
    assert "try: " in result.stderr
