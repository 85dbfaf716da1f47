"""Calibrated intervals: the coverage promised over genes, what is said where it cannot be promised, their scale."""

import numpy as np
import pytest

from cgd.calibration import N_POINTS, Calibration, SpreadTrend, score_quantiles
from cgd.data.protocol import HiddenGenes
from cgd.errors import ConfigError

FLAT = SpreadTrend(intercept=0.0, slope=0.0, low=1.0, high=1.0)
N_SPOTS, N_NEW = 40, 10


def log_normal_errors(rng, n_genes):
    """Errors of genes that differ in size by much, and within a gene are correlated over the spots."""
    size = np.exp(rng.normal(0, 0.7, (n_genes, 1)))
    return size * (0.6 * rng.normal(size=(n_genes, 1)) + 0.8 * rng.normal(size=(n_genes, N_SPOTS)))


def heavy_errors(rng, n_genes):
    """A fifth of the genes is far worse than the others: no log-normal."""
    size = np.where(rng.random((n_genes, 1)) < 0.2, 20.0, 1.0)
    return size * rng.standard_t(2, size=(n_genes, N_SPOTS))


def coverage(errors, n_genes, level, n_draws=400):
    """Mean coverage of new genes over many draws of calibration genes and new ones, and its standard error."""
    rng, found = np.random.default_rng(0), []
    for _ in range(n_draws):
        known, new = np.abs(errors(rng, n_genes)), np.abs(errors(rng, N_NEW))
        zero = np.zeros_like(known)
        threshold = Calibration(score_quantiles(known, zero, zero + 1), FLAT).threshold(level)
        found.append((new <= threshold).mean())
    return np.mean(found), np.std(found) / np.sqrt(n_draws)


@pytest.mark.parametrize("errors", [log_normal_errors, heavy_errors])
@pytest.mark.parametrize(("n_genes", "level"), [(2, 0.3), (5, 0.5), (9, 0.8), (19, 0.9), (60, 0.9), (60, 0.5)])
def test_a_guaranteed_level_holds_over_genes_for_any_errors(errors, n_genes, level):
    mean, error = coverage(errors, n_genes, level)
    assert Calibration(np.ones((n_genes, N_POINTS)), FLAT).is_guaranteed(level)
    assert mean > level - 2 * error


def test_with_many_genes_it_is_held_and_not_much_more():
    mean, error = coverage(log_normal_errors, 200, 0.9, n_draws=100)
    assert 0.9 - 2 * error < mean < 0.92


@pytest.mark.parametrize(("n_genes", "level"), [(3, 0.8), (5, 0.9), (5, 0.95), (12, 0.95)])
def test_extrapolation_to_few_genes_holds_if_its_assumption_does(n_genes, level):
    mean, error = coverage(log_normal_errors, n_genes, level)
    assert not Calibration(np.ones((n_genes, N_POINTS)), FLAT).is_guaranteed(level)
    assert mean > level - 0.02 - 2 * error


def test_entries_are_not_taken_for_independent_observations():
    """Where the spots of a gene share their error, the quantile of all entries covers too little."""

    def shared_errors(rng, n_genes):
        return np.repeat(rng.normal(size=(n_genes, 1)), N_SPOTS, axis=1)

    rng, pooled = np.random.default_rng(0), []
    for _ in range(400):
        known, new = np.abs(shared_errors(rng, 9)), np.abs(shared_errors(rng, N_NEW))
        pooled.append((new <= np.quantile(known, 0.77)).mean())
    assert np.mean(pooled) < 0.73
    mean, error = coverage(shared_errors, 9, 0.77)
    assert mean > 0.77 - 2 * error


def test_the_note_never_claims_what_is_not_guaranteed():
    def note(n_genes, level=0.9):
        return Calibration(np.ones((n_genes, N_POINTS)), FLAT).note(level)

    assert (
        note(19)
        == "calibrated on 19 validation genes: hold 0.9 of a new gene's values on average over genes like these"
    )
    assert "too few to guarantee 0.9 (at most 0.71); extrapolated" in note(6)
    assert "hold 0.7" in note(6, 0.7)
    assert note(1) == "calibrated on 1 validation gene: too few for any bound; the upper one is infinite"


@pytest.mark.parametrize("n_genes", [0, 1])
def test_without_two_genes_the_interval_is_unbounded(n_genes):
    low, high = Calibration(np.ones((n_genes, N_POINTS)), FLAT).interval(np.ones((2, 3)), 0.5)
    assert (low == 0).all()
    assert np.isposinf(high).all()


@pytest.mark.parametrize("n_genes", [2, 3, 6, 20, 100])
def test_a_higher_level_never_gives_a_narrower_interval(n_genes):
    rng = np.random.default_rng(n_genes)
    errors = np.abs(heavy_errors(rng, n_genes))
    calibration = Calibration(score_quantiles(errors, 0 * errors, 0 * errors + 1), FLAT)
    thresholds = [calibration.threshold(level) for level in np.linspace(0.01, 0.999, 200)]
    assert (np.diff(thresholds) >= 0).all()
    assert not np.isnan(thresholds).any()


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 90, float("nan")])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(
        ConfigError, match=r"level must be above 0 and below 1, found .*; 0\.9 asks for intervals of 90 %"
    ):
        Calibration(np.ones((30, N_POINTS)), FLAT).interval(np.ones((1, 2)), level)


