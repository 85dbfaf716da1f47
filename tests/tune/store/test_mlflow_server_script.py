"""`cluster/mlflow_server.sh`: which processes it takes for its own."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[3] / "cluster" / "mlflow_server.sh"


@pytest.fixture
def home(tmp_path):
    """Of a head with a bucket."""
    (tmp_path / "venv").symlink_to(sys.prefix)
    copies = f"CGD_MLFLOW_COPIES=file://{tmp_path}/bucket/mlflow"
    (tmp_path / "causalged.env").write_text(f"CGD_BUCKET=none\n{copies}\n")
    (tmp_path / "mlflow").mkdir()
    yield tmp_path
    with contextlib.suppress(OSError, ProcessLookupError):
        os.kill(int((tmp_path / "mlflow" / "copier.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def process():
    """Start a process of this name, in a group of its own as the server is."""
    started = []

    def start(name):
        command = ["bash", "-c", f"exec -a {name} sleep 600"]
        started.append(subprocess.Popen(command, start_new_session=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def script(home, *arguments):
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_that_reuses_the_servers_id_is_left_alone(home, process):
    other = process("another")
    (home / "mlflow" / "server.pid").write_text(f"{other.pid}\n")
    script(home, "stop")
    assert other.poll() is None
    assert not (home / "mlflow" / "server.pid").exists()


def test_a_dead_copier_is_restarted_beside_a_running_server(home, process):
    server = process("mlflow")
    (home / "mlflow" / "server.pid").write_text(f"{server.pid}\n")

    def copier():
        assert f"runs already (pid {server.pid})" in script(home)
        return psutil.Process(int((home / "mlflow" / "copier.pid").read_text()))

    first = copier()
    assert copier() == first
    first.kill()
    psutil.wait_procs([first], timeout=60)
    second = copier()
    assert second != first
    script(home, "stop")
    assert server.wait(60) == -signal.SIGTERM
    psutil.wait_procs([second], timeout=60)
    assert not second.is_running()
