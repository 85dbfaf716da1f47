"""Floors every prediction is compared with, the ceilings above it, and the fills of the `published` protocol.

A floor is `floor(visible, genes, seed)` and returns (n_genes, n_spots) float32 in the units of `visible.x_st`. It
receives a `VisiblePair`, which carries no ST value of a held-out gene: like a method, a floor cannot see the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cgd.errors import DataError

if TYPE_CHECKING:  # cgd.data.protocol scores with cgd.metrics, so at run time the import goes that way only
    from cgd.data.protocol import VisiblePair

FloatArray = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Floor = Callable[["VisiblePair", Sequence[str], int], FloatArray]

N_NEIGHBOURS = 10
N_THINNINGS = 8  # of the noise ceiling: more change it by less than .01


def random(visible: VisiblePair, genes: Sequence[str], seed: int = 0) -> FloatArray:
    """For each gene a training gene drawn at random, its spots shuffled: plausible values, no information."""
    _sc_rows(visible, genes)
    rng = np.random.default_rng(seed)
    drawn = visible.x_st[rng.integers(len(visible.train_genes), size=len(genes))]
    return rng.permuted(drawn, axis=1).astype(np.float32)


def gene_mean(visible: VisiblePair, genes: Sequence[str], seed: int = 0) -> FloatArray:
    """Each gene a constant: the level its scRNA-seq mean predicts."""
    level = _predict_from_sc_mean(visible, genes, visible.x_st.mean(axis=1))
    return np.repeat(level[:, None], visible.x_st.shape[1], axis=1).astype(np.float32)


def mean_pattern(visible: VisiblePair, genes: Sequence[str], seed: int = 0) -> FloatArray:
    """The mean z-score of the training genes at each spot, at the level and spread predicted for the gene."""
    weights = np.full((len(genes), len(visible.train_genes)), 1.0 / max(1, len(visible.train_genes)))
    return _from_z_scores(visible, genes, weights)


def depth(visible: VisiblePair, genes: Sequence[str], seed: int = 0) -> FloatArray:
    """The log total of each spot over the training genes, at the level and spread predicted for the gene."""
    _sc_rows(visible, genes)
    pattern = standardise_rows(np.log1p(visible.st_totals.astype(np.float64))[None])
    return _scale_pattern(visible, genes, pattern)


def knn(visible: VisiblePair, genes: Sequence[str], seed: int = 0) -> FloatArray:
    """Mean z-score of the 10 training genes most correlated over cells, weighted by positive correlation.

    A gene without a positively correlated neighbour (constant in the scRNA-seq) gets the mean pattern.
    """
    weights = np.clip(_sc_correlation(visible, genes), 0.0, None)
    surplus = weights.shape[1] - N_NEIGHBOURS
    if surplus > 0:
        np.put_along_axis(weights, np.argpartition(weights, surplus, axis=1)[:, :surplus], 0.0, axis=1)
    weights[weights.sum(axis=1) == 0] = 1.0
    return _from_z_scores(visible, genes, weights / weights.sum(axis=1, keepdims=True))


def kernel_ridge(visible: VisiblePair, genes: Sequence[str], seed: int = 0) -> FloatArray:
    """Ridge regression over genes, from the scRNA-seq row of a gene to its ST row: the floor to beat."""
    import torch  # here, as it is slow to import and whoever reads the facts about metrics does without

    from cgd.regression.ridge import fit_ridge_lambda, predict_with_intercept

    rows = (_sc_rows(visible, genes), visible.sc_rows(visible.train_genes), visible.x_st)
    queries, features, targets = (torch.from_numpy(x) for x in rows)
    ridge_lambda = fit_ridge_lambda(features, targets)
    return predict_with_intercept(features, targets, queries, ridge_lambda).float().numpy()


FLOORS: dict[str, Floor] = {
    "random": random,
    "gene_mean": gene_mean,
    "mean_pattern": mean_pattern,
    "depth": depth,
    "knn": knn,
    "kernel_ridge": kernel_ridge,
}


def predict_floors(visible: VisiblePair, genes: Sequence[str], seed: int = 0) -> dict[str, FloatArray]:
    """Every floor's prediction.

    Parameters
    ----------
    visible
        What a method may see.
    genes
        Genes to predict; each must be in `visible.genes`.
    seed
        Used by `random` alone.

    Returns
    -------
    dict
        Floor name -> (len(genes), n_spots) float32, log-normalised expression.

    Raises
    ------
    DataError
        A gene the scRNA-seq does not have, or no training gene.
    """
    return {name: floor(visible, genes, seed) for name, floor in FLOORS.items()}


def ceiling(visible: VisiblePair, truth: npt.ArrayLike, latent_dim: int) -> FloatArray:
    """The best a model whose decoder is the SVD of the training genes could do. Takes the truth on purpose.

    Parameters
    ----------
    visible
        What a method may see.
    truth
        (n_genes, n_spots) the hidden ST expression.
    latent_dim
        K, the width of the latent. Directions in which the training genes do not vary are not used.

    Returns
    -------
    (n_genes, n_spots) the truth projected on the mean training gene plus the leading `latent_dim` right-singular
    vectors of the centred training genes.

    Raises
    ------
    ValueError
        `latent_dim` below 1.
    """
    import torch

    from cgd.regression.svd import thin_svd

    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, found {latent_dim}")
    train = visible.x_st.astype(np.float64)
    mean = train.mean(axis=0)
    least = (max(train.shape) * np.finfo(np.float32).eps) ** 2  # the expression is float32: less is its rounding
    axes = thin_svd(torch.from_numpy(train - mean), float(least), latent_dim)[2].numpy()
    return (mean + ((np.asarray(truth, dtype=np.float64) - mean) @ axes) @ axes.T).astype(np.float32)


def noise_ceiling(
    counts: npt.ArrayLike, totals: npt.ArrayLike, scale: float, seed: int = 0, n_thinnings: int = N_THINNINGS
) -> Matrix:
    """The highest PCC with the truth that a perfect predictor of the rate behind its counts could reach.

    Each count is split binomially into two halves, which are independent if counts are Poisson around a rate; r is the
    correlation of the normalised halves over the spots, mean over the splits. 2r / (1 + r) is the reliability at full
    depth (Spearman, Brown, Br. J. Psychol. 3:296 and 271, 1910), and its square root the ceiling.

    Its limits: it takes reads, intensities and errors of segmentation for Poisson counts, calls whatever else varies
    from spot to spot a rate, and rests on the log of half the depth. Genes without any pattern do not score 0, since
    chance and depth correlate the halves: `noise_ceiling_null` says how much.

    Parameters
    ----------
    counts
        (n_genes, n_spots) of the truth; rounded where they are no integers.
    totals
        (n_spots,) of all genes, by which the truth is normalised.
    scale
        `truth = log1p(scale * counts / totals)`.
    seed
        Of the splits.
    n_thinnings
        How many splits.

    Returns
    -------
    (n_genes,) between 0 and 1, NaN for a gene of constant truth.

    Raises
    ------
    ValueError
        Shapes that do not fit, negative or non-finite values, a scale or a number of splits not above 0.
    """
    whole, depths = _check_counts(counts, totals, scale)
    if n_thinnings < 1:
        raise ValueError(f"n_thinnings must be at least 1, found {n_thinnings}")
    rng = np.random.default_rng(seed)
    found = np.zeros(len(whole))
    for _ in range(n_thinnings):
        half = rng.binomial(whole, 0.5)
        a, b = (standardise_rows(_log_normalise(part, depths / 2, scale)) for part in (half, whole - half))
        found += (a * b).mean(axis=1) / n_thinnings
    r = np.clip(found, 0.0, 1.0)
    is_constant = np.ptp(_log_normalise(whole, depths, scale), axis=1) <= 1e-6
    return np.where(is_constant, np.nan, np.sqrt(2 * r / (1 + r)))


def noise_ceiling_null(
    counts: npt.ArrayLike, totals: npt.ArrayLike, scale: float, seed: int = 0, n_thinnings: int = N_THINNINGS
) -> Matrix:
    """`noise_ceiling` of genes of the same counts whose rate does not vary: all counts fall on spots by their totals.

    Parameters, result and errors are those of `noise_ceiling`.
    """
    whole, depths = _check_counts(counts, totals, scale)
    rng = np.random.default_rng([seed, 1])
    shares = depths / depths.sum() if depths.sum() > 0 else np.full(len(depths), 1.0 / len(depths))
    return noise_ceiling(rng.multinomial(whole.sum(axis=1), shares), depths, scale, seed, n_thinnings)


def draw_replicates(
    counts: npt.ArrayLike, totals: npt.ArrayLike, coordinates: npt.ArrayLike, scale: float, n: int, seed: int = 0
) -> FloatArray:
    """Draws as other measurements of the same tissue would be: a ceiling of the scores of draws. Sees the truth.

    Halves of the counts are true replicates, but of half the depth, and cannot be scored against the whole truth;
    Poisson counts around the truth's own counts lie too close to it, and any two of them too far from each other.
    So the rate is drawn first, once for all draws, from what is known of it given the counts; each draw is Poisson
    around that rate. If the prior of the rate holds, truth and draws are exchangeable, which is what a replicate is.
    The prior of a gene's rate at a spot: gamma about the mean over the spot and its 6 nearest neighbours without the
    spot itself (shrunk towards the gene's mean), of the one shape by which the truth's counts scatter about it.

    Its limits: counts are taken for Poisson, so that what scatters for other reasons counts as rate, and the ceiling is
    too high. The prior knows neighbours alone, so where spots differ from them, draws are less autocorrelated than the
    truth, and genes in them less correlated; a model may come above it in these two. Totals stay those of the truth.

    Parameters
    ----------
    counts, totals, scale
        As of `noise_ceiling`.
    coordinates
        (n_spots, 2 or 3) positions.
    n
        Number of draws, at least 2.
    seed
        Of the rate and of the draws.

    Returns
    -------
    (n, n_genes, n_spots) in the units of the truth, `log1p(scale * counts / totals)`.

    Raises
    ------
    ValueError
        As of `noise_ceiling`; fewer than 2 draws; coordinates of another shape.
    """
    from cgd.metrics.draws import N_NEIGHBOURS as NEIGHBOURS_OF_A_SPOT
    from cgd.metrics.draws import link_neighbours

    whole, depths = _check_counts(counts, totals, scale)
    if n < 2:
        raise ValueError(f"a score of draws needs at least 2 of them, found {n}")
    graph = link_neighbours(coordinates, len(depths))
    rng = np.random.default_rng(seed)
    overall = whole.sum(axis=1) / max(depths.sum(), 1.0)
    # neighbours, and one spot of the gene's mean rate
    around, weight = (graph @ whole.T).T, graph @ depths
    one = depths.mean() / NEIGHBOURS_OF_A_SPOT
    mean = depths * (around + one * overall[:, None]) / np.maximum(weight + one, 1e-12)
    # negative binomial about the mean: variance mean + mean^2 / shape
    excess = (np.square(whole - mean) - mean).sum(axis=1) / np.maximum(np.square(mean).sum(axis=1), 1e-12)
    shape = (1.0 / np.clip(excess, 1e-3, 1e3))[:, None]
    rate = rng.gamma(shape + whole) * mean / (shape + mean)
    draws = rng.poisson(rate, size=(n, *rate.shape))
    return _log_normalise(draws, depths, scale).astype(np.float32)


def zero_fill(truth: npt.ArrayLike, hidden: npt.ArrayLike) -> FloatArray:
    """`published` protocol without a model: hidden entries 0, all others copied from the truth.

    Parameters
    ----------
    truth
        (n_genes, n_spots).
    hidden
        (n_genes, n_spots) boolean, True where the entry is hidden.

    Raises
    ------
    ValueError
        Shapes that differ or a mask that is not boolean.
    """
    values, mask = _check_mask(truth, hidden)
    return np.where(mask, np.float32(0), values)


def visible_mean_fill(truth: npt.ArrayLike, hidden: npt.ArrayLike) -> FloatArray:
    """`published` protocol without a model: hidden entries the mean of the gene's visible non-zeros (0 if none).

    Parameters and errors are those of `zero_fill`.
    """
    values, mask = _check_mask(truth, hidden)
    shown = ~mask & (values != 0)
    mean = np.where(shown, values, 0).sum(axis=1, dtype=np.float64) / np.maximum(shown.sum(axis=1), 1)
    return np.where(mask, mean[:, None].astype(np.float32), values)


def _check_mask(truth: npt.ArrayLike, hidden: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    values, mask = np.asarray(truth, dtype=np.float32), np.asarray(hidden)
    if values.ndim != 2 or mask.shape != values.shape or mask.dtype != np.bool_:
        raise ValueError(
            "truth must be (n_genes, n_spots) and hidden a boolean mask of the same shape, "
            f"found truth {values.shape} and hidden {mask.shape} {mask.dtype}"
        )
    return values, mask


def _check_counts(counts: npt.ArrayLike, totals: npt.ArrayLike, scale: float) -> tuple[npt.NDArray[np.int64], Matrix]:
    values, depths = np.asarray(counts, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or depths.shape != values.shape[1:]:
        raise ValueError(
            "counts must be (n_genes, n_spots), not empty, and totals (n_spots,), "
            f"found counts {values.shape} and totals {depths.shape}"
        )
    for name, array in (("counts", values), ("totals", depths)):
        if n_bad := int((~(np.isfinite(array) & (array >= 0))).sum()):
            raise ValueError(f"{name} must be finite and not negative, found {n_bad} entries that are not")
    if not scale > 0:
        raise ValueError(f"scale must be above 0, found {scale}")
    return np.rint(values).astype(np.int64), depths


def _log_normalise(counts: npt.NDArray[np.int64], totals: Matrix, scale: float) -> Matrix:
    return np.log1p(scale * counts / np.where(totals > 0, totals, 1.0))


def _sc_rows(visible: VisiblePair, genes: Sequence[str]) -> FloatArray:
    missing = sorted(set(genes) - set(visible.genes))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(genes)} genes to predict are not in the scRNA-seq of {visible.name} "
            f"({len(visible.genes)} genes), e.g. {', '.join(missing[:3])}; ask for genes of `visible.genes`"
        )
    if not visible.train_genes:
        raise DataError(f"{visible.name} has no training gene; a floor needs at least one")
    return visible.sc_rows(list(genes))


def _predict_from_sc_mean(visible: VisiblePair, genes: Sequence[str], statistic: npt.ArrayLike) -> Matrix:
    """(len(genes),) a statistic of the ST training genes, carried over by a line on the scRNA-seq mean.

    Kept inside the range of the training genes: a line through few genes must not extrapolate.
    """
    query = _sc_rows(visible, genes).mean(axis=1, dtype=np.float64)
    known = np.asarray(statistic, dtype=np.float64)
    x = visible.sc_rows(visible.train_genes).mean(axis=1, dtype=np.float64)
    spread = np.square(x - x.mean()).sum()
    slope = ((x - x.mean()) @ known) / spread if spread > 0 else 0.0
    return np.clip(known.mean() + slope * (query - x.mean()), known.min(), known.max())


def _from_z_scores(visible: VisiblePair, genes: Sequence[str], weights: Matrix) -> FloatArray:
    """Weighted z-scores of the training genes, in expression units."""
    return _scale_pattern(visible, genes, weights @ standardise_rows(visible.x_st))


def _scale_pattern(visible: VisiblePair, genes: Sequence[str], pattern: Matrix) -> FloatArray:
    """A pattern over the spots, (len(genes) or 1, n_spots), at the level and spread the scRNA-seq mean predicts."""
    x_st = visible.x_st.astype(np.float64)
    level = _predict_from_sc_mean(visible, genes, x_st.mean(axis=1))
    spread = _predict_from_sc_mean(visible, genes, x_st.std(axis=1))
    return (level[:, None] + spread[:, None] * pattern).astype(np.float32)


def standardise_rows(x: npt.ArrayLike) -> Matrix:
    """Rows to mean 0 and standard deviation 1; a constant row becomes 0."""
    centred = np.asarray(x, dtype=np.float64)
    centred = centred - centred.mean(axis=1, keepdims=True)
    scale = centred.std(axis=1, keepdims=True)
    varies = scale > 1e-6
    return np.where(varies, centred / np.where(varies, scale, 1.0), 0.0)


def _sc_correlation(visible: VisiblePair, genes: Sequence[str]) -> Matrix:
    """(len(genes), n_train) Pearson correlation over cells; 0 for a constant gene."""
    rows, train = standardise_rows(_sc_rows(visible, genes)), standardise_rows(visible.sc_rows(visible.train_genes))
    return rows @ train.T / rows.shape[1]
