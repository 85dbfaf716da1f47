"""The configuration: what it accepts, how it explains what it refuses, and what its fingerprint stands for."""

import subprocess
import sys
from pathlib import Path

import pytest

from cgd.config import Config, field_paths
from cgd.errors import ConfigError

ROOT = Path(__file__).parents[2]

# field -> (a value that is refused, what the message says about it)
REFUSED = {
    "seed": (-1, "seed: .* found -1"),
    "data.min_genes_per_cell": ("many", "data.min_genes_per_cell: .* found 'many'"),
    "data.hvg_fraction": (0.0, "data.hvg_fraction: .*greater than 0, found 0.0"),
    "split.val_fraction": (1.0, "split.val_fraction: .*less than 1, found 1.0"),
    "model.tokens": ("word", "model.tokens: .*'gene' or 'latent', found 'word'"),
    "model.depth": (0, "model.depth: .*greater than or equal to 1, found 0"),
    "model.dropout": (1.0, "model.dropout: .*less than 1"),
    "ar.decay": (1.5, "ar.decay: .*less than or equal to 1, found 1.5"),
    "diffusion.timestep_sampling": ("1/1", "diffusion.timestep_sampling: expected 'full', 'adaptive' or a fraction"),
    "train.learning_rate": (float("inf"), "train.learning_rate: .*finite"),
    "train.final_lr_fraction": (0.0, "train.final_lr_fraction: .*greater than 0"),
    "runtime.device": ("tpu", "runtime.device: .*'cpu' or 'cuda'"),
}
CONTRADICTIONS = [
    ({"split.val_fraction": 0.6, "split.test_fraction": 0.4}, "below 1, so that training genes are left"),
    ({"model.width": 130}, r"width \(130\) must be a multiple of n_heads \(4\)"),
    ({"model.tokens": "latent", "model.token_dim": 5}, r"latent_dim \(48\) must be a multiple of token_dim \(5\)"),
    ({"model.latent_dim": 256}, r"latent_dim \(256\) must not exceed hidden_dim \(128\)"),
    ({"ar.min_weight": 2.0}, r"min_weight \(2.0\) must not exceed max_weight \(1.0\)"),
    ({"ar.token_order": "granger", "model.tokens": "latent"}, "needs model.tokens = gene"),
    ({"diffusion.prediction_type": "noise"}, "use sampling.estimate = draws"),
    ({"sampling.estimate": "draws", "sampling.n_samples": 0}, "needs sampling.n_samples >= 1"),
    ({"sampling.guidance": 2.0}, "guidance = 2.0 needs train.condition_drop above 0"),
    ({"diffusion.n_timesteps": 5}, r"n_steps \(10\) must be below diffusion.n_timesteps \(5\)"),
]


@pytest.mark.parametrize("path", REFUSED)
def test_a_value_out_of_range_is_named_with_field_and_value(path):
    value, message = REFUSED[path]
    with pytest.raises(ConfigError, match=message):
        Config().with_values({path: value})


@pytest.mark.parametrize(("values", "message"), CONTRADICTIONS)
def test_fields_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Config().with_values(values)


def test_every_wrong_field_is_reported_with_the_closest_name():
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"ar": {"deca": 0.7}, "modle": {}, "train": {"epochs": -1}}, source="my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ")
    assert "unknown field 'ar.deca'; did you mean 'decay'?" in message
    assert "unknown field 'modle'; did you mean 'model'?" in message
    assert "train.epochs: Input should be greater than or equal to 0, found -1" in message


@pytest.mark.parametrize("path", ["ar.deca", "ar", "ar.decay.x", "decay", "nosuch.field"])
def test_a_path_that_is_no_field_is_refused(path):
    with pytest.raises(ConfigError, match=f"no field '{path}'"):
        Config().with_values({path: 0.7})


def test_setting_values_leaves_the_original_and_the_rest_alone():
    base = Config()
    changed = base.with_values({"ar.decay": 0.7, "seed": 0})
    assert (base.ar.decay, changed.ar.decay) == (0.8, 0.7)
    assert {path for path in field_paths() if base.flatten()[path] != changed.flatten()[path]} == {"ar.decay"}
    with pytest.raises(Exception, match="frozen"):
        base.ar.decay = 0.7


def test_yaml_round_trip(tmp_path):
    config = Config().with_values({"diffusion.timestep_sampling": "1/20", "data.min_genes_per_cell": 7, "seed": 3})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert Config.from_yaml(tmp_path / "config.yaml") == config
    (tmp_path / "empty.yaml").write_text("")
    assert Config.from_yaml(tmp_path / "empty.yaml") == Config()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ar: [1, 2", "is not a readable YAML file"),
        (b"- 1\n- 2\n", "expected sections such as 'model:' and 'train:', found list"),
        (b"\xff\xfe\x00\x01", "is not a readable YAML file"),
        (b"train:\n  epoch: 3\n", "unknown field 'train.epoch'; did you mean 'epochs'"),
    ],
)
def test_a_bad_yaml_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Config.from_yaml(path)
    assert str(path) in str(caught.value)


def test_a_missing_yaml_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file at .*nosuch\.yaml"):
        Config.from_yaml(tmp_path / "nosuch.yaml")


def test_fingerprint_is_of_what_is_computed_and_not_of_where():
    base = Config()
    assert len(base.fingerprint()) == 16
    assert base.fingerprint("data") == Config.from_dict(base.model_dump()).fingerprint("data")
    assert base.fingerprint("data") != base.fingerprint("other")
    assert base.fingerprint("a", "b") != base.fingerprint("ab")
    assert base.with_values({"runtime.n_threads": 8, "runtime.device": "cuda"}).fingerprint() == base.fingerprint()
    assert base.with_values({"seed": 1}).fingerprint() != base.fingerprint()


def test_fingerprint_of_a_section_ignores_the_others():
    base = Config()
    changed = base.with_values({"data.min_panel": 5})
    assert changed.fingerprint_section("data") != base.fingerprint_section("data")
    assert changed.fingerprint_section("split") == base.fingerprint_section("split")


def test_fingerprint_is_the_same_in_another_process():
    command = "from cgd.config import Config; print(Config().fingerprint('data', 'split'))"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == Config().fingerprint("data", "split")


def test_flatten_lists_every_field_once():
    flat = Config().flatten()
    assert list(flat) == field_paths()
    assert flat["ar.decay"] == 0.8
    assert not any(isinstance(value, dict) for value in flat.values())


def test_the_configuration_imports_neither_torch_nor_anndata():
    command = "import sys, cgd.config; print(sorted({'torch', 'anndata', 'scanpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
