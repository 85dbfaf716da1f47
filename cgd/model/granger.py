"""Granger scores between genes over the spots (paper, Fig. 1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def granger_f(expression: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(n_genes, n_genes) F statistics of the lag-1 Granger test, [i, j]: does gene i help to predict gene j.

    The spots are taken in the order they are given, as a series; each F compares y_t ~ y_{t-1} with
    y_t ~ y_{t-1} + x_{t-1} (1 and n_spots - 4 degrees of freedom), computed for all pairs at once from partial
    correlations. A gene that does not vary, and a gene against itself, score 0.

    Parameters
    ----------
    expression
        (n_genes, n_spots) visible ST expression.

    Raises
    ------
    ValueError
        Fewer than 6 spots.
    """
    n_spots = expression.shape[1]
    if n_spots < 6:
        raise ValueError(f"the lag-1 Granger test needs at least 6 spots, got {n_spots}")
    now, past = _standardise(expression[:, 1:]), _standardise(expression[:, :-1])
    n = n_spots - 1
    cause_effect = past @ now.T / n  # corr(x_{t-1}, y_t)
    own = (past * now).sum(1) / n  # corr(y_{t-1}, y_t)
    lagged = past @ past.T / n  # corr(x_{t-1}, y_{t-1})
    spread = (1 - own**2)[None, :] * (1 - lagged**2)
    # F of one regressor added to another is a function of their partial correlation alone: no regression is solved
    numerator = (cause_effect - lagged * own[None, :]) ** 2
    partial = np.divide(numerator, spread, out=np.zeros_like(spread), where=spread > 1e-10).clip(0, 1 - 1e-12)
    f = partial * (n - 3) / (1 - partial)
    np.fill_diagonal(f, 0.0)
    return f


def regulator_scores(expression: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(n_genes,) mean F of a gene as cause less its mean F as effect: regulators come out high."""
    f = granger_f(expression)
    return f.mean(axis=1) - f.mean(axis=0)


def _standardise(x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64)
    spread = centred.std(axis=1, keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
