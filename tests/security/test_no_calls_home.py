"""No package reports anything to anybody."""

import ast
import os
import subprocess
import sys

import pytest
from watched import ROOT, is_local, user_environment

OFF = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
OFF |= {"DO_NOT_TRACK": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}
SCRIPTS = ("run_ablation.py", "run_comparison.py", "run_search.py")
METADATA = {"169.254.169.254", "metadata.google.internal"}  # Ray asks whether this is a cloud, and tells nobody


def test_telemetry_is_off_before_ray_and_mlflow_are_imported(watched_study):
    imports = [(pid, *where) for pid, event, where in watched_study.notes if event == "import"]
    assert {"ray", "mlflow"} <= {package for _, package, _ in imports}
    assert len({pid for pid, _, _ in imports}) >= 3, "the driver, an agent and a worker at least are watched"
    assert [(package, found) for _, package, found in imports if found != OFF] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_sets_its_environment_before_imports(script):
    first = []
    for node in ast.parse((ROOT / "tune" / script).read_text(encoding="utf-8")).body:
        if ast.unparse(node) == "prepare_environment()":
            break
        if isinstance(node, ast.Import | ast.ImportFrom):
            first.append(ast.unparse(node).split()[1])
    else:
        pytest.fail("the environment is never set")
    assert {name for name in first if name != "tune.cluster.environment"} <= sys.stdlib_module_names
    for name in ("__init__", "cluster/__init__", "cluster/environment"):  # nor do these, which come before it
        tree = ast.parse((ROOT / "tune" / f"{name}.py").read_text(encoding="utf-8"))
        found = {
            ast.unparse(node).split()[1] for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert found <= sys.stdlib_module_names


def test_a_study_looks_nothing_up_and_connects_to_nobody(watched_study):
    assert "127.0.0.1" in watched_study.places(), "the watch sees nothing"
    (dashboard,) = {pid for pid, event, where in watched_study.notes if event == "start" and "dashboard.py" in where[0]}
    asked = watched_study.places(without=dashboard)
    assert {host for host in asked if not is_local(host)} == set()
    assert {host for host in watched_study.places() if not is_local(host)} <= METADATA
    assert {ip for _, ip in watched_study.remote if not is_local(ip)} <= METADATA


def test_a_study_leaves_nothing_in_the_home_folder_but_its_token(watched_study):
    found = {os.path.relpath(path, watched_study.home) for path in watched_study.home.rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith(".cache/")} == {".ray/auth_token"}


@pytest.mark.parametrize("package", ["scanpy", "anndata", "optuna", "ot", "diffusers", "tangram", "scvi"])
@pytest.mark.slow
def test_importing_a_package_looks_nothing_up(package, tmp_path):
    pytest.importorskip(package)
    notes = tmp_path / "notes"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "security")])
    env = user_environment(tmp_path, PYTHONPATH=path, CGD_WATCH=str(notes))
    code = f"from tune.cluster.environment import prepare_environment; prepare_environment(); import {package}"
    subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True)
    events = [line.split("\t")[1:] for line in notes.read_text().splitlines()]
    assert "start" in {event for event, _ in events}, "the watch sees nothing"
    # urllib3 tries whether this machine knows IPv6
    assert [e for e in events if e[0] not in ("start", "import") and e != ["socket.bind", "('::1', 0)"]] == []
