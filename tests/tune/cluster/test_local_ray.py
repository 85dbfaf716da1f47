"""What a user hears where Ray does not start, and what a Ray of this machine is told."""

import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import ray

from tune.cluster import private_ray
from tune.cluster.connection import ClusterError, connect
from tune.cluster.private_ray import make_session_folder


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("local", "Ray did not start on this machine: The node timed out. Give the same command again"),
        ("host:6379", "no Ray cluster at 'host:6379': The node timed out.. Give the address"),
    ],
)
def test_a_ray_that_does_not_start_is_no_crash(monkeypatch, address, message):
    def refuse(**how):
        raise Exception("The node timed out.")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=message), connect(address):
        pass


def test_a_folder_too_deep_for_sockets_is_said(monkeypatch, tmp_path):
    """By Ray itself; a machine that is less busy would not help."""
    deep = tmp_path / ("x" * 80)
    deep.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with pytest.raises(ClusterError, match=r"AF_UNIX .*\. Set RAY_TMPDIR to a shorter folder$"), connect("local", 1):
        pass
    assert not ray.is_initialized()


def test_on_a_mac_sessions_lie_outside_the_users_deep_folder(monkeypatch, tmp_path):
    asked = []
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(private_ray.sys, "platform", "darwin")
    monkeypatch.setattr(private_ray.tempfile, "gettempdir", lambda: str(tmp_path / ("x" * 80)))
    monkeypatch.setattr(private_ray.Path, "mkdir", lambda folder, **how: asked.append(folder))
    with suppress(ClusterError):  # it was not made
        make_session_folder()
    assert asked == [Path("/tmp").resolve() / f"ray-{os.getuid()}"]


@pytest.mark.parametrize(
    ("address", "own", "expected"), [("local", None, "lo"), ("local", "eth7", "eth7"), ("host:6379", None, None)]
)
def test_gloo_is_on_loopback_only_under_a_ray_of_this_machine(monkeypatch, address, own, expected):
    seen = []

    def refuse(**how):
        seen.append(os.environ.get("GLOO_SOCKET_IFNAME"))
        raise Exception("The node timed out.")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth7")])
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if own:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    with pytest.raises(ClusterError), connect(address):
        pass
    assert seen == [expected]
    assert os.environ.get("GLOO_SOCKET_IFNAME") == own  # a cluster joined later is not told
