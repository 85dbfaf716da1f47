"""Metrics of one gene over the spots, computed for all genes at once.

Arrays are gene-major: a row is a gene, (n_genes, n_spots). Definitions: Li et al., Nature Methods 19:662 (2022),
used by Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751, section IV-C.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr
from scipy.stats import rankdata

FloatArray = npt.NDArray[np.float64]

# Below this spread (relative to the largest value of the gene) what varies is float32 rounding, not the prediction.
CONSTANT_TOLERANCE = 1e-6
SSIM_K1, SSIM_K2 = 0.01, 0.03


def gene_metrics(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> dict[str, FloatArray]:
    """Score every gene of a prediction.

    Definitions: `pcc` Pearson over spots; `ssim` one window over all spots, k1 = 0.01, k2 = 0.03, each
    vector divided by its own maximum (by its largest magnitude where nothing is positive); `rmse` between z-scores;
    `js` Jensen-Shannon divergence in nats between the vectors scaled to sum 1, negatives set to 0 first, an all-zero
    vector taken as uniform; `spearman` Pearson of average ranks.

    NaN policy: a gene with constant truth is NaN in every metric (it cannot be scored, `summarise_table` counts it). A
    constant prediction has `pcc` 0, `spearman` 0 and `rmse` 1, like a prediction of no information.
    Constant means a spread of at most 1e-6 of the largest magnitude. Nothing else is NaN.

    Parameters
    ----------
    prediction, truth
        (n_genes, n_spots) in the same units.

    Returns
    -------
    dict
        `pcc`, `ssim`, `rmse`, `js`, `spearman`, each (n_genes,) float64.

    Raises
    ------
    ValueError
        Shapes that differ or are not two-dimensional, values that are not finite.
    """
    predicted, true = _matrix("prediction", prediction), _matrix("truth", truth)
    if predicted.shape != true.shape:
        found = f"prediction {predicted.shape}, truth {true.shape}"
        raise ValueError(f"arrays must have one shape (n_genes, n_spots), found {found}")
    # no metric here depends on the scale of a gene, and squares of tiny values would underflow
    predicted, true = _scale_by_magnitude(predicted), _scale_by_magnitude(true)
    flat_prediction, flat_truth = _is_constant(predicted), _is_constant(true)
    z_predicted, z_true = _z_scores(predicted, flat_prediction), _z_scores(true, flat_truth)
    ranks = _z_scores(rankdata(predicted, axis=1), flat_prediction), _z_scores(rankdata(true, axis=1), flat_truth)
    scores = {
        "pcc": _mean_product(z_predicted, z_true),
        "ssim": _ssim(_scale_by_maximum(predicted), _scale_by_maximum(true)),
        "rmse": np.sqrt(np.square(z_predicted - z_true).mean(axis=1)),
        "js": _js_divergence(predicted, true),
        "spearman": _mean_product(*ranks),
    }
    return {name: np.where(flat_truth, np.nan, values) for name, values in scores.items()}


def _matrix(name: str, values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must be (n_genes, n_spots) with at least one spot, found shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        n_entries = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"{name} must be finite, found {n_entries} NaN or infinite entries in {bad.size} genes "
            f"(first rows: {bad[:5].tolist()})"
        )
    return array


def _scale_by_magnitude(x: FloatArray) -> FloatArray:
    magnitude = np.abs(x).max(axis=1, keepdims=True)
    return x / np.where(magnitude > 0, magnitude, 1.0)


def _scale_by_maximum(x: FloatArray) -> FloatArray:
    """Divide by the maximum; `x` comes divided by its magnitude, which is kept where nothing is positive."""
    maximum = x.max(axis=1, keepdims=True)
    return x / np.where(maximum > CONSTANT_TOLERANCE, maximum, 1.0)


def _is_constant(x: FloatArray) -> npt.NDArray[np.bool_]:
    return np.ptp(x, axis=1) <= CONSTANT_TOLERANCE


def _z_scores(x: FloatArray, constant: npt.NDArray[np.bool_]) -> FloatArray:
    """z-scores with the population standard deviation; 0 for a constant gene."""
    centred = x - x.mean(axis=1, keepdims=True)
    scale = np.where(constant, 1.0, centred.std(axis=1))
    return np.where(constant[:, None], 0.0, centred / scale[:, None])


def _mean_product(z_a: FloatArray, z_b: FloatArray) -> FloatArray:
    return np.clip((z_a * z_b).mean(axis=1), -1.0, 1.0)


def _ssim(a: FloatArray, b: FloatArray) -> FloatArray:
    """One-window SSIM with population moments. The larger maximum of both scaled vectors, L, is 1."""
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    mean_a, mean_b = a.mean(axis=1), b.mean(axis=1)
    covariance = ((a - mean_a[:, None]) * (b - mean_b[:, None])).mean(axis=1)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (a.var(axis=1) + b.var(axis=1) + c2)


def _js_divergence(a: FloatArray, b: FloatArray) -> FloatArray:
    p, q = _distribution(a), _distribution(b)
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / 2
    return np.clip(divergence, 0.0, np.log(2))


def _distribution(x: FloatArray) -> FloatArray:
    positive = np.clip(x, 0.0, None)
    total = positive.sum(axis=1, keepdims=True)
    return np.where(total > 0, positive / np.where(total > 0, total, 1.0), 1.0 / x.shape[1])
