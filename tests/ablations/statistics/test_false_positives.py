"""At alpha 0.05 no more than 5 % of the studies without an effect find one, whatever the design.

A rate fails when it lies above the 99.9 % quantile of the binomial distribution at 0.05: 0.0596 with 5000 studies, so
a method with a true rate of 0.07 fails 99.8 times in 100 and one at 0.05 once in 1000. Measured rates of many more
designs are in docs/statistics.md. Draws are seeded, so the outcome is the same every time.
"""

import numpy as np
import pytest
from scipy.stats import binom
from simulated_effects import SKEW, TRUTH, Design, error_rate, family_error_rate, simulate

from ablations.statistics.paired import estimate

REPETITIONS = 5000
RESAMPLES = 200
HIGHEST = binom.ppf(0.999, REPETITIONS, 0.05) / REPETITIONS


@pytest.mark.parametrize(
    "design",
    [
        Design(10, 1, 1), Design(10, 1, 1, SKEW), Design(33, 1, 1, SKEW), Design(54, 1, 1), Design(150, 1, 1, SKEW),
        Design(10, 5, 1, SKEW), Design(33, 5, 1, SKEW, 1.0), Design(54, 5, 1, 0.0, 2.0), Design(150, 5, 1, SKEW),
        Design(10, 1, 3, SKEW), Design(33, 1, 3, SKEW, 1.0), Design(54, 1, 3, 0.0, 3.0), Design(54, 5, 3, SKEW, 1.0),
        Design(33, 2, 2, SKEW, 2.0),
    ],
)  # fmt: skip
def test_false_positives_and_coverage(design):
    rate = error_rate(design, REPETITIONS, RESAMPLES)
    assert rate <= HIGHEST
    assert 1 - rate >= 0.93
    assert rate >= 0.004, "a method that never rejects is of no use"


def test_the_tolerance_would_catch_a_rate_of_seven_percent():
    assert binom.sf(HIGHEST * REPETITIONS, REPETITIONS, 0.07) > 0.99


def test_leaving_the_models_out_would_be_caught():
    """The simulation can tell: with one fold and one seed the shift of the model passes for an effect."""
    assert error_rate(Design(33, 1, 1, 0.0, 1.0), REPETITIONS, RESAMPLES) > 2 * HIGHEST


def test_the_interval_covers_new_training_genes_from_3_folds_on():
    """Seeds do not show it: of one or two folds the report says that the interval holds for their training genes."""
    assert error_rate(Design(60, 2, 3, model_noise=1.0, fold_noise=1.0), REPETITIONS, RESAMPLES) > HIGHEST
    for folds in (3, 5):
        assert error_rate(Design(60, folds, 3, model_noise=1.0, fold_noise=1.0), REPETITIONS, RESAMPLES) <= HIGHEST


def test_reported_intervals_cover_the_truth():
    """The numbers of the report itself, through `estimate`."""
    design = Design(33, 5, 1, SKEW, 1.0)
    values = simulate(design, 300, np.random.default_rng(3))
    found = estimate(values, design.folds, n_resamples=RESAMPLES)
    assert np.mean([e.low <= TRUTH <= e.high for e in found]) >= 0.93


def test_the_minimum_detectable_effect_is_found_8_times_in_10():
    design = Design(54, 1, 1)
    values = simulate(design, 1500, np.random.default_rng(4)) - TRUTH
    mde = np.median([e.mde for e in estimate(values, design.folds, n_resamples=RESAMPLES)])
    found = estimate(values + mde, design.folds, n_resamples=RESAMPLES)
    assert np.mean([e.p < 0.05 for e in found]) == pytest.approx(0.8, abs=0.04)


def test_holm_over_five_levels_and_two_data_sets():
    families = 3000
    rate = family_error_rate(families, RESAMPLES)
    assert rate <= binom.ppf(0.999, families, 0.05) / families
    assert rate >= 0.01
