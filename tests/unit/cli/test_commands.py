"""What the commands do, in all the ways that they can end."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from atlas.api import errors, models
from unit.cli.conftest import Ended
from unit.cli.fake_node import FakeNode, dataset

Atlasctl = Callable[..., Ended]
NEW = ("cache", "create", "new", "--from", "/a", "--size", "1Gi")


@pytest.fixture(autouse=True)
def two_datasets(request: pytest.FixtureRequest) -> None:
    if "node" in request.fixturenames:
        node: FakeNode = request.getfixturevalue("node")
        node.datasets = {"wav": dataset("wav"), "images": dataset("images")}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "json", "cache", "list"), ("cache", "-o", "json", "list"),
        ("cache", "list", "-o", "json"), ("cache", "list", "--output=json"),
        ("-o", "yaml", "cache", "list", "-ojson"),
    ],
)  # fmt: skip
def test_global_options_stand_anywhere(
    node: FakeNode, atlasctl: Atlasctl, arguments: tuple[str, ...]
) -> None:
    assert json.loads(atlasctl(*arguments).out)["kind"] == "DatasetList"


def test_quiet_leaves_data(node: FakeNode, atlasctl: Atlasctl) -> None:
    ended = atlasctl(*NEW)
    assert ended.out == "/run/atlas/mnt/new\n"
    assert "created" in ended.err
    ended = atlasctl(*NEW, "-q")
    assert (ended.code, ended.out, ended.err) == (0, "/run/atlas/mnt/new\n", "")


def test_create_again_is_unchanged(node: FakeNode, atlasctl: Atlasctl) -> None:
    ended = atlasctl("cache", "create", "wav", "--from", "/lustre/wav", "--size", "2Gi")
    assert ended.code == 0
    assert "unchanged" in ended.err


def test_verbose_shows_the_requests(node: FakeNode, atlasctl: Atlasctl) -> None:
    assert "GET /v1/datasets -> 200" in atlasctl("cache", "list", "-v").err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("cahce", "list"), "Did you mean 'cache'?"),
        (("cache", "lst"), "Did you mean 'list'?"),
        (("cache", "laod", "wav"), "Did you mean 'load'?"),
        (("cache", "create", "new", "--sise", "1Gi"), "--size"),
        (("cache", "list", "-o", "tabel"), "Did you mean 'table'?"),
        (("cache", "get", "wv"), "did you mean 'wav'?"),
        (("cache", "warm", "imges"), "did you mean 'images'?"),
        (("cache", "delete", "imags", "-y"), "did you mean 'images'?"),
        (("cache", "events", "wavv"), "did you mean 'wav'?"),
        (("cache", "mount", "wavv", "/mnt"), "did you mean 'wav'?"),
        (("cache", "update", "wavv", "--front", "live"), "did you mean 'wav'?"),
        (("cache", "update", "wav", "--fornt", "live"), "--front"),
    ],
)
def test_the_nearest_match(
    node: FakeNode, atlasctl: Atlasctl, arguments: tuple[str, ...], hint: str
) -> None:
    ended = atlasctl(*arguments)
    assert ended.code in (2, 3)
    assert hint in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("cache", "create", "new"), ("cache", "create", "--from", "/a", "--size", "1Gi"),
        ("cache", "create", "new", "--from", "/a"),
        ("cache", "create", "new", "--from", "/a", "--from", "/b", "--size", "1Gi"),
        ("cache", "create", "new", "--from", "s3://bucket", "--size", "1Gi"),
        ("cache", "create", "new", "--from", "/a", "--size", "0"),
        ("cache", "create", "new", "--from", "/a", "--size", "1Gi", "--medium", "MEM,SSD"),
        ("cache", "create", "new", "--from", "/a", "--size", "1Gi", "--tier", "mem:1Gi"),
        ("cache", "create", "new", "--from", "/a", "--tier", "disk:1Gi"),
        ("cache", "create", "new", "--from", "/a", "--tier", "ssd"),
        ("cache", "create", "new", "--from", "/a", "--tier", "ssd:big"),
        ("cache", "create", "new", "--from", "/a", "--tier", "ssd:1Gi", "--tier", "mem:1Gi"),
        ("cache", "create", "New_", "--from", "/a", "--size", "1Gi"),
        ("cache", "create", "new", "--from", "/\udcff", "--size", "1Gi"),
        ("cache", "create", "new", "-f", "/nowhere/file"),
        ("cache", "create", "new", "--from", "/a", "--size", "1Gi", "--front", "fast"),
        ("cache", "update", "wav"), ("cache", "update", "--front", "live"),
        ("cache", "update", "wav", "--front", "fast"),
        ("cache", "warm"), ("cache", "warm", "wav:relative"), ("cache", "warm", "wav:"),
        ("cache", "warm", "wav", "-p", "0"), ("cache", "warm", "wav", "--bwlimit", "fast"),
        ("cache", "warm", "wav", "--stop", "-p", "2"),
        ("cache", "warm", "wav", "--progress=json", "-o", "json"),
        ("cache", "list", "--timeout", "0"), ("cache", "list", "--timeout", "soon"),
        ("cache", "list", "-o", "jsonpath={.a"), ("cache", "list", "-o", "json=x"),
        ("cache", "delete", "wav", "-o", "wide"), ("cache", "get"), ("cache", "get", "a", "b"),
        (), ("cache",), ("node",),
    ],
)  # fmt: skip
def test_usage(node: FakeNode, atlasctl: Atlasctl, arguments: tuple[str, ...]) -> None:
    ended = atlasctl(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err
    assert [request for request in node.requests if not request.startswith("GET")] == []


def test_an_error_says_all_there_is_to_say(node: FakeNode, atlasctl: Atlasctl) -> None:
    node.refuse(
        "POST /v1/datasets",
        errors.AtlasError(
            errors.CONFLICT,
            "data set wav exists and differs",
            "it was created with other settings",
            "atlasctl cache describe wav",
            "data set wav stays as it is",
            ["quota: 1073741824 -> 2147483648"],
        ),
    )
    wish = ("cache", "create", "wav", "--from", "/a", "--size", "2Gi")
    ended = atlasctl(*wish)
    assert ended.code == 4
    assert ended.err == (
        "error: data set wav exists and differs\n"
        "cause: it was created with other settings\n"
        "  quota: 1073741824 -> 2147483648\n"
        "unchanged: data set wav stays as it is\n"
        "try: atlasctl cache describe wav\n"
        "docs: ATL2003 (docs/errors.md#atl2003)\n"
    )


def test_usage_errors_are_objects_too(node: FakeNode, atlasctl: Atlasctl) -> None:
    for arguments in (("cache", "get", "-o", "json"), ("-ojson", "cache", "nonsense")):
        ended = atlasctl(*arguments)
        assert ended.code == 2
        assert json.loads(ended.err)["error"]["exitCode"] == 2


def test_a_defect_is_no_traceback(
    node: FakeNode, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("atlas.cli.session.Client.datasets", broken)
    ended = atlasctl("cache", "list")
    assert ended.code == 1
    assert "planted" in ended.err
    assert "Traceback" not in ended.err
    assert "Traceback" in atlasctl("cache", "list", "-vv").err


def test_nothing_from_elsewhere_reaches_the_terminal(node: FakeNode, atlasctl: Atlasctl) -> None:
    nasty = "/a\x1b]0;title\x07\x1b[2J\x9b1m\u202e[red]x[/red]\r\ny"
    found = dataset(
        "wav",
        mount_path=nasty,
        mount_paths=[nasty],
        front_reason=nasty,
        scan=models.ScanStatus(state="Partial", error=nasty),
        leaving_links=models.LeavingLinks(count=1, names=[nasty]),
    )
    found.spec.mounts[0].source = nasty
    node.datasets["wav"] = found
    node.events = [
        models.Event(
            dataset="wav", time="2026-01-02T03:04:05Z", type="Normal", reason=nasty, message=nasty
        )
    ]
    node.mounts = [
        models.Mount(metadata=models.Metadata(), spec=models.MountSpec(dataset="wav", path=nasty))
    ]
    commands = [
        ("cache", "list"), ("cache", "get", "wav"), ("cache", "describe", "wav"),
        ("cache", "events", "wav"), ("cache", "mounts"), ("cache", "unmount", "wav"), ("doctor",),
        ("cache", "create", "wav", "--from", "/a", "--size", "1Gi"),
    ]  # fmt: skip
    for command in commands:
        for output in ("table", "wide", "json", "yaml", "name", "jsonpath={$.}{.items}{.spec}"):
            ended = atlasctl(*command, "-o", output)
            for character in ended.out + ended.err:
                assert character.isprintable() or character == "\n", (command, output, ended)
            assert "\ny\n" not in ended.out
    node.refuse("GET /v1/datasets", errors.AtlasError(errors.INTERNAL, nasty, nasty, nasty, nasty))
    ended = atlasctl("cache", "list")
    assert "\x1b" not in ended.err
    assert "[red]x[/red]" in ended.err


def test_jsonpath(node: FakeNode, atlasctl: Atlasctl) -> None:
    ended = atlasctl("cache", "list", "-o", 'jsonpath={.items[*].metadata.name}{"\\n"}end')
    assert ended.out == "wav images\nend\n"
    assert atlasctl("cache", "get", "wav", "-o", "jsonpath={.status.files}").out == "4212\n"


class TestWithoutANode:
    """Nothing is started where nothing was ever kept."""

    def test_list_is_empty(self, home: Path, atlasctl: Atlasctl) -> None:
        ended = atlasctl("cache", "list")
        assert (ended.code, ended.out) == (0, "")
        assert "No data sets" in ended.err
        assert json.loads(atlasctl("cache", "list", "-o", "json").out)["items"] == []
        assert list(home.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ("cache", "get", "wav"), ("cache", "describe", "wav"), ("cache", "events", "wav"),
            ("cache", "warm", "wav"), ("cache", "delete", "wav", "-y"),
            ("cache", "mount", "wav", "/mnt"), ("cache", "unmount", "wav"),
            ("cache", "unmount", "/mnt"),
        ],
    )  # fmt: skip
    def test_nothing_is_found(
        self, home: Path, atlasctl: Atlasctl, arguments: tuple[str, ...]
    ) -> None:
        assert atlasctl(*arguments).code == 3
        assert list(home.iterdir()) == []

    def test_the_rest(self, home: Path, atlasctl: Atlasctl) -> None:
        assert atlasctl("cache", "delete", "wav", "--ignore-not-found").code == 0
        assert atlasctl("cache", "mounts").code == 0
        assert atlasctl("node", "stop").code == 0
        assert atlasctl("node", "describe").code == 10
        assert "not running" in atlasctl("version").out
        assert list(home.iterdir()) == []


HEAD = '{"apiVersion": "atlas.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "a"}'


class TestFiles:
    """`create -f`."""

    def test_what_get_prints_can_be_created(
        self, node: FakeNode, atlasctl: Atlasctl, tmp_path: Path
    ) -> None:
        for output in ("yaml", "json"):
            file = tmp_path / output
            file.write_text(atlasctl("cache", "get", "wav", "-o", output).out)
            assert atlasctl("cache", "create", "-f", str(file)).code == 0
            sent = json.loads(node.bodies[-1])
            assert sent["metadata"]["name"] == "wav"
            assert sent["metadata"]["uid"] is None
            assert sent["spec"]["mounts"] == [{"source": "/lustre/wav", "path": "/"}]

    def test_what_dry_run_prints_can_be_created(
        self, node: FakeNode, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wish = (
            "cache",
            "create",
            "new",
            "--from",
            "/a",
            "--tier",
            "hdd:1Ti:/disk",
            "--include",
            "y",
        )
        shown = atlasctl(*wish, "--dry-run=client").out
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(shown.encode())))
        assert atlasctl("cache", "create", "new", "-f", "-").code == 0
        assert json.loads(node.bodies[-1])["spec"]["tiers"] == [
            {"medium": "HDD", "quota": 1 << 40, "paths": ["/disk"]}
        ]

    def test_sizes_may_have_units(self, node: FakeNode, atlasctl: Atlasctl, tmp_path: Path) -> None:
        file = tmp_path / "object"
        file.write_text(
            "apiVersion: atlas.io/v1alpha1\nkind: Dataset\nmetadata:\n  name: new\n"
            "  creationTimestamp: 2026-01-02T03:04:05Z\nspec:\n  mounts:\n  - source: /a\n"
            "  tiers:\n  - medium: MEM\n    quota: 40Gi\n"
        )
        assert atlasctl("cache", "create", "-f", str(file)).code == 0
        assert json.loads(node.bodies[-1])["spec"]["tiers"][0]["quota"] == 40 << 30

    @pytest.mark.parametrize(
        "content",
        [
            "", "[]", "{", "a: b: c", "\x00", "kind: Dataset", "!!python/object:os.system {}",
            "a: " + "[" * 3000,
            HEAD + "}", HEAD.replace("Dataset", "DataLoad") + "}",
            HEAD + ', "spec": {"mounts": [{"source": "/a"}], "tiers": [], "wish": 1}}',
            HEAD + ', "spec": {"mounts": [{"source": "/a"}], "tiers": [{"quota": "x"}]}}',
        ],
    )  # fmt: skip
    def test_nonsense(
        self, node: FakeNode, atlasctl: Atlasctl, tmp_path: Path, content: str
    ) -> None:
        file = tmp_path / "object"
        file.write_text(content)
        ended = atlasctl("cache", "create", "-f", str(file))
        assert ended.code == 2, ended
        assert node.bodies == []

    def test_options_do_not_mix_with_a_file(
        self, node: FakeNode, atlasctl: Atlasctl, tmp_path: Path
    ) -> None:
        file = tmp_path / "object"
        file.write_text(atlasctl("cache", "get", "wav", "-o", "yaml").out)
        ended = atlasctl("cache", "create", "-f", str(file), "--from", "/a", "--size", "1Gi")
        assert ended.code == 2
        assert "--from, --size" in ended.err
        assert atlasctl("cache", "create", "other", "-f", str(file)).code == 2


class TestCreate:
    def test_relative_folders_are_the_callers(
        self, node: FakeNode, atlasctl: Atlasctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert atlasctl(
            "cache", "create", "new", "--from", "data", "--size", "1Gi", "--mount", "./here"
        ).code == 0  # fmt: skip
        assert json.loads(node.bodies[-1])["spec"]["mounts"][0]["source"] == f"{tmp_path}/data"
        assert any("mount=" in request and "here" in request for request in node.requests)

    def test_a_folder_above_is_the_one_that_the_kernel_means(
        self, node: FakeNode, atlasctl: Atlasctl, tmp_path: Path
    ) -> None:
        (tmp_path / "far" / "folder").mkdir(parents=True)
        (tmp_path / "link").symlink_to(tmp_path / "far" / "folder")
        source = str(tmp_path / "link" / "..")
        ended = atlasctl(
            "cache", "create", "up", "--from", source, "--size", "1Gi", "--dry-run=client"
        )
        assert yaml.safe_load(ended.out)["spec"]["mounts"][0]["source"] == f"{tmp_path}/far"

    @pytest.mark.parametrize(
        "arguments", [(*NEW, "--mount", ""), ("cache", "create", "new", "--from", "", "--size=1Gi")]
    )
    def test_a_variable_that_is_not_set_is_no_folder(
        self, node: FakeNode, atlasctl: Atlasctl, arguments: tuple[str, ...]
    ) -> None:
        ended = atlasctl(*arguments)
        assert (ended.code, "is empty" in ended.err) == (2, True)
        assert set(node.datasets) == {"wav", "images"}

    def test_client_dry_run_asks_nobody(self, home: Path, atlasctl: Atlasctl) -> None:
        ended = atlasctl(
            "cache", "create", "new", "--from", "/a", "--size", "1Gi", "--dry-run=client"
        )
        shown = yaml.safe_load(ended.out)
        assert shown["spec"]["tiers"][0] == {"medium": "MEM", "quota": 1 << 30, "paths": []}
        assert "status" not in shown
        assert list(home.iterdir()) == []

    def test_server_dry_run_creates_nothing(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        ended = atlasctl(
            "cache", "create", "new", "--from", "/a", "--size", "1Gi", "--dry-run=server"
        )
        assert ended.code == 0
        assert "would be created" in ended.err
        assert "new" not in node.datasets


class TestDelete:
    def test_without_a_terminal_it_must_be_confirmed_beforehand(
        self, node: FakeNode, atlasctl: Atlasctl
    ) -> None:
        ended = atlasctl("cache", "delete", "wav")
        assert ended.code == 2
        assert "-y" in ended.err
        assert "wav" in node.datasets
        ended = atlasctl("cache", "delete", "wav", "-y")
        assert ended.code == 0
        assert "1.50GiB left MEM" in ended.err
        assert "wav" not in node.datasets
        assert atlasctl("cache", "delete", "wav", "-y").code == 3
        assert atlasctl("cache", "delete", "wav", "-y", "--ignore-not-found").code == 0

    def test_in_use(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        node.refuse(
            "DELETE", errors.AtlasError(errors.IN_USE, "wav is in use", details=["python (pid 7)"])
        )
        ended = atlasctl("cache", "delete", "wav", "-y")
        assert ended.code == 4
        assert "python (pid 7)" in ended.err

    def test_forced_it_is_released_later(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        node.deletion.releasing = True
        ended = atlasctl("cache", "delete", "wav", "-y", "--force")
        assert "force=true" in node.requests[-1]
        assert "when its last user leaves" in ended.err

    @pytest.mark.parametrize("where", ["client", "server"])
    def test_dry_run(self, node: FakeNode, atlasctl: Atlasctl, where: str) -> None:
        node.deletion.holders = [models.Holder(pid=7, command="python", use="open file")]
        ended = atlasctl("cache", "delete", "wav", f"--dry-run={where}")
        assert ended.code == 0
        assert ("python (pid 7, open file)" in ended.err) == (where == "server")
        assert "wav" in node.datasets


class TestMounts:
    def test_a_folder_is_told_from_a_name_by_its_slash(
        self, node: FakeNode, atlasctl: Atlasctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for target, query in (("wav", "dataset=wav"), ("./wav", "path=")):
            assert atlasctl("cache", "unmount", target, "--force").code == 0
            assert query in node.requests[-1]
            assert "force=true" in node.requests[-1]

    def test_client_dry_runs_change_nothing(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        assert atlasctl("cache", "mount", "wav", "/a", "--dry-run=client").code == 0
        assert atlasctl("cache", "unmount", "/a", "--dry-run=client").code == 0
        assert all(request.startswith("GET") for request in node.requests)


class TestNode:
    def test_start_is_idempotent(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        ended = atlasctl("node", "start")
        assert ended.code == 0
        assert "already running" in ended.err

    def test_stop(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        holders = errors.AtlasError(errors.IN_USE, "wav is in use", details=["python (pid 7)"])
        node.refuse("POST /v1/node/stop", holders)
        ended = atlasctl("node", "stop")
        assert ended.code == 4
        assert "python (pid 7)" in ended.err
        assert atlasctl("node", "stop", "--force").code == 0
        assert "POST /v1/node/stop?force=true" in node.requests
        assert node.stopped.is_set()

    def test_another_api_is_a_clear_error(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        node.api, node.node_version = "9", "7.0.0"
        for command in (("cache", "list"), ("version",), ("node", "describe")):
            ended = atlasctl(*command)
            assert ended.code == 10
            assert "7.0.0" in ended.err
            assert "API 9" in ended.err

    def test_a_broken_answer_is_temporary(self, node: FakeNode, atlasctl: Atlasctl) -> None:
        node.refuse("GET /v1/datasets", None)
        assert atlasctl("cache", "list").code == 5

    def test_a_node_that_cannot_start_is_reported(
        self, home: Path, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Python that ends at once instead of a keeper: no hang, and the log's place."""
        monkeypatch.setattr("sys.executable", "/bin/false")
        ended = atlasctl("cache", "create", "new", "--from", "/a", "--size", "1Gi")
        assert ended.code == 10
        assert "node.log" in ended.err
        (home / "state").mkdir()
        (home / "state" / "atlas.db").touch()
        assert atlasctl("cache", "list").code == 10


def test_a_state_folder_without_a_node_needs_one(
    home: Path, atlasctl: Atlasctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def start_node(found: object, seconds: float) -> bool:
        asked.append(found)
        raise errors.AtlasError(errors.NOT_READY, "planted")

    monkeypatch.setattr("atlas.api.launch.start_node", start_node)
    os.makedirs(home / "state")
    (home / "state" / "atlas.db").touch()
    assert atlasctl("cache", "list").code == 10
    assert len(asked) == 1
