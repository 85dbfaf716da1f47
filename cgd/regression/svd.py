"""Singular vectors of a matrix that is much longer one way than the other."""

from __future__ import annotations

import torch
from torch import Tensor


def thin_svd(x: Tensor, least: float, n: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `n` leading singular triples of x (rows, columns) in float64, largest first.

    Parameters
    ----------
    least
        Directions with no more than this share of the largest squared singular value are rounding, and left out.

    Returns
    -------
    left, singular, right
        (rows, q) and (columns, q) orthonormal, (q,) above 0; q = 0 where x is 0.
    """
    x = x.double()
    by_rows = x.shape[0] <= x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if by_rows else x.T @ x)  # of the smaller Gram matrix: the cheaper one
    keep = (values > least * values[-1:].clamp_min(1e-30)).nonzero().flatten().flip(0)[:n]
    singular, vectors = values[keep].sqrt(), vectors[:, keep]
    if by_rows:
        return vectors, singular, x.T @ (vectors / singular)  # x = left diag(singular) right^T
    return x @ (vectors / singular), singular, vectors
