"""Metrics of one gene over the spots, computed for all genes at once.

Arrays are gene-major: a row is a gene, (n_genes, n_spots). Definitions: Li et al., Nature Methods 19:662 (2022),
used by Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751, section IV-C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr
from scipy.stats import rankdata

FloatArray = npt.NDArray[np.float64]
Variant = Literal["standard", "published"]

# Below this spread (relative to the largest value of the gene) what varies is float32 rounding, not the prediction.
CONSTANT_TOLERANCE = 1e-6
SSIM_K1, SSIM_K2 = 0.01, 0.03
_LI_2022 = "Li et al., Nature Methods 19:662 (2022)"
_PUBLISHED_CODE = "public reference code of CausalGeD (arXiv:2502.07751)"


@dataclass(frozen=True)
class Metric:
    """What a reader of a table must know of a metric.

    Attributes
    ----------
    key
        Name in the results.
    display
        Name in tables and figures.
    higher_is_better
        Direction.
    low, high
        Range of possible values, both included.
    reference
        Where the definition comes from.
    """

    key: str
    display: str
    higher_is_better: bool
    low: float
    high: float
    reference: str


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("pcc", "PCC", True, -1.0, 1.0, _LI_2022),
        Metric("ssim", "SSIM", True, -1.0, 1.0, _LI_2022),
        Metric("rmse", "RMSE of z-scores", False, 0.0, 2.0, _LI_2022),
        Metric("js", "JS divergence (nats)", False, 0.0, float(np.log(2)), _LI_2022),
        Metric("spearman", "Spearman", True, -1.0, 1.0, "Spearman, Am. J. Psychol. 15:72 (1904)"),
    )
}
PUBLISHED_METRICS: dict[str, Metric] = METRICS | {
    "ssim": replace(METRICS["ssim"], display="SSIM (min-max)", reference=_PUBLISHED_CODE),
    "rmse": Metric("rmse", "RMSE (min-max) + 1", False, 1.0, 2.0, _PUBLISHED_CODE),
    "js": Metric("js", "JS distance", False, 0.0, float(np.sqrt(np.log(2))), _PUBLISHED_CODE),
}


def gene_metrics(
    prediction: npt.ArrayLike, truth: npt.ArrayLike, variant: Variant = "standard"
) -> dict[str, FloatArray]:
    """Score every gene of a prediction.

    Standard definitions: `pcc` Pearson over spots; `ssim` one window over all spots, k1 = 0.01, k2 = 0.03, each
    vector divided by its own maximum (by its largest magnitude where nothing is positive); `rmse` between z-scores;
    `js` Jensen-Shannon divergence in nats between the vectors scaled to sum 1, negatives set to 0 first, an all-zero
    vector taken as uniform; `spearman` Pearson of average ranks.

    NaN policy: a gene with constant truth is NaN in every metric (it cannot be scored, `summarise` counts it). A
    constant prediction has `pcc` 0, `spearman` 0 and (standard) `rmse` 1, like a prediction of no information.
    Constant means a spread of at most 1e-6 of the largest magnitude. Nothing else is NaN.

    Parameters
    ----------
    prediction, truth
        (n_genes, n_spots) in the same units.
    variant
        `published` is the public reference code's own variant, for comparison with the paper's Table I only: min-max
        of each gene first, 1 added to the RMSE of the min-max values, the square root of the JS divergence. A
        constant gene is 0 after min-max.

    Returns
    -------
    dict
        `pcc`, `ssim`, `rmse`, `js`, `spearman`, each (n_genes,) float64.

    Raises
    ------
    ValueError
        Shapes that differ or are not two-dimensional, values that are not finite, an unknown variant.
    """
    if variant not in ("standard", "published"):
        raise ValueError(f"variant must be 'standard' or 'published', found {variant!r}")
    predicted, true = _checked(prediction, truth)
    flat_prediction, flat_truth = _is_constant(predicted), _is_constant(true)
    z_predicted, z_true = _z_scores(predicted, flat_prediction), _z_scores(true, flat_truth)
    scores = {"pcc": _mean_product(z_predicted, z_true)}
    if variant == "standard":
        scores["ssim"] = _ssim(_by_maximum(predicted), _by_maximum(true))
        scores["rmse"] = _rmse(z_predicted, z_true)
        scores["js"] = _js_divergence(predicted, true)
    else:
        low_high = _min_max(predicted, flat_prediction), _min_max(true, flat_truth)
        scores["ssim"] = _ssim(*low_high)
        scores["rmse"] = 1.0 + _rmse(*low_high)
        scores["js"] = np.sqrt(_js_divergence(*low_high))
    scores["spearman"] = _mean_product(
        _z_scores(rankdata(predicted, axis=1), flat_prediction), _z_scores(rankdata(true, axis=1), flat_truth)
    )
    return {key: np.where(flat_truth, np.nan, scores[key]) for key in METRICS}


def coverage(lower: npt.ArrayLike, upper: npt.ArrayLike, truth: npt.ArrayLike) -> FloatArray:
    """Share of the spots of each gene whose truth lies in [lower, upper].

    Parameters
    ----------
    lower, upper, truth
        (n_genes, n_spots) in the same units.

    Returns
    -------
    (n_genes,) in [0, 1]. Intervals that keep what they promise have a coverage equal to their level.

    Raises
    ------
    ValueError
        Shapes that differ, values that are not finite, or a lower bound above its upper bound.
    """
    arrays = {name: _matrix(name, x) for name, x in {"lower": lower, "upper": upper, "truth": truth}.items()}
    _same_shape(arrays)
    crossed = int((arrays["lower"] > arrays["upper"]).sum())
    if crossed:
        raise ValueError(f"lower must not exceed upper, found {crossed} entries where it does")
    inside = (arrays["lower"] <= arrays["truth"]) & (arrays["truth"] <= arrays["upper"])
    return inside.mean(axis=1)


def _checked(prediction: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both arrays, each gene divided by its largest magnitude: no metric here depends on a gene's scale."""
    arrays = {"prediction": _matrix("prediction", prediction), "truth": _matrix("truth", truth)}
    _same_shape(arrays)
    return _by_magnitude(arrays["prediction"]), _by_magnitude(arrays["truth"])


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


