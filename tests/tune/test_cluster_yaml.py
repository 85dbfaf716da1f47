"""`cluster.yaml` against Ray's own schema. (It is not brought up here.)"""

from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


def test_cluster_file_is_valid_for_ray():
    validate_config(prepare_config(yaml.safe_load(CLUSTER.read_text())))


def test_ray_refuses_a_misspelt_key():
    config = yaml.safe_load(CLUSTER.read_text())
    config["idle_timeout"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(config))


def test_the_head_runs_no_trials_and_the_dashboard_stays_on_loopback():
    config = yaml.safe_load(CLUSTER.read_text())
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    starts = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_mounted_files_exist_in_the_checkout():
    config = yaml.safe_load(CLUSTER.read_text())
    sources = [source for source in config["file_mounts"].values() if not source.startswith("~")]
    assert sources
    assert all((CLUSTER.parent / source).exists() for source in sources)
