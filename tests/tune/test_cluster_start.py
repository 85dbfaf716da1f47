"""What a user hears where Ray does not start."""

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
