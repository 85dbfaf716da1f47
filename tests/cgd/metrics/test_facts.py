"""The table of metrics and floors against what is computed."""

import subprocess
import sys

import numpy as np
import pytest

from cgd.evaluation import evaluate_floors
from cgd.metrics.facts import (
    CEILING,
    COSTS,
    DRAW_FLOORS,
    DRAW_SCORES,
    FLOORS,
    INTERVALS,
    METRICS,
    NOISE_CEILINGS,
    PRIMARY,
    PUBLISHED_COLUMNS,
    SCORES,
)
from cgd.metrics.gene import gene_metrics


@pytest.fixture
def truth():
    return np.log1p(np.random.default_rng(3).poisson(1.5, (12, 101)))


def test_names_are_those_of_the_metrics_computed(truth):
    assert tuple(gene_metrics(truth, truth)) == SCORES
    assert SCORES[0] == PRIMARY


def test_a_perfect_prediction_scores_the_reference(truth):
    for name, values in gene_metrics(truth, truth).items():
        np.testing.assert_allclose(values, METRICS[name].reference, atol=1e-7)


def test_a_better_prediction_is_better_in_every_metric(truth):
    noise = np.random.default_rng(4).normal(size=truth.shape)
    near, far = (gene_metrics(truth + scale * noise, truth) for scale in (0.1, 3.0))
    for name in SCORES:
        assert (METRICS[name].sign * (near[name] - far[name]) > 0).all(), name


def test_values_lie_in_the_range_of_the_table(truth):
    noise = np.random.default_rng(5).normal(size=truth.shape)
    for candidate in (0.4 * truth + noise, -truth, np.zeros_like(truth), np.roll(truth, 1, axis=1)):
        for name, values in gene_metrics(candidate, truth).items():
            low, high = METRICS[name].range
            assert ((values >= low - 1e-12) & (values <= high + 1e-12)).all(), name


def test_everything_an_evaluation_records_is_in_the_table(tiny):
    found = tiny.evaluate({"evaluation.protocol": "published", "sampling.n_samples": 2})
    assert tuple(found.per_gene.columns) == ("gene", *SCORES, *PUBLISHED_COLUMNS, *DRAW_SCORES)
    recorded = set(found.summary)
    assert {*INTERVALS, *COSTS} - recorded == {"cpu_hours", "gpu_hours"}  # sums over the trials of a level
    progress = {"val_pcc", "val_crps", "kept_epoch", "epochs", "draws_pcc", "n_genes", "n_scored"}
    assert {name.removeprefix("test_") for name in recorded - progress} <= set(METRICS)
    for name in {*INTERVALS, *COSTS} & recorded:
        low, high = METRICS[name].range
        assert low <= found.summary[name] <= (np.inf if high is None else high), name


@pytest.mark.parametrize("protocol", ["heldout_genes", "published"])
def test_floors_computed_are_those_of_the_table(tiny, protocol):
    config = tiny.config({"evaluation.protocol": protocol})
    methods = evaluate_floors(tiny.prepared, tiny.split, config)["method"].unique()
    floors = {floor.name for floor in FLOORS.values() if protocol == "published" or not floor.is_fill}
    assert set(methods) == floors | set(NOISE_CEILINGS) | set(DRAW_FLOORS)
    assert [floor.name for floor in FLOORS.values() if floor.is_ceiling] == [CEILING]


def test_the_table_is_imported_without_anything_heavy():
    source = "import sys, cgd.metrics.facts; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True).stdout.split()
    assert "cgd" in loaded
    assert {"torch", "scipy", "pandas", "numpy"} & set(loaded) == set()
