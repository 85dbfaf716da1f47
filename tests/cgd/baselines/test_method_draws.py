"""Draws of the compared methods: their own, or counts around what they predict."""

import numpy as np
import pandas as pd
import pytest

from cgd.audit import _add_noise
from cgd.baselines.draws import calibrate_counts, draw_counts
from cgd.baselines.predictions import BroughtFile, Predictions
from cgd.baselines.trial import N_DRAWS, evaluate_baseline, fit_baseline
from cgd.data.pair import locate
from cgd.errors import DataError
from cgd.evaluation import _score_draws, _summarise_draws
from cgd.metrics.facts import DRAW_SCORES, JOINT_SCORES
from cgd.model.counts import CountNoise


class Drawing:
    """A user's method with draws of its own."""

    wrong: tuple[int, ...] = ()

    def fit(self, visible, seed):
        self.n_spots, self.seed = visible.x_st.shape[1], seed

    def predict(self, genes):
        return np.ones((len(genes), self.n_spots))

    def draw(self, genes, n):
        shape = self.wrong or (n, len(genes), self.n_spots)
        return np.random.default_rng(self.seed).gamma(1.0, size=shape)


class Misshapen(Drawing):
    wrong = (2, 3)


@pytest.fixture(scope="module")
def trial(tiny):
    return fit_baseline(tiny.config({"method": "spage"}), tiny.prepared, tiny.split)


def test_draws_are_counts_around_the_prediction(tiny, trial):
    assert trial.draws.shape == (N_DRAWS, *trial.prediction.shape)
    assert trial.draws.dtype == np.float32
    assert trial.draws.min() == 0
    counts = np.expm1(trial.draws) * trial.hidden.measured.measure_exposure()
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)


def test_a_trial_is_scored_on_draws_as_causalged_is(tiny, trial):
    found = tiny.evaluate({"method": "spage"})
    table, joint = _score_draws(trial.draws, trial.hidden.test, trial.hidden.visible.coordinates)
    pd.testing.assert_frame_equal(found.per_gene[list(DRAW_SCORES)], table)
    expected = _summarise_draws(table, joint, "test_")
    assert {"test_crps", "coverage_90_raw", *(f"test_{name}" for name in JOINT_SCORES)} <= set(expected)
    assert {name: found.summary[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert np.isfinite(found.summary["test_crps"])


def test_the_truth_of_test_genes_changes_no_draw(tiny, trial):
    noisy = _add_noise(tiny.prepared, tiny.split.test, seed=3)
    other = fit_baseline(tiny.config({"method": "spage"}), noisy, tiny.split)
    assert other.hidden.test.truth.tobytes() != trial.hidden.test.truth.tobytes()
    assert other.draws.tobytes() == trial.draws.tobytes()


def test_the_first_draws_are_the_same_however_many(trial):
    noise = CountNoise(neighbours=0.4)
    draws = [draw_counts(noise, trial.prediction, trial.hidden, n, 0) for n in (2, 5)]
    assert draws[0].tobytes() == draws[1][:2].tobytes()
    assert draws[1].tobytes() != draw_counts(noise, trial.prediction, trial.hidden, 5, 1).tobytes()


def test_the_level_of_a_prediction_is_calibrated(trial):
    """Ten times too much is ten times too little of a level."""
    hidden = trial.hidden
    predicted = hidden.val.truth.mean(axis=1, keepdims=True).repeat(hidden.val.truth.shape[1], axis=1)
    levels = [calibrate_counts(np.log1p(factor * np.expm1(predicted)), hidden).level for factor in (1, 10)]
    assert levels[0] - levels[1] == pytest.approx(np.log(10), abs=0.3)


@pytest.mark.parametrize("value", [-3.0, 0.0, 1e4])
def test_predictions_that_are_no_expression_do_no_harm(trial, value):
    """A user's method may predict what it likes; its draws are finite all the same."""
    predicted = np.full(trial.hidden.val.truth.shape, value, dtype=np.float32)
    noise = calibrate_counts(predicted, trial.hidden)
    draws = draw_counts(noise, trial.prediction + np.float32(value), trial.hidden, 2, 0)
    assert np.isfinite(draws).all()
    assert draws.min() >= 0


# ---- methods and files of a user ----------------------------------------------------------------------------------


def test_a_method_with_draws_is_scored_on_its_own(tiny):
    found = fit_baseline(tiny.config({"method": f"{__name__}:Drawing"}), tiny.prepared, tiny.split)
    expected = np.random.default_rng(0).gamma(1.0, size=(N_DRAWS, *found.prediction.shape))
    np.testing.assert_array_equal(found.draws, expected.astype(np.float32))
    with pytest.raises(DataError, match=r"Misshapen must draw finite values of shape \(16, 4, \d+\).*shape \(2, 3\)"):
        tiny.evaluate({"method": f"{__name__}:Misshapen"})


@pytest.mark.parametrize(("spoil", "has_draws"), [(None, True), ("missing", False), ("nan", False)])
def test_a_file_has_draws_where_it_has_the_validation_genes(tiny, tmp_path, spoil, has_draws):
    visible = tiny.hidden().visible
    genes = [*tiny.split.val, *tiny.split.test]
    means = visible.sc_rows(genes).mean(axis=1)
    values = pd.DataFrame([means] * len(visible.spot_names), index=list(visible.spot_names), columns=genes)
    if spoil == "missing":
        values = values.drop(columns=tiny.split.val[0])
    if spoil == "nan":
        values.loc[visible.spot_names[0], tiny.split.val[0]] = np.nan
    values.to_csv(tmp_path / "mine.csv")
    method = Predictions(BroughtFile.identify(tmp_path / "mine.csv"))
    config = tiny.config({"method": "brought:Mine"})
    per_gene, summary = evaluate_baseline(config, tiny.prepared, tiny.split, method)
    assert ("crps" in per_gene) == ("test_crps" in summary) == has_draws
    assert len(per_gene) == len(tiny.split.test)
    assert locate(per_gene["gene"], tiny.split.test) == list(range(len(per_gene)))
