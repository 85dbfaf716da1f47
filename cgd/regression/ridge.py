"""Ridge regression over genes in closed form: one eigendecomposition of the kernel F F^T serves every penalty.

Shapes: n training genes, G genes, r features, q features with orthogonal columns, t targets.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cgd.regression.svd import thin_svd

LAMBDA_GRID = np.geomspace(1e-4, 1e2, 25)  # times the largest eigenvalue of the kernel
_ROUNDING = 1e-12  # of the largest eigenvalue, or of the features' sum of squares
_N_PROJECTIONS = 128


class Ridge:
    """Ridge regressions on one set of features.

    Parameters
    ----------
    features
        (n, q) with orthogonal columns: the eigenvectors of the kernel, each times the root of its eigenvalue.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features.double()
        self.values = self.features.square().sum(0)  # (q,) eigenvalues
        self.basis = self.features / self.values.sqrt().clamp_min(1e-12)  # (n, q) eigenvectors

    def solve(self, targets: Tensor, penalty: float | Tensor) -> Tensor:
        """(q, t) weights of the features, for targets (n, t)."""
        return self.features.T @ targets / (self.values + penalty)[:, None]

    def fit_residuals(self, targets: Tensor, penalty: float | Tensor) -> tuple[Tensor, Tensor]:
        """(n, t) errors of the fit to targets (n, t), and (n, 1) 1 - leverage: their quotient is the error of
        predicting each gene from all the others."""
        shrink = self.values / (self.values + penalty)
        residuals = targets - self.basis @ (shrink[:, None] * (self.basis.T @ targets))
        return residuals, (1 - self.basis.square() @ shrink)[:, None]

    def leave_one_out(self, centred: Tensor, penalty: float | Tensor) -> Tensor:
        """(n, t) errors of predicting each gene from all the others, of `centred` targets (n, t) with an intercept."""
        residuals, slack = self.fit_residuals(centred, penalty)
        return residuals / (slack - 1 / len(centred)).clamp_min(1e-12)  # the intercept has a leverage of 1 / n


def fit_ridge_lambda(features: Tensor, targets: Tensor) -> float:
    """The penalty with the smallest leave-one-gene-out squared error of a linear kernel ridge with intercept.

    Parameters
    ----------
    features, targets
        (n, r), centred inside, and (n, t).

    Returns
    -------
    float
        lambda > 0 in units of the kernel F F^T of the centred features. Of penalties that do equally well the
        largest; 1 where the features do not vary.
    """
    ridge, _ = _decompose(features, targets)
    largest = float(ridge.values.max()) if len(ridge.values) else 0.0
    if largest <= _ROUNDING * float(features.double().square().sum()):
        return 1.0
    centred = targets.double() - targets.double().mean(0)
    if centred.shape[1] > _N_PROJECTIONS:
        # squared errors survive a random projection in the mean, and all penalties share the same one
        projection = np.random.default_rng(0).standard_normal((centred.shape[1], _N_PROJECTIONS))
        centred = centred @ torch.from_numpy(projection).to(centred.device)
    grid = LAMBDA_GRID * largest
    errors = np.array([float(ridge.leave_one_out(centred, penalty).square().mean()) for penalty in grid])
    return float(grid[errors <= errors.min() * (1 + 1e-9)].max())


def predict_with_intercept(features: Tensor, targets: Tensor, queries: Tensor, ridge_lambda: float) -> Tensor:
    """(G, t) kernel ridge fitted on features (n, r) and targets (n, t), evaluated at queries (G, r)."""
    ridge, axes = _decompose(features, targets)
    mean = targets.double().mean(0)
    turned = (queries.double() - features.double().mean(0)) @ axes
    return mean + turned @ ridge.solve(targets.double() - mean, ridge_lambda)


def standardise_residuals(features: Tensor, latents: Tensor, ridge_lambda: float) -> Tensor:
    """(n, t) errors of predicting each gene's latent (n, t) from all the others without intercept, each over the root
    of the variance that `predict_from_context` gives it."""
    residuals, slack = Ridge(_turn(features)).fit_residuals((latents - latents.mean(0)).double(), ridge_lambda)
    return (residuals * ((1 + ridge_lambda) / (ridge_lambda * slack)).sqrt()).to(latents.dtype)


def leave_one_out_operator(features: Tensor, ridge_lambda: float) -> Tensor:
    """(n, n) matrix whose product with latents (n, t) predicts each gene from all the others, without intercept."""
    identity = torch.eye(len(features), dtype=torch.float64, device=features.device)
    residuals, slack = Ridge(_turn(features)).fit_residuals(identity, ridge_lambda)
    return (identity - residuals / slack).fill_diagonal_(0.0).to(features.dtype)


def _decompose(features: Tensor, targets: Tensor) -> tuple[Ridge, Tensor]:
    """The ridge on the centred features (n, r), and the (r, q) axes that turn them into its own."""
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or not len(features):
        found = f"{tuple(features.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"features and targets must have the same rows, found shapes {found}")
    centred = features.double() - features.double().mean(0)
    left, singular, axes = thin_svd(centred, _ROUNDING)
    return Ridge(left * singular), axes


def _turn(features: Tensor) -> Tensor:
    """(n, q) features with the same inner products and orthogonal columns."""
    left, singular, _ = thin_svd(features, _ROUNDING)
    return left * singular
