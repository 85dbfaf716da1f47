"""Kernel ridge regression over genes in closed form: one eigendecomposition serves every penalty.

The kernel is linear, F F^T with F the (n_genes, n_features) scRNA-seq features centred on the training genes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

LAMBDA_GRID = np.geomspace(1e-4, 1e2, 25)  # times the largest eigenvalue of the kernel
_N_PROJECTIONS = 128


def fit_ridge_lambda(features: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """The penalty with the smallest leave-one-gene-out squared error of a linear kernel ridge with intercept.

    Parameters
    ----------
    features
        (n_genes, n_features), centred inside.
    targets
        (n_genes, n_targets).

    Returns
    -------
    float
        lambda > 0 in units of the kernel F F^T of the centred features. Of penalties that do equally well the
        largest; 1 where the features do not vary.
    """
    eigenvalues, basis, centred = _ridge_basis(features, targets)
    if eigenvalues.max(initial=0.0) <= 1e-12 * np.square(features, dtype=np.float64).sum():  # nothing but rounding
        return 1.0
    if centred.shape[1] > _N_PROJECTIONS:
        # squared errors survive a random projection in the mean, and all penalties share the same one
        projection = np.random.default_rng(0).standard_normal((centred.shape[1], _N_PROJECTIONS))
        centred = centred @ projection
    grid = LAMBDA_GRID * eigenvalues.max()
    errors = np.array([np.square(_loo_residuals(eigenvalues, basis, centred, penalty)).mean() for penalty in grid])
    return float(grid[errors <= errors.min() * (1 + 1e-9)].max())


def ridge_predict(
    features: npt.ArrayLike, targets: npt.ArrayLike, queries: npt.ArrayLike, ridge_lambda: float
) -> Matrix:
    """Kernel ridge with intercept fitted on (`features`, `targets`), evaluated at `queries`.

    Parameters
    ----------
    features, targets, queries
        (n_genes, n_features), (n_genes, n_targets), (n_queries, n_features).
    ridge_lambda
        As returned by `fit_ridge_lambda`.

    Returns
    -------
    (n_queries, n_targets)
    """
    centre = np.asarray(features, dtype=np.float64).mean(axis=0)
    eigenvalues, basis, centred = _ridge_basis(features, targets)
    dual = basis @ ((basis.T @ centred) / (eigenvalues + ridge_lambda)[:, None])
    kernel = (np.asarray(queries, dtype=np.float64) - centre) @ (np.asarray(features, dtype=np.float64) - centre).T
    return np.asarray(targets, dtype=np.float64).mean(axis=0) + kernel @ dual


def ridge_leave_one_out(features: npt.ArrayLike, targets: npt.ArrayLike, ridge_lambda: float) -> Matrix:
    """(n_genes, n_targets) prediction of each gene by `ridge_predict` fitted on all others, in closed form.

    Needs at least two genes.
    """
    residuals = _loo_residuals(*_ridge_basis(features, targets), ridge_lambda)
    return np.asarray(targets, dtype=np.float64) - residuals


def _ridge_basis(features: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Matrix, Matrix, Matrix]:
    """(q,) eigenvalues above rounding and (n_genes, q) eigenvectors of the kernel of the centred features, through the
    smaller of the two Gram matrices, and the centred targets."""
    x, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(f"features and targets must have the same rows, found shapes {x.shape} and {y.shape}")
    x = x - x.mean(axis=0)
    by_genes = x.shape[0] <= x.shape[1]
    eigenvalues, vectors = np.linalg.eigh(x @ x.T if by_genes else x.T @ x)
    keep = eigenvalues > 1e-12 * eigenvalues.max(initial=0.0)
    eigenvalues, vectors = eigenvalues[keep], vectors[:, keep]
    basis = vectors if by_genes else x @ (vectors / np.sqrt(eigenvalues))
    return eigenvalues, basis, y - y.mean(axis=0)


def _loo_residuals(eigenvalues: Matrix, basis: Matrix, centred: Matrix, penalty: float) -> Matrix:
    """y - y_loo of each row, from one fit: the residual divided by 1 minus its leverage.

    The hat matrix is 11^T/n (the intercept, refitted without the row) plus K (K + lambda)^-1.
    """
    shrink = eigenvalues / (eigenvalues + penalty)
    residuals = centred - basis @ (shrink[:, None] * (basis.T @ centred))
    slack = 1.0 - np.square(basis) @ shrink - 1.0 / len(basis)
    return residuals / np.maximum(slack, 1e-12)[:, None]
