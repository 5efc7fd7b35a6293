"""Where a node keeps its things."""

import os
import socket
import stat
from pathlib import Path

import pytest

from atlas.api import environment
from atlas.api.environment import client_home, own_folder, own_home, prepare
from atlas.api.errors import INVALID, UNTRUSTED, AtlasError


def test_atlas_home_holds_everything(tmp_path: Path) -> None:
    home = own_home({"ATLAS_HOME": str(tmp_path)}, uid=0)
    assert home.socket == tmp_path / "run/node.sock"
    assert home.mounts == tmp_path / "run/mnt"
    assert home.database == tmp_path / "state/atlas.db"
    assert home.node_log == tmp_path / "log/node.log"
    assert home.tier("SSD") == tmp_path / "tiers/ssd"
    assert home.tier("MEM").parent == home.live.parent


def test_two_homes_have_two_memory_tiers_and_one_has_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    names = ["a", "b", "link/a", "a/"]
    a, b, linked, slash = (
        own_home({"ATLAS_HOME": f"{tmp_path}/{name}"}).memory_tier for name in names
    )
    assert a != b
    assert a == linked == slash


def test_a_system_node_and_a_user_s_own() -> None:
    assert str(own_home({}, uid=0).socket) == "/run/atlas/node.sock"
    home = own_home({"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}, uid=7)
    assert str(home.socket) == "/run/user/7/atlas/node.sock"
    assert str(home.database) == "/home/u/.local/state/atlas/atlas.db"
    assert str(home.tier("HDD")) == "/home/u/.cache/atlas/tiers/hdd"


@pytest.mark.parametrize("variables", [{"ATLAS_HOME": "x"}, {}, {"HOME": "x"}])
def test_relative_or_missing_folders_are_invalid(variables: dict[str, str]) -> None:
    with pytest.raises(AtlasError) as caught:
        own_home(variables, uid=7)
    assert caught.value.kind is INVALID


def test_users_talk_to_the_system_s_node_where_root_runs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "SYSTEM_RUN", tmp_path)
    variables = {"HOME": "/home/u"}
    assert client_home(variables, uid=7) == own_home(variables, uid=7)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "node.sock"))
        owner = os.stat(tmp_path / "node.sock").st_uid
        system = client_home(variables, uid=7).run == tmp_path
        assert system == (owner == 0)
    named = {**variables, "ATLAS_HOME": str(tmp_path / "other")}
    assert client_home(named, uid=7).run == tmp_path / "other/run"


def test_folders_are_made_closed_and_links_are_refused(tmp_path: Path) -> None:
    home = own_home({"ATLAS_HOME": str(tmp_path / "home")})
    try:
        prepare(home)
        modes = {
            folder: stat.S_IMODE(folder.stat().st_mode)
            for folder in (home.run, home.mounts, home.state, home.log, home.tiers, home.live)
        }
        assert modes[home.run] == modes[home.mounts] == 0o755
        assert set(modes.values()) == {0o755, 0o700}
    finally:
        home.live.rmdir()
        home.shared_memory.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(AtlasError) as caught:
        own_folder(tmp_path / "link", 0o700)
    assert caught.value.kind is UNTRUSTED


def test_every_variable_is_declared_once() -> None:
    names = [variable.name for variable in environment.VARIABLES]
    assert len(names) == len(set(names))
    assert all(variable.meaning and variable.since for variable in environment.VARIABLES)
