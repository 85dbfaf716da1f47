"""How far the mean of a study's values may be from the truth: two sources of variance and one interval.

Genes
    The values, averaged over the seeds, vary between genes within a fold: Student's t on the pooled variance. Where
    genes are skewed t is too narrow on one side, by how much is asked of the studentised bootstrap over genes (Hall,
    The Bootstrap and Edgeworth Expansion, 1992, section 3.3; Hesterberg, The American Statistician 69:371, 2015).
Models
    All genes of one (seed, fold) share one trained model, and all genes of a fold its training genes. That variance
    shows between fold means beyond what the genes explain, or between the seeds of a fold. Few replicates know it
    badly, so it enters as a distribution and not as a number: the generalised p value of Tsui and Weerahandi (Journal
    of the American Statistical Association 84:602, 1989). Satterthwaite's approximation rejects up to 8 % of true
    nulls at alpha 0.05 with three replicates, this one at most 5 % (docs/statistics.md).

Everything is vectorised over columns that share one design, be they metrics or simulated studies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, stdtr, stdtrit

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
N_RESAMPLES = 2000
MIN_MODEL_DF = 2  # with one degree of freedom the interval would be 13 standard errors wide and say nothing
_MAX_CELLS = 4_000_000  # resampled entries held at once: 32 MB per array
_WIDEST_SHAPE = 2.0  # of a handful of genes some resamples repeat one gene, and the studentised mean has no bound
_N_GRID = 100


@dataclass(frozen=True)
class Spread:
    """What the data say about the variance of each column's mean; arrays are (n_columns,).

    Attributes
    ----------
    gene_sd
        Standard deviation of the genes within their folds, seeds averaged.
    gene_variance, gene_df
        Variance of the mean for given models, and its degrees of freedom.
    low_shape, high_shape
        How much further than Student's t the interval reaches below and above the mean; at least 1.
    model_total, model_excess, model_df
        A mean square of the models, the part of it that genes explain (both on the scale of the variance of the mean)
        and the degrees of freedom; 0 of them where the design cannot estimate it.
    """

    mean: FloatArray
    gene_sd: FloatArray
    gene_variance: FloatArray
    gene_df: int
    low_shape: FloatArray
    high_shape: FloatArray
    model_total: FloatArray
    model_excess: FloatArray
    model_df: int

    @property
    def model_variance(self) -> FloatArray:
        return np.maximum(0.0, self.model_total - self.model_excess)

    @property
    def standard_error(self) -> FloatArray:
        return np.sqrt(self.gene_variance + self.model_variance)


def measure(cube: FloatArray, folds: IntArray, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Spread:
    """The spread of the mean over units (a gene in its fold) of the mean over seeds.

    Parameters
    ----------
    cube
        (n_seeds, n_units, n_columns); NaN at the same places of every column, no unit without a value.
    folds
        (n_units,) labels.
    n_resamples, seed
        Of the bootstrap; all columns share its draws.

    Raises
    ------
    ValueError
        There are not more units than folds, so genes cannot be compared within a fold.
    """
    values = np.nanmean(cube, axis=0)
    _, code, size = np.unique(folds, return_inverse=True, return_counts=True)
    n_units, n_folds = len(values), len(size)
    gene_df = n_units - n_folds
    if gene_df < 1:
        raise ValueError(f"{n_units} genes in {n_folds} folds: at least one fold needs two genes")
    fold_means = np.eye(n_folds)[code].T @ values / size[:, None]
    residuals = values - fold_means[code]
    within = (residuals**2).sum(axis=0) / gene_df
    low, high = _measure_shapes(residuals, size[code], n_resamples, seed)
    total, excess, df = _measure_models(cube, values, code, size, fold_means, within)
    return Spread(values.mean(axis=0), np.sqrt(within), within / n_units, gene_df, low, high, total, excess, df)


# ---- genes ----------------------------------------------------------------------------------------------------------


def draw_means(values: FloatArray, n_resamples: int = N_RESAMPLES, seed: int = 0) -> FloatArray:
    """Means of rows drawn with replacement; every column sees the same draws.

    Parameters
    ----------
    values
        (n_rows, n_columns), finite.

    Returns
    -------
    (n_resamples, n_columns) means.
    """
    n_rows, n_columns = values.shape
    generator = np.random.default_rng(seed)
    means = np.empty((n_resamples, n_columns))
    step = max(1, _MAX_CELLS // n_rows)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        drawn = generator.integers(0, n_rows, (size, n_rows)) + n_rows * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n_rows).reshape(size, n_rows)
        means[start : start + size] = counts @ values / n_rows
    return means


def _measure_shapes(
    residuals: FloatArray, fold_size: IntArray, n_resamples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Quantiles of the studentised bootstrap over Student's, for the lower and the upper end, within [1, 2].

    The residuals from the fold means are resampled together: folds of two or three genes have nothing to resample.
    Never below 1, so that the skew of a few genes widens one end and never narrows the other.
    """
    n_units, n_columns = residuals.shape
    scaled = residuals * np.sqrt(fold_size / np.maximum(fold_size - 1, 1))[:, None]
    spread = scaled.std(axis=0)
    scaled = scaled / np.where(spread > 0, spread, 1.0)
    resampled = draw_means(np.hstack([scaled, scaled**2]), n_resamples, seed)
    means, squares = resampled[:, :n_columns], resampled[:, n_columns:]
    errors = np.sqrt(np.maximum(squares - means**2, 1e-12) / (n_units - 1))
    low, high = np.quantile(means / errors, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    student = stdtrit(n_units - 1, 1 - ALPHA / 2)
    return np.clip(high / student, 1.0, _WIDEST_SHAPE), np.clip(-low / student, 1.0, _WIDEST_SHAPE)


# ---- models ---------------------------------------------------------------------------------------------------------


def _measure_models(
    cube: FloatArray, values: FloatArray, code: IntArray, size: IntArray, fold_means: FloatArray, within: FloatArray
) -> tuple[FloatArray, FloatArray, int]:
    """Mean square of the models, what genes explain of it, degrees of freedom: from folds, else seeds, else none.

    Folds differ by training genes and by training noise, seeds by the latter alone, so folds come first.
    """
    n_folds, n_units = len(size), len(values)
    if n_folds - 1 >= MIN_MODEL_DF:
        between = (size[:, None] * (fold_means - values.mean(axis=0)) ** 2).sum(axis=0) / (n_folds - 1)
        weight = (size**2).sum() / n_units**2
        per_fold = (n_units - (size**2).sum() / n_units) / (n_folds - 1)
        return weight * between / per_fold, weight * within / per_fold, n_folds - 1
    return _measure_seeds(cube, code, size)


def _measure_seeds(cube: FloatArray, code: IntArray, size: IntArray) -> tuple[FloatArray, FloatArray, int]:
    """Variance between the seeds of a fold over the genes that all of them scored (two-way layout, no replication)."""
    total, excess = np.zeros(cube.shape[2]), np.zeros(cube.shape[2])
    df, weight = 0, 0.0
    for fold, n_units in enumerate(size):
        block = cube[:, code == fold]
        block = block[np.isfinite(block[:, :, 0]).any(axis=1)]
        weight += (n_units / size.sum()) ** 2 / len(block)
        block = block[:, np.isfinite(block[:, :, 0]).all(axis=0)]
        n_seeds, n_genes = block.shape[:2]
        if n_seeds < 2 or n_genes < 2:
            continue
        means = block.mean(axis=1, keepdims=True)
        rest = block - means - block.mean(axis=0) + means.mean(axis=0)
        total += ((means - means.mean(axis=0)) ** 2).sum(axis=(0, 1))
        excess += (rest**2).sum(axis=(0, 1)) / (n_genes - 1) / n_genes
        df += n_seeds - 1
    if df < MIN_MODEL_DF:
        return np.zeros_like(total), np.zeros_like(total), 0
    return weight * total / df, weight * excess / df, df


# ---- the test and its inversion -------------------------------------------------------------------------------------


def find_p_values(spread: Spread, null: float = 0.0) -> FloatArray:
    """Two-sided p of "the mean is `null`"; 0 or 1 where nothing varies."""
    distance = spread.mean - null
    return _tail(spread, np.abs(distance), np.where(distance > 0, spread.low_shape, spread.high_shape))


def find_reach(spread: Spread, shape: FloatArray | float = 1.0) -> FloatArray:
    """How far from its mean the interval reaches: the distance at which p is `ALPHA`, by bisection."""
    if not spread.model_df:
        return stdtrit(spread.gene_df, 1 - ALPHA / 2) * np.sqrt(spread.gene_variance) * shape
    scale = spread.standard_error
    low, high = np.zeros_like(scale), 2.0 * scale
    while (inside := _tail(spread, high, shape) > ALPHA)[scale > 0].any():
        high = np.where(inside, 2 * high, high)
    for _ in range(40):
        middle = (low + high) / 2
        outside = _tail(spread, middle, shape) < ALPHA
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return high


def find_effective_df(ratio: FloatArray) -> FloatArray:
    """Degrees of freedom whose 97.5 % quantile of Student's t is `ratio`; NaN for NaN."""
    low, high = np.full_like(ratio, 0.1), np.full_like(ratio, 1e6)
    for _ in range(50):
        middle = np.sqrt(low * high)
        more = stdtrit(middle, 1 - ALPHA / 2) > ratio
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return np.where(np.isnan(ratio), np.nan, high)


def _tail(spread: Spread, distance: FloatArray, shape: FloatArray | float) -> FloatArray:
    """P(|estimate - truth| >= distance), averaged over what the variance between models may be."""
    variance = (spread.gene_variance * np.asarray(shape) ** 2)[None]
    if spread.model_df:
        levels = (np.arange(_N_GRID) + 0.5) / _N_GRID
        factors = spread.model_df / chdtri(spread.model_df, levels)[:, None]
        variance = variance + np.maximum(0.0, spread.model_total * factors - spread.model_excess)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = 2 * stdtr(spread.gene_df, -distance / np.sqrt(variance)).mean(axis=0)
    return np.where(np.isnan(tail), 1.0, tail)  # 0 / 0: nothing varies and nothing differs
