"""The MLflow servers of `make ui` and of a cluster's head: where they listen, whom they answer, what they serve."""

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from watched import ROOT, STUDY, TINY, is_local, user_environment

from tune.commands.options import make_ui_command

SECRET = "s3cr3t"
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"


def recipe(output, port):
    """What `make ui` runs, as (variables, arguments), by this interpreter's mlflow."""
    venv = Path(sys.executable).parents[1]
    options = [f"OUTPUT={output}", f"PORT={port}", f"VENV={venv}"]
    dry = ["make", "-n", "-o", f"{venv}/.installed", *options, "ui"]
    shown = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(next(line for line in re.sub(r"\\\n", " ", shown).splitlines() if "mlflow server" in line))
    n = next(i for i, word in enumerate(words) if "=" not in word)
    return dict(word.split("=", 1) for word in words[:n]), words[n:]


def test_make_ui_asks_for_loopback_host_checks_and_no_assistant(tmp_path):
    variables, arguments = recipe(tmp_path, 5001)
    given = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert given["--host"] == "127.0.0.1"
    assert "--gunicorn-opts" in given  # under uvicorn MLflow serves its Assistant
    assert set(variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")) == {
        "localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*",
    }  # fmt: skip
    assert variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert not {"MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "MLFLOW_ENABLE_REMOTE_ASSISTANT"} & variables.keys()


def test_the_command_that_opens_another_store_does_the_same():
    shown = shlex.split(make_ui_command("postgresql://host/db", None))
    assert shown[shown.index("--host") + 1] == "127.0.0.1"
    assert "--gunicorn-opts" in shown


@dataclass(frozen=True)
class Served:
    """A server: its address, the folder with its database, and its first process."""

    address: str
    folder: Path
    process: psutil.Process

    def processes(self):
        return [self.process, *self.process.children(recursive=True)]


@pytest.fixture(scope="module", params=["make ui", "cluster"])
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (by_make if request.param == "make ui" else on_a_head)(folder, port) as server:
        yield server


@contextlib.contextmanager
def by_make(folder, port):
    """As `make ui` starts it."""
    variables, arguments = recipe(folder, port)
    with (folder / "server.log").open("w") as log:
        env = user_environment(folder, **variables)
        server = subprocess.Popen(arguments, env=env, cwd=folder, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server)
        yield Served(f"http://127.0.0.1:{port}", folder, psutil.Process(server.pid))
    finally:
        server.terminate()
        server.wait(timeout=60)


@contextlib.contextmanager
def on_a_head(home, port):
    """As a cluster's head starts it, over a database of its own."""
    (home / "venv").symlink_to(sys.prefix)
    (home / "causalged.env").write_text(f"CGD_MLFLOW_PORT={port}\nCGD_MLFLOW_STORE=sqlite:///{home}/{SECRET}.db\n")
    try:
        head_script(home)
        yield Served(f"http://127.0.0.1:{port}", home, psutil.Process(int((home / "mlflow/server.pid").read_text())))
    finally:
        head_script(home, "stop")


def head_script(home, *arguments):
    """Output of `mlflow_server.sh`."""
    command = ["bash", ROOT / "cluster" / "mlflow_server.sh", *arguments]
    done = subprocess.run(command, env=user_environment(home), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _wait(address, server):
    deadline = time.monotonic() + 300
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.3)
    raise AssertionError("the server did not start")


def ask(address, method="GET", body=None, **headers):
    """Status of an answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **{key.title(): value for key, value in headers.items()}}
    try:
        request = urllib.request.Request(address, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_the_server_listens_on_loopback_alone(served):
    places = [
        c.laddr.ip for one in served.processes() for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN
    ]
    assert places
    assert [place for place in places if not is_local(place)] == []


@pytest.mark.slow
def test_a_page_of_another_site_is_turned_away(served):
    address = served.address
    search = f"{address}/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    create = f"{address}/ajax-api/2.0/mlflow/experiments/create"
    assert ask(search) == 200
    for host in ("evil.example", "192.168.1.5", "10.0.0.1:5000"):
        assert ask(search, host=host) == 403
    assert ask(create, "POST", {"name": "a"}, origin="http://evil.example") == 403
    assert ask(create, "POST", {"name": "a"}, origin=address) == 200


@pytest.mark.slow
def test_the_assistant_and_the_gateway_are_not_served(served):
    address = served.address
    for path in ("/providers", "/config"):
        assert ask(address + ASSISTANT + path) == 404
    for method, path in (("POST", "/message"), ("PUT", "/config"), ("POST", "/skills/install")):
        assert ask(address + ASSISTANT + path, method, {}) in (404, 405)
    assert ask(f"{address}/gateway/any/mlflow/invocations", "POST", {}) in (404, 405)


@pytest.mark.slow
@pytest.mark.parametrize("served", ["cluster"], indirect=True)
def test_the_address_of_a_clusters_database_is_the_servers_alone(served):
    """It may hold a password: no list of processes shows it, and no other process is given it."""
    assert served.processes()
    assert [one.pid for one in served.processes() if SECRET in " ".join(one.cmdline())] == []
    shown = subprocess.run(
        ["bash", "-c", f". {ROOT}/cluster/environment.sh; env"],
        env=user_environment(served.folder),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "CGD_MLFLOW_PORT=" in shown
    assert SECRET not in shown
    assert (served.folder / f"{SECRET}.db").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("served", ["cluster"], indirect=True)
def test_a_server_that_runs_is_not_started_twice(served):
    assert f"runs already (pid {served.process.pid})" in head_script(served.folder)


@pytest.mark.slow
@pytest.mark.parametrize("served", ["make ui"], indirect=True)
def test_a_password_is_in_nothing_that_a_study_leaves(served, tmp_path):
    """The store itself among it: it is this server's, which asks for no password."""
    address, store = served.address, served.folder
    (tmp_path / "s.yaml").write_text(STUDY)
    (tmp_path / "c.yaml").write_text(TINY)
    uri = address.replace("://", f"://me:{SECRET}@")
    script = [sys.executable, str(ROOT / "tune" / "run_ablation.py"), "--study", "s.yaml", "--config", "c.yaml"]
    command = [*script, "--verbose", "--output", "out", "--tracking-uri", uri]
    env = user_environment(tmp_path)
    process = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=550)
    assert process.returncode == 0, process.stderr
    assert "me:***@" in process.stdout
    assert SECRET not in process.stdout + process.stderr
    written = [path for folder in (tmp_path, store) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "study.json" for path in written)
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert os.path.exists(store / "mlflow.db")
