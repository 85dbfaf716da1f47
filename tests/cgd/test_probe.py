"""A probe of a few steps foresees what a trial takes."""

import pytest


@pytest.mark.parametrize("values", [{}, {"sampling.n_samples": 0}, {"sampling.estimate": "draws"}], ids=str)
def test_the_intervals_that_are_scored_are_the_models_own(tiny, values):
    evaluation, test = tiny.evaluate(values), tiny.hidden().test
    low, high = evaluation.model.predict_interval(tiny.split.test)
    inside = ((low <= test.truth) & (test.truth <= high)).mean()
    width = ((high - low).mean(axis=1) / test.truth.std(axis=1)).mean()
    assert evaluation.summary["coverage_90"] == pytest.approx(inside, abs=1e-6)
    assert evaluation.summary["interval_width_90"] == pytest.approx(width, rel=1e-5)
    assert evaluation.summary["calibration_genes"] == 8
