"""Granger scores against the F test of two fitted regressions."""

import numpy as np
import pytest

from cgd.model.reference import granger_f, regulator_scores


def expression(n_genes=5, n_spots=60, seed=0):
    return np.random.default_rng(seed).normal(2, 1, (n_genes, n_spots)).cumsum(axis=1) * 0.1


def f_of_regressions(cause, effect):
    """F of y_t ~ 1 + y_{t-1} + x_{t-1} against y_t ~ 1 + y_{t-1}."""
    y = effect[1:]
    ones = np.ones_like(y)
    residuals = []
    for design in ([ones, effect[:-1]], [ones, effect[:-1], cause[:-1]]):
        matrix = np.stack(design, axis=1)
        residuals.append(np.square(y - matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0]).sum())
    return (residuals[0] - residuals[1]) / (residuals[1] / (len(y) - 3))


def test_every_score_is_the_f_of_two_regressions():
    x = expression()
    f = granger_f(x)
    for i in range(5):
        for j in range(5):
            expected = 0.0 if i == j else f_of_regressions(x[i], x[j])
            assert f[i, j] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_gene_that_drives_another_one_spot_later_is_found():
    rng = np.random.default_rng(0)
    driver = rng.normal(size=300)
    driven = np.concatenate([[0.0], 0.9 * driver[:-1]]) + 0.2 * rng.normal(size=300)
    x = np.stack([driver, driven, rng.normal(size=300)])
    f = granger_f(x)
    assert f[0, 1] > 100
    assert f[0, 1] == f.max()
    assert f[1, 0] < 20
    assert regulator_scores(x).argmax() == 0
    np.testing.assert_allclose(regulator_scores(x), f.mean(axis=1) - f.mean(axis=0))


def test_granger_scores_of_constant_or_equal_genes_are_finite():
    x = expression()
    x[1] = 4.0
    x[2] = x[0]
    x[3] = 0.0
    f = granger_f(x)
    assert np.isfinite(f).all()
    assert not f[[1, 3]].any()
    assert not f[:, [1, 3]].any()
    assert f[0, 2] == f[2, 0] == 0


def test_scores_do_not_depend_on_scale_or_level():
    x = expression()
    np.testing.assert_allclose(granger_f(3 * x + 100), granger_f(x), rtol=1e-6)


def test_too_few_spots():
    with pytest.raises(ValueError, match="needs at least 6 spots, got 5"):
        granger_f(expression(n_spots=5))
    assert np.isfinite(granger_f(expression(n_spots=6))).all()
