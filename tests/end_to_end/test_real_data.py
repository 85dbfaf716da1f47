"""Real pairs: the answer is hidden, and the prediction is above the floors that use no scRNA-seq."""

import subprocess

import pytest

from cgd.audit import audit_leakage
from cgd.config import Config
from cgd.data.catalog import load_dataset
from cgd.data.preprocess import prepare
from cgd.data.split import make_splits
from cgd.evaluation import evaluate, evaluate_floors

pytestmark = pytest.mark.data


def test_dentate_gyrus_is_above_gene_mean_and_mean_pattern(data_dir):
    config = Config().with_values({"train.epochs": 2, "sampling.n_samples": 0})
    prepared = prepare(load_dataset(str(data_dir / "mouse_dentategyrus_visium_zeisel")), config.data)
    split = make_splits(prepared.panel, config.split)[0]
    floors = evaluate_floors(prepared, split, config).groupby("method")["pcc"].mean()
    found = evaluate(config, prepared, split).summary
    assert found["test_pcc"] > floors["mean_pattern"] + 0.1
    assert found["test_pcc"] > floors["gene_mean"] + 0.1
    assert found["test_pcc"] < floors["ceiling"]  # above it, something leaked
    assert found["n_scored"] > 40


def test_nothing_leaks_on_a_small_panel(data_dir):
    config = Config().with_values({"train.epochs": 2, "train.steps_per_epoch": 2, "sampling.n_samples": 2})
    prepared = prepare(load_dataset(str(data_dir / "mouse_ssp_osmfish_allen")), config.data)
    assert audit_leakage(config, prepared, make_splits(prepared.panel, config.split)[0]).identical


def test_a_study_on_a_named_data_set_writes_its_report(data_dir, command, tmp_path):
    arguments = (
        "--study",
        "decoder_training",
        "--dataset",
        "mouse_ssp_osmfish_allen",
        "--set",
        "sampling.n_samples=2",
        "--output",
        tmp_path / "out",
    )
    process = subprocess.run(command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert "2 spots dropped: too few detected training genes" in process.stdout
    assert all(floor in process.stdout for floor in ("mean pattern", "noise ceiling", "counts, untrained", "replicate"))
    assert list((tmp_path / "out").glob("reports/*/decoder_training.html"))
