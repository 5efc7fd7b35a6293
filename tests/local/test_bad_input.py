"""What cannot be done is refused: a clear error, the right exit code, and nothing left behind."""

import os
import subprocess
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
    defaults = {"--size": "64Mi", "--medium": "MEM"}
    for option in options[::2]:
        defaults.pop(option, None)
    pairs = [part for pair in defaults.items() for part in pair]
    return ("cache", "create", name, "--from", str(source), *pairs, *options)


def refused(node: LocalNode, code: int, *arguments: str, **options: Any) -> str:
    """Run a command that must fail with `code`, and leave everything as it was."""
    before = _state(node)
    result = node.run(*arguments, **options)
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


def test_tier_without_space_serves_from_the_origin(
    node: LocalNode, source: Path, work: Path
) -> None:
    small = work / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)], check=True)
    try:
        make_files(source, 100, 100_000)
        mount = node.create_on(source, f"ssd:1Gi:{small / 'tier'}")
        result = node.run("cache", "warm", "data")
        assert result.returncode == 8, result.stderr
        assert differences(snapshot(source), snapshot(mount)) == []
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


def test_another_user_of_a_system_node(node: LocalNode, source: Path, work: Path) -> None:
    node.create("mine", source)
    closed = work / "closed"
    make_files(closed, 3, 100)
    closed.chmod(0o700)
    as_user = {"user": USER, "group": USER, "extra_groups": []}
    refused_by = [
        (6, create(node, "theirs", closed)),
        (6, create(node, "theirs", source, "--tier", f"ssd:64Mi:{work / 'tier'}")),
        (3, ("cache", "get", "mine")),
        (3, ("cache", "delete", "mine", "-y")),
        (3, ("cache", "warm", "mine")),
    ]
    for code, arguments in refused_by:
        result = node.run(*arguments, **as_user)
        assert result.returncode == code, (arguments, result.stderr)
    assert "mine" not in node.run("cache", "list", **as_user).stdout

    home = work / "user-home"
    home.mkdir()
    os.chown(home, USER, USER)
    (source / "0000" / "0000003.bin").chmod(0o600)
    result = node.run(*create(node, "theirs", source, "--mount", str(home)), **as_user)
    assert result.returncode == 0, result.stderr
    read = subprocess.run(
        ["cat", str(home / "0000" / "0000001.bin")],
        capture_output=True, check=False, **as_user,  # type: ignore[call-overload]
    )
    assert read.stdout == (source / "0000" / "0000001.bin").read_bytes()
    secret = subprocess.run(
        ["cat", str(home / "0000" / "0000003.bin")],
        capture_output=True, text=True, check=False, **as_user,  # type: ignore[call-overload]
    )
    assert "Permission denied" in secret.stderr
    # Not even through root's warm copy of it: the owner's data set is read as its owner.
    stranger = subprocess.run(
        ["ls", str(home)], capture_output=True, text=True, check=False,
        user=USER + 1, group=USER + 1, extra_groups=[],
    )
    assert "Permission denied" in stranger.stderr
    assert node.run("cache", "delete", "theirs", "-y", **as_user).returncode == 0
    node.ok("cache", "delete", "mine", "-y")


def test_without_fuse(work: Path, source: Path) -> None:
    """No /dev/fuse: a clear error, and no data set."""
    if os.geteuid() != 0:
        pytest.skip("needs root: hides /dev/fuse in a mount namespace of its own")
    home = work / "home"
    script = (
        "mount --bind /dev/null /dev/fuse && "
        'atlasctl cache create a --from "$1" --size 64Mi --medium MEM; echo "code $?"; '
        'atlasctl cache list -o name; atlasctl node stop --force'
    )
    node = LocalNode(home)
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(source)],
        env={**os.environ, "ATLAS_HOME": str(home),
             "PATH": f"{Path(node.atlasctl).parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False, timeout=120,
    )
    assert "code 0" not in result.stdout
    assert "code 10" in result.stdout or "code 6" in result.stdout, (result.stdout, result.stderr)
    assert "/dev/fuse" in result.stderr
    assert "dataset" not in result.stdout
    node.end()


def test_not_root(work: Path, source: Path) -> None:
    """A user without a system node and without FUSE rights: told what to do."""
    if os.geteuid() != 0:
        pytest.skip("needs root: becomes another user")
    home = work / "user-home"
    home.mkdir()
    os.chown(home, USER, USER)
    node = LocalNode(home)
    result = node.run(
        *create(node, "a", source), user=USER, group=USER, extra_groups=[]
    )
    assert result.returncode in (6, 10), (result.stdout, result.stderr)
    assert "try: " in result.stderr
    assert node.run("cache", "list", "-o", "name", user=USER, group=USER,
                    extra_groups=[]).stdout == ""
    node.run("node", "stop", "--force", user=USER, group=USER, extra_groups=[])