def _same_shape(arrays: Mapping[str, FloatArray]) -> None:
    if len({array.shape for array in arrays.values()}) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"arrays must have one shape (n_genes, n_spots), found {found}")


def _by_magnitude(x: FloatArray) -> FloatArray:
    magnitude = np.abs(x).max(axis=1, keepdims=True)
    return x / np.where(magnitude > 0, magnitude, 1.0)


def _by_maximum(x: FloatArray) -> FloatArray:
    """Divide by the maximum; `x` comes divided by its magnitude, which is kept where nothing is positive."""
    maximum = x.max(axis=1, keepdims=True)
    return x / np.where(maximum > CONSTANT_TOLERANCE, maximum, 1.0)


def _is_constant(x: FloatArray) -> npt.NDArray[np.bool_]:
    return np.ptp(x, axis=1) <= CONSTANT_TOLERANCE


def _min_max(x: FloatArray, constant: npt.NDArray[np.bool_]) -> FloatArray:
    shifted = x - x.min(axis=1, keepdims=True)
    return np.where(constant[:, None], 0.0, shifted / np.where(constant, 1.0, np.ptp(x, axis=1))[:, None])


def _z_scores(x: FloatArray, constant: npt.NDArray[np.bool_]) -> FloatArray:
    """z-scores with the population standard deviation; 0 for a constant gene."""
    centred = x - x.mean(axis=1, keepdims=True)
    scale = np.where(constant, 1.0, centred.std(axis=1))
    return np.where(constant[:, None], 0.0, centred / scale[:, None])


def _mean_product(z_a: FloatArray, z_b: FloatArray) -> FloatArray:
    return np.clip((z_a * z_b).mean(axis=1), -1.0, 1.0)


def _rmse(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.sqrt(np.square(a - b).mean(axis=1))


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
