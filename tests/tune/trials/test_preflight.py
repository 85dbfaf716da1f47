"""Every node is looked at before a study: real clusters of several nodes, one of them bad, on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune.cluster import connection as cluster_module
from tune.cluster.connection import ClusterError, connect, list_checked
from tune.trials.preflight import SECONDS_VARIABLE, check_nodes, guard_tasks, trial_nodes

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes():
    """A head that runs no trials, and one good node."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def bad_node(nodes):
    """Add a node with this environment; it is gone afterwards."""
    added = []

    def add(**environment):
        added.append(nodes.add_node(num_cpus=1, env_vars=environment))
        return added[-1]

    yield add
    for node in added:
        if node in nodes.worker_nodes:
            nodes.remove_node(node, allow_graceful=True)  # so that Ray knows at once


def fake_torch(folder, version="1.0"):
    """A folder that, before the others on the import path, makes torch look like another version."""
    (folder / f"torch-{version}.dist-info").mkdir(parents=True)
    (folder / f"torch-{version}.dist-info" / "METADATA").write_text(f"Name: torch\nVersion: {version}\n")
    return str(folder)


def refusal(address, output, data=()):
    """What the user hears; also that the check is a matter of seconds."""
    with connect(address):
        references = [ray.put(one) for one in data]
        start = time.monotonic()
        with pytest.raises(ClusterError) as caught:
            check_nodes(output, references)
        assert time.monotonic() - start < 60
        assert not list((output / "checkpoints").glob(".nodes*"))
        return str(caught.value)


def only_from(folder, monkeypatch):
    """Let nodes take the code from `folder`, as where it is installed there and nothing is shipped."""
    monkeypatch.setattr(cluster_module, "make_runtime_env", lambda: {"env_vars": {"PYTHONPATH": str(folder)}})
    monkeypatch.chdir(folder)  # Ray has workers import from the driver's folder first


def test_good_nodes_are_named_but_not_a_head_without_cpus(nodes, tmp_path, tiny, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that workers cannot take the code from the folder of the driver: it is shipped
    with connect(nodes.address):
        check_nodes(tmp_path, [ray.put(tiny.prepared)])
        (node,) = trial_nodes()
    printed = capsys.readouterr().out
    assert printed.startswith("nodes checked: ")
    assert node["NodeID"][:8] in printed
    assert printed.count("(") == 1


def test_a_node_with_another_torch_is_refused_by_name(nodes, bad_node, tmp_path):
    bad = bad_node(PYTHONPATH=fake_torch(tmp_path / "packages"))
    message = refusal(nodes.address, tmp_path)
    assert message.startswith("1 of 2 nodes cannot run trials of this study:\n")
    assert bad.node_id[:8] in message
    assert "torch 1.0, the driver has 2." in message
    assert "constraints.txt" in message


def test_a_node_that_cannot_import_the_code_is_refused_with_why(nodes, bad_node, tmp_path):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "anndata.py").write_text("raise ImportError('libhdf5.so is missing')\n")
    bad = bad_node(PYTHONPATH=str(tmp_path / "packages"))
    message = refusal(nodes.address, tmp_path)
    assert bad.node_id[:8] in message
    assert "ImportError: libhdf5.so is missing" in message


def test_a_node_with_other_code_installed_is_refused(nodes, bad_node, tmp_path, monkeypatch):
    for package in ("ablations", "cgd", "tune"):
        shutil.copytree(ROOT / package, tmp_path / "old" / package)
    (tmp_path / "old" / "cgd" / "metrics" / "gene.py").open("a").write("\nANOTHER = 1\n")
    only_from(tmp_path / "old", monkeypatch)
    message = refusal(nodes.address, tmp_path)
    assert "cgd code " in message
    assert "tune code " not in message


def test_a_node_without_any_of_the_code_is_refused(nodes, bad_node, tmp_path, monkeypatch):
    (tmp_path / "broken" / "tune").mkdir(parents=True)
    # not empty: where the package is installed in editable mode, its modules would be found all the same
    (tmp_path / "broken" / "tune" / "__init__.py").write_text("""raise ModuleNotFoundError("No module named 'tune'")""")
    only_from(tmp_path / "broken", monkeypatch)
    message = refusal(nodes.address, tmp_path)
    assert "cannot run a task: " in message
    assert "No module named 'tune'" in message