# ---- scores -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_spots", [1, 7, 200, 1000])
def test_kept_quantiles_are_never_below_the_exact_ones(n_spots):
    scores = np.random.default_rng(0).random((3, n_spots))
    kept = score_quantiles(scores, 0 * scores, 0 * scores + 1)
    for j in range(N_POINTS):
        assert ((scores <= kept[:, [j]]).mean(axis=1) >= (j + 1) / N_POINTS - 1e-9).all()
    np.testing.assert_array_equal(kept[:, -1], scores.max(axis=1))


def test_hidden_genes_are_scored_and_tell_no_spot_from_another():
    rng = np.random.default_rng(0)
    truth = rng.random((4, 30)).astype(np.float32)
    truth[1] = 0
    center, scale, order = rng.random((4, 30)), 1 + rng.random((4, 30)), rng.permutation(30)
    found = HiddenGenes(tuple("abcd"), truth, None, 0.05).conformity(center, scale)
    assert found.shape == (3, N_POINTS)
    shuffled = HiddenGenes(tuple("abcd"), truth[:, order], None, 0.05).conformity(center[:, order], scale[:, order])
    np.testing.assert_array_equal(found, shuffled)
    np.testing.assert_allclose(found[:, -1], (np.abs(truth - center) / scale).max(axis=1)[[0, 2, 3]])


def test_genes_predicted_without_error_leave_no_width():
    calibration = Calibration(np.zeros((5, N_POINTS)), FLAT)
    for level in (0.5, 0.99):
        assert calibration.threshold(level) == 0
    one_off = Calibration(np.vstack([np.zeros((4, N_POINTS)), np.ones((1, N_POINTS))]), FLAT)
    assert one_off.threshold(0.9) > 0


def test_bounds_are_about_the_estimate_and_not_negative():
    trend = SpreadTrend(intercept=np.log(2.0), slope=0.5, low=0.01, high=100.0)
    low, high = Calibration(np.full((30, N_POINTS), 1.5), trend).interval(np.array([[0.25, 64.0, -9.0]]))
    np.testing.assert_allclose(low, [[0.0, 64 - 1.5 * 16, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(high, [[0.25 + 1.5, 64 + 1.5 * 16, 0.0]], rtol=1e-6)
    assert low.dtype == high.dtype == np.float32


# ---- the spread trend ---------------------------------------------------------------------------------------------


def test_the_trend_finds_how_spread_grows_with_expression():
    rng = np.random.default_rng(0)
    mean = np.exp(rng.uniform(-2, 2, (300, 1)))
    trend = SpreadTrend.fit(mean + 0.3 * mean**0.7 * rng.standard_normal((300, 500)))
    assert trend.slope == pytest.approx(0.7, abs=0.02)
    np.testing.assert_allclose(trend([0.5, 1.0, 3.0]), 0.3 * np.array([0.5, 1.0, 3.0]) ** 0.7, rtol=0.03)


def test_the_trend_is_not_used_beyond_the_training_genes():
    trend = SpreadTrend(intercept=0.0, slope=1.0, low=0.1, high=2.0)
    np.testing.assert_allclose(trend([[-1.0, 0.0, 0.1, 1.0, 2.0, 50.0]]), [[0.1, 0.1, 0.1, 1.0, 2.0, 2.0]])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[2.0, 2.0], [0.0, 0.0]], 1.0),  # nothing varies
        ([[1.0, 3.0], [5.0, 5.0]], 1.0),  # one gene does: its spread at every level
        ([[1.0, 3.0], [0.0, 4.0]], np.sqrt(2.0)),  # two of the same mean: no slope
    ],
)
def test_a_trend_of_genes_that_show_none(rows, expected):
    trend = SpreadTrend.fit(rows)
    assert trend.slope == 0
    np.testing.assert_allclose(trend([0.1, 2.0, 9.0]), expected)


def test_adapting_to_the_spread_narrows_and_evens_out_intervals():
    """Genes whose errors grow with their level: one width for all covers the rare and misses the abundant."""
    rng = np.random.default_rng(0)
    level = np.exp(rng.uniform(-3, 2, (400, 1)))
    center = np.repeat(level, 50, axis=1)
    truth = np.maximum(center + 0.5 * center**0.8 * rng.standard_normal(center.shape), 0)
    trend = SpreadTrend.fit(truth[:200])
    covered, width = {}, {}
    for name, scale in (("adaptive", trend), ("flat", FLAT)):
        known = slice(200, 300)
        scores = score_quantiles(truth[known], center[known], scale(center[known]))
        low, high = Calibration(scores, scale).interval(center[300:])
        covered[name] = ((low <= truth[300:]) & (truth[300:] <= high)).mean(axis=1)
        width[name] = (high - low).mean()
    assert covered["adaptive"].mean() == pytest.approx(0.9, abs=0.02)
    assert covered["adaptive"].std() < covered["flat"].std() / 2
    assert width["adaptive"] < 0.9 * width["flat"]
