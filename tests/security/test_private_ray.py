"""Ray on this machine: where it listens, where its files lie, who can read its token."""

import os
import stat

import pytest
import ray
from watched import is_local

from tune.cluster import private_ray
from tune.cluster.connection import connect
from tune.cluster.private_ray import ClusterError, listen_on_loopback, make_session_folder, protect_token


def test_a_local_ray_listens_on_loopback_alone(watched_study):
    names = {name for name, _ in watched_study.listening}
    assert {"gcs_server", "raylet"} <= names, "what was watched is not all of Ray"
    assert len(names) >= 4  # the driver, agents and workers listen as well
    assert {(name, ip) for name, ip in watched_study.listening if not is_local(ip)} == set()


def test_a_ray_that_does_not_listen_on_loopback_is_refused(monkeypatch):
    stopped = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    monkeypatch.setattr(ray, "shutdown", lambda: stopped.append(True))
    with pytest.raises(ClusterError, match=r"listens on 192\.0\.2\.7"), listen_on_loopback():
        pass
    assert stopped


def test_the_folder_of_its_sessions_is_closed_to_others(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    given = []

    def started(**how):
        given.append(how["_temp_dir"])
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr("tune.cluster.connection.protect_token", lambda make: None)
    with pytest.raises(ClusterError), connect("local"):
        pass
    (folder,) = tmp_path.iterdir()
    assert given == [f"{folder}/ray"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("planted", ["open", "link", "file"])
def test_a_folder_that_others_planted_is_refused(tmp_path, monkeypatch, planted):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = tmp_path / f"ray-{os.getuid()}"
    if planted == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif planted == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    else:
        folder.write_text("")
    with pytest.raises(ClusterError, match="RAY_TMPDIR"):
        make_session_folder()


def test_a_study_keeps_its_sessions_there(watched_study):
    (folder,) = watched_study.sessions.iterdir()
    assert folder.name == f"ray-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "ray" / "session_latest" / "logs").is_dir()


def test_the_token_is_made_for_the_user_alone(watched_study):
    token = watched_study.home / ".ray" / "auth_token"
    assert len(token.read_text()) >= 32
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_token_that_ray_wrote_for_all_to_read_is_closed(tmp_path, monkeypatch):
    _at_home(tmp_path, monkeypatch)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("known")
    token.chmod(0o644)
    protect_token(make=False)
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("known", 0o600)


def test_a_command_that_joins_a_cluster_makes_no_token(tmp_path, monkeypatch):
    _at_home(tmp_path, monkeypatch)
    protect_token(make=False)
    assert list(tmp_path.iterdir()) == []


def test_of_two_commands_the_token_of_the_first_stays(tmp_path, monkeypatch):
    _at_home(tmp_path, monkeypatch)
    token = tmp_path / ".ray" / "auth_token"
    protect_token(make=True)
    first = token.read_text()
    private_ray._write_token(token)  # what another command does that looked before the first had written
    assert token.read_text() == first
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def _at_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