def test_a_node_that_goes_away_while_asked_refuses_nothing(nodes, bad_node, tmp_path, capsys):
    bad = bad_node()
    with connect(nodes.address):
        nodes.remove_node(bad, allow_graceful=False)  # killed: Ray takes it for alive for some seconds more
        assert len(trial_nodes()) == 2
        check_nodes(tmp_path)
    printed = capsys.readouterr().out
    assert "nodes checked: " in printed
    assert f"{bad.node_id[:8]})" not in printed


def test_a_node_that_does_not_answer_is_refused_at_the_deadline(nodes, bad_node, tmp_path, monkeypatch):
    bad = bad_node()
    pid = bad.all_processes["raylet"][0].process.pid
    monkeypatch.setenv(SECONDS_VARIABLE, "8")
    os.kill(pid, signal.SIGSTOP)
    try:
        message = refusal(nodes.address, tmp_path)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"{bad.node_id[:8]}): did not answer within 8 s" in message


def test_data_that_a_node_cannot_read_are_said(nodes, bad_node, tmp_path, monkeypatch):
    source = tmp_path / "here"
    source.mkdir()
    (source / "only_on_the_driver.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(str(source))
    import only_on_the_driver

    message = refusal(nodes.address, tmp_path, [only_on_the_driver.Thing()])
    assert "cannot read the data: " in message
    assert "only_on_the_driver" in message


def can_mount():
    """Whether a process may have mounts of its own here; root in a container may not."""
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    return shutil.which("unshare") is not None and subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="a node with a file system of its own takes the right to mount one")
def test_an_output_folder_of_a_nodes_own_is_refused(nodes, tmp_path):
    output = tmp_path / "outputs"
    (output / "checkpoints").mkdir(parents=True)
    ray_start = f"{sys.executable} -m ray.scripts.scripts start --address={nodes.address} --num-cpus=1 --block"
    inside = f"mount -t tmpfs tmpfs {output} && exec {ray_start}"
    own = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", inside], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        with connect(nodes.address):
            wait_for_trial_nodes(2)
        message = refusal(nodes.address, output)
    finally:
        os.killpg(own.pid, signal.SIGTERM)
        own.wait(60)
    assert message.startswith("1 of ")
    assert f"{output}/checkpoints is not the driver's folder of that name" in message
    assert "--output folder that all of them share" in message


@pytest.fixture
def where_it_runs():
    """A task that says on which node it ran; of no module, since nodes have none of the tests."""
    return lambda sent: ray.get_runtime_context().get_node_id()


def on(node, function):
    """What the function says on this node."""
    where = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    return ray.get(ray.remote(num_cpus=0)(function).options(scheduling_strategy=where).remote(None))


def test_a_node_that_joins_late_is_checked_before_its_first_task(nodes, bad_node, tmp_path, where_it_runs):
    """As during the floors of a study, before its trials."""
    good = next(iter(nodes.worker_nodes))
    with connect(nodes.address):
        check_nodes(tmp_path)
        bad = bad_node(PYTHONPATH=fake_torch(tmp_path / "packages"))
        wait_for_trial_nodes(2)
        with guard_tasks(where_it_runs, tmp_path) as guarded:
            assert on(good, guarded) == good.node_id
        with pytest.raises(ClusterError) as caught, guard_tasks(where_it_runs, tmp_path) as guarded:
            on(bad, guarded)
    assert "a node that joined meanwhile cannot run trials of this study" in str(caught.value)
    assert "torch 1.0, the driver has 2." in str(caught.value)
    assert not list((tmp_path / "checkpoints").glob(".nodes*"))


def test_a_late_node_must_see_the_files_and_checks_are_forgotten(nodes, tmp_path, where_it_runs):
    good = next(iter(nodes.worker_nodes))
    missing = tmp_path / "values.csv"
    with connect(nodes.address):
        check_nodes(tmp_path)
        assert list_checked() == {good.node_id}
    with (
        connect(nodes.address),
        pytest.raises(ClusterError, match=r"sees no file .*values\.csv"),
        guard_tasks(where_it_runs, tmp_path, [missing]) as guarded,
    ):
        on(good, guarded)


def wait_for_trial_nodes(n, seconds=120):
    deadline = time.monotonic() + seconds
    while len(trial_nodes()) < n:
        assert time.monotonic() < deadline, "the node did not join"
        time.sleep(0.2)


def test_a_cluster_of_another_ray_is_refused_in_words(nodes, monkeypatch):
    monkeypatch.setattr(ray, "__version__", "1.0.0")
    words = r"has another Ray or Python than this command: .*Ray: 2\..*Ray: 1\.0\.0"
    with pytest.raises(ClusterError, match=words), connect(nodes.address):
        pass
