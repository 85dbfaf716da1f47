"""Nodes that join while a study waits for them, as the autoscaler starts them: a bad one stops it."""

import os
import subprocess
import time
from pathlib import Path

import mlflow
import pytest
import yaml
from ray.cluster_utils import Cluster

from ablations.study.study import load_study

pytestmark = pytest.mark.slow
WAITING = "no node can run trials yet"


@pytest.fixture
def head(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever an earlier test of this process has left there
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def home(tmp_path):
    """A home folder like that of a head whose autoscaler may start workers: without one, a study would not wait."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".ray").symlink_to(Path.home() / ".ray")
    workers = {"head": {"max_workers": 0}, "worker": {"max_workers": 2, "resources": {"CPU": 2}}}
    config = {"head_node_type": "head", "available_node_types": workers}
    (tmp_path / "home" / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "home"


@pytest.fixture
def bad_packages(tmp_path):
    """A folder that makes torch look like another version."""
    info = tmp_path / "packages" / "torch-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: torch\nVersion: 1.0\n")
    return {"PYTHONPATH": str(info.parent)}


def study_with_a_node_that_joins(head, home, arguments, log, **node):
    """Exit code and output of a study that waits for a node, which then joins and is removed at the end."""
    environment = {**os.environ, "HOME": str(home)}
    with log.open("w") as file:
        study = subprocess.Popen(arguments, cwd=log.parent, env=environment, stdout=file, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while WAITING not in log.read_text():
        assert study.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    joined = head.add_node(num_cpus=2, **node)
    try:
        return study.wait(300), log.read_text()
    finally:
        study.kill()
        head.remove_node(joined, allow_graceful=True)


def test_a_bad_node_stops_the_study_and_a_good_one_runs_it(head, home, bad_packages, command, tmp_path):
    output = tmp_path / "outputs"

    def run(name, seeds, **node):
        what = ("--study", "center", "--dataset", "simulated", "--folds", 1, "--no-models", "--seeds", seeds)
        arguments = command(*what, "--output", output, "--address", head.address)
        return study_with_a_node_that_joins(head, home, arguments, tmp_path / name, **node)

    code, said = run("floors on a bad node", 1, env_vars=bad_packages)
    assert code == 2, said
    assert "a node that joined meanwhile cannot run trials of this study" in said
    assert "torch 1.0, the driver has 2." in said
    assert "Traceback" not in said

    code, said = run("a good node", 1)
    assert code == 0, said

    code, said = run("trials on a bad node", 2, env_vars=bad_packages)
    assert code == 2, said
    assert "torch 1.0, the driver has 2." in said
    assert "Traceback" not in said
    n_trials = len(load_study("center").levels)
    assert sorted(statuses(output)) == ["FINISHED"] * n_trials + ["KILLED"] * (len(statuses(output)) - n_trials)
    assert not list((output / "checkpoints").glob(".nodes*"))


def statuses(output):
    store = mlflow.MlflowClient(f"sqlite:///{output}/mlflow.db")
    experiment = store.get_experiment_by_name("causalged")
    return [r.info.status for r in store.search_runs([experiment.experiment_id], "tags.`cgd.kind` = 'trial'")]
