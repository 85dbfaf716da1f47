"""What a user hears where Ray does not start, and what a Ray of this machine is told."""

import os
import socket

import pytest
import ray

from tune.cluster import ClusterError, connected


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
    with pytest.raises(ClusterError, match=message), connected(address):
        pass


@pytest.mark.parametrize(
    ("address", "own", "expected"), [("local", None, "lo"), ("local", "eth7", "eth7"), ("host:6379", None, None)]
)
def test_gloo_stays_on_loopback_under_a_ray_of_this_machine_alone(monkeypatch, address, own, expected):
    seen = []

    def refuse(**how):
        seen.append(os.environ.get("GLOO_SOCKET_IFNAME"))
        raise Exception("The node timed out.")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth7")])
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if own:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    with pytest.raises(ClusterError), connected(address):
        pass
    assert seen == [expected]
    assert os.environ.get("GLOO_SOCKET_IFNAME") == own  # a cluster joined later is not told
