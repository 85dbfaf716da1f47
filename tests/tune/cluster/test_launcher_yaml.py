"""`cluster.yaml` and `cluster.local.yaml` against Ray's own schema, and what docs/cluster.md claims of them."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml
from click import ClickException
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]
FILES = ("cluster.yaml", "cluster.local.yaml")


@pytest.fixture(params=FILES)
def name(request):
    return request.param


@pytest.fixture
def config(name):
    return read(name)


@pytest.fixture
def aws():
    return read("cluster.yaml")


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def commands(config):
    return [
        command
        for key in ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
        for command in config.get(key, [])
    ]


def test_ray_takes_the_file(config):
    validate_config(prepare_config(config))


def test_ray_sets_nodes_up_with_our_commands_alone(config):
    """For AWS it would add `pip install boto3` of its own on the head, which has no pip that would do it."""
    ours = config["setup_commands"]
    prepared = prepare_config(config)
    assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] == ours
    assert prepared.get("initialization_commands", []) == []


def test_ray_refuses_a_misspelt_key(config):
    config["idle_timeout"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(config))


def test_the_dashboard_stays_on_loopback(config):
    (start,) = (command for command in commands(config) if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in start


def test_only_mlflow_of_ours_listens_and_only_on_loopback():
    script = (ROOT / "cluster" / "mlflow_server.sh").read_text()
    assert re.findall(r"--host (\S+)", script) == ["127.0.0.1"]
    assert "0.0.0.0" not in script


def test_ray_asks_for_its_token_on_every_node(config):
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_MODE=token" in (ROOT / "cluster" / "environment.sh").read_text()


def test_mounted_files_and_scripts_exist_in_the_checkout(config):
    sources = [source for source in config["file_mounts"].values() if not source.startswith("~")]
    assert sources == ["."]
    for script in re.findall(r"~/causalged/(\S+\.sh)", " ".join(commands(config))):
        assert (ROOT / script).is_file()


def test_every_node_is_set_up_with_the_constraints_versions(config):
    assert [command for command in config["setup_commands"] if "node_setup.sh" in command]
    assert "worker_setup_commands" not in config
    assert "--constraint" in (ROOT / "cluster" / "node_setup.sh").read_text()


@pytest.mark.parametrize("script", ["node_setup.sh", "mlflow_server.sh", "environment.sh"])
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", ROOT / "cluster" / script], check=True)


def test_no_secret_is_in_the_files(name):
    text = (ROOT / name).read_text()
    assert not re.findall(
        r"AKIA|aws_(access|secret)|(password|token|secret)\s*[:=]\s*\S+(?<!_token)$", text, re.I | re.M
    )
    assert not re.findall(r"\b[0-9a-fA-F]{32,}\b|-----BEGIN", text)


def test_nodes_are_in_the_users_own_group_and_ray_makes_none(aws, monkeypatch):
    """Each node type names it, or Ray would make one that lets SSH in from anywhere."""

    def asked(*arguments, **how):
        pytest.fail("Ray asks AWS for a group")

    monkeypatch.setattr(aws_config, "_resource", asked)
    monkeypatch.setattr(aws_config, "_client", asked)
    prepared = aws_config._configure_security_group(prepare_config(aws))
    assert "security_group" not in prepared["provider"]
    for node_type in prepared["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"] == ["sg-PUT-YOURS-HERE"]
        assert "NetworkInterfaces" not in node_type["node_config"]


def test_a_group_that_is_not_there_stops_the_launch(aws, monkeypatch, capsys):
    """As the one in the file, before the user has put in the own."""
    none = SimpleNamespace(security_groups=SimpleNamespace(filter=lambda Filters: []))
    monkeypatch.setattr(aws_config, "_resource", lambda name, config: none)
    with pytest.raises((AssertionError, ClickException)):  # as Ray writes to a log or to a terminal
        aws_config._configure_subnet(prepare_config(aws))
    assert "Failed to detect a security group" in "".join(capsys.readouterr())


def test_the_head_runs_no_trial_and_workers_are_spot_from_zero(aws):
    head, worker = aws["available_node_types"]["head"], aws["available_node_types"]["gpu_worker"]
    assert aws["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert worker["min_workers"] == 0
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in head["node_config"]
    assert aws["idle_timeout_minutes"] <= 10


def test_nodes_have_named_profiles_and_no_disk_outlives_them(aws):
    profiles = [n["node_config"]["IamInstanceProfile"] for n in aws["available_node_types"].values()]
    assert profiles == [{"Name": "causalged-head"}, {"Name": "causalged-worker"}]
    for node_type in aws["available_node_types"].values():
        (disk,) = node_type["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["DeleteOnTermination"]
        assert "ami-" not in node_type["node_config"]["ImageId"].removesuffix("ami-id")  # no id of one region
    assert aws["provider"]["cache_stopped_nodes"] is False


def test_the_local_file_takes_the_autoscaler_that_starts_workers():
    (start,) = (command for command in commands(read("cluster.local.yaml")) if "--head" in command)
    assert "export RAY_enable_autoscaler_v2=0;" in start
