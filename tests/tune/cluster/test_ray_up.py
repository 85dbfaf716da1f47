"""`cluster.local.yaml` brought up for real on two machines made here: its own commands, a study, and down again."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import machines as lan
import mlflow
import pytest
import yaml

from ablations.study.study import load_study

ROOT = Path(__file__).parents[3]
TINY = """
data: {min_genes_per_spot: 1}
model: {width: 16, depth: 1, latent_dim: 8, hidden_dim: 16, n_heads: 2}
diffusion: {n_timesteps: 50}
sampling: {n_samples: 1, n_steps: 3, n_ensemble: 1}
train: {epochs: 2, steps_per_epoch: 2, batch_size: 4, panel_size: 16, pretrain_epochs: 2, patience: 10}
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A client, a head and a worker."""
    reason = lan.missing()
    if reason and os.environ.get("CGD_REQUIRE_SSHD"):
        pytest.fail(f"CGD_REQUIRE_SSHD is set, but {reason}")
    if reason:
        pytest.skip(reason)
    made = lan.Machines(tmp_path_factory.mktemp("lan"), ["head", "worker"])
    yield made
    made.close()


@pytest.fixture(scope="module")
def launcher(machines):
    """`ray COMMAND` on the client for the cluster of the file, with the addresses put in and nothing else changed."""
    config = yaml.safe_load((ROOT / "cluster.local.yaml").read_text())
    head, *workers = machines.addresses.values()
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(machines.key)}
    path = machines.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    settings = machines.homes["client"] / ".config" / "causalged" / "cluster.env"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"CGD_VENV={sys.prefix}\n")

    def ray(command, *arguments, seconds=300):
        options = {"get-auth-token": [], "down": [str(path)]}.get(command, ["--no-config-cache", str(path)])
        program = [sys.executable, "-m", "ray.scripts.scripts", command, *options, *arguments]
        return machines.run(program, seconds, cwd=ROOT, RAY_AUTH_MODE="token", RAY_USAGE_STATS_ENABLED="0")

    made = ray("get-auth-token", "--generate")
    assert made.returncode == 0, made.stderr
    yield ray
    ray("down", "-y")


def ok(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(1)


def test_up_study_down(machines, launcher):
    ok(launcher("up", "-y", seconds=600))
    wait_until(lambda: n_nodes(launcher) == 2, 300, "the worker did not join")
    for name in machines.addresses:
        for secret in (".ray/auth_token", "causalged.env"):
            assert stat.S_IMODE((machines.homes[name] / secret).stat().st_mode) == 0o600

    output = machines.folder / "outputs"
    (machines.folder / "tiny.yaml").write_text(TINY)
    study = f"--study center --dataset simulated --config {machines.folder}/tiny.yaml --output {output}"
    command = f"cd ~/causalged && python tune/run_ablation.py {study} --seeds 1 --folds 1 --address auto --no-models"
    said = ok(launcher("exec", command, seconds=900))
    checked = next(line for line in said.splitlines() if "nodes checked: " in line)
    assert "head (10.77.0.1, " in checked
    assert "worker (10.77.0.2, " in checked
    listening = ok(launcher("exec", "ss -Hltn"))
    for port in (8265, 5000):
        (line,) = (line for line in listening.splitlines() if line.startswith("LISTEN") and f":{port} " in line)
        assert f" 127.0.0.1:{port} " in line

    ok(launcher("exec", "bash ~/causalged/cluster/mlflow_server.sh stop"))
    ok(launcher("down", "-y", seconds=600))
    for program in ("raylet", "gcs_server", "mlflow"):
        wait_until(lambda program=program: not machines.processes(program), 180, f"{program} is still running")

    store = mlflow.MlflowClient(f"sqlite:///{machines.homes['head']}/mlflow/mlflow.db")
    experiment = store.get_experiment_by_name("causalged")
    runs = store.search_runs([experiment.experiment_id], "tags.`cgd.kind` = 'trial'")
    assert [run.info.status for run in runs] == ["FINISHED"] * len(load_study("center").levels)
    assert list((output / "reports").glob("center-*/*.html"))


def n_nodes(launcher):
    return launcher("exec", "ray list nodes --format yaml").stdout.count("state: ALIVE")
