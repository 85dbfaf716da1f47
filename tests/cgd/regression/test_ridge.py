"""Ridge in closed form, against refitting with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import linear_model

from cgd.regression.ridge import LAMBDA_GRID, Ridge, fit_ridge_lambda, predict_with_intercept


@pytest.mark.parametrize("n_targets", [7, 60])
def test_leave_one_out_equals_refitting_without_each_gene(n_targets):
    rng = np.random.default_rng(5)
    features = rng.normal(1, 2, (15, 9))
    targets = features @ rng.normal(size=(9, n_targets)) + rng.normal(0, 3, (15, n_targets)) + 4

    def refit(penalty):
        held_out = []
        for i in range(15):
            rest = np.arange(15) != i
            held_out.append(
                linear_model.Ridge(alpha=penalty).fit(features[rest], targets[rest]).predict(features[i : i + 1])[0]
            )
        return np.array(held_out)

    centred = features - features.mean(axis=0)
    grid = LAMBDA_GRID * np.linalg.eigvalsh(centred @ centred.T)[-1]
    brute = [np.square(targets - refit(penalty)).mean() for penalty in grid]
    best = fit_ridge_lambda(torch.from_numpy(features), torch.from_numpy(targets))
    assert best == pytest.approx(grid[np.argmin(brute)])
    assert grid[0] < best < grid[-1]
    turned = torch.from_numpy(np.linalg.svd(centred, full_matrices=False)[0]) * np.linalg.svd(centred)[1]
    errors = Ridge(turned).leave_one_out(torch.from_numpy(targets - targets.mean(axis=0)), best)
    np.testing.assert_allclose(targets - errors.numpy(), refit(best), atol=1e-8)


@pytest.mark.parametrize("n_features", [5, 12, 30])
def test_ridge_prediction_equals_scikit_learn(n_features):
    rng = np.random.default_rng(6)
    features, queries = rng.normal(2, 1, (12, n_features)), rng.normal(size=(4, n_features))
    targets = rng.normal(size=(12, 5))
    expected = linear_model.Ridge(alpha=3.0).fit(features, targets).predict(queries)
    found = predict_with_intercept(*map(torch.from_numpy, (features, targets, queries)), 3.0)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_ridge_refuses_rows_that_do_not_match():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(4, 2\)"):
        fit_ridge_lambda(torch.ones(3, 2), torch.ones(4, 2))
