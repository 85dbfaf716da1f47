"""Scores of draws: is what a generative model draws distributed as the tissue is?

Arrays are gene-major: draws (n_draws, n_genes, n_spots), truth (n_genes, n_spots), both log-normalised expression. The
truth is one sample of the distribution that is asked for, so no score needs a rate.

Definitions: Gneiting, Raftery, J. Am. Stat. Assoc. 102:359 (2007), continuous ranked probability score (CRPS) and
energy score; Ferro, Q. J. R. Meteorol. Soc. 140:1917 (2014), their fair estimates from few draws; Moran, Biometrika
37:17 (1950); Lopez-Paz, Oquab, ICLR 2017, classifier two-sample test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cgd.metrics.gene import CONSTANT_TOLERANCE

if TYPE_CHECKING:
    import scipy.sparse as sp

FloatArray = npt.NDArray[np.float64]

N_NEIGHBOURS = 6  # of a spot: those of the hexagonal grid of Visium
LEAST_MORAN = 0.1  # a gene whose truth has less has no spatial pattern that an error could be a share of
LEAST_VARIANCE, LEAST_MEAN = 1e-6, 1e-3  # of log-normalised expression; all zeros or negatives come below
LEVELS = {"50": 0.5, "90": 0.9}
C2ST_GENES, C2ST_SPOTS, C2ST_FOLDS = 40, 800, 3
# Noise in standard deviations of a gene. Standardised zeros lie at one place, which follows from the level: without
# noise a classifier tells apart two samples of one distribution (AUC 1); with it .51, with levels 10 % off .53.
C2ST_BLUR = 0.3
_ROUNDING = 1e-5  # times 1 + |truth|: above what is lost in float32, below one count more or less
_BLOCK = 8_000_000  # values of the draws scored at once: 64 MB, a few times over


def score_draws_by_gene(
    draws: npt.ArrayLike, truth: npt.ArrayLike, coordinates: npt.ArrayLike
) -> dict[str, FloatArray]:
    """Score the draws of every gene.

    Definitions: `crps` fair over the draws, mean over spots. `energy_spots` fair energy score of the vector over the
    spots, Euclidean norm. `coverage_50_raw`, `coverage_90_raw` share of the truth in the middle of the draws by its
    rank among them (probability integral transform): with `b` draws below and `e` equal the truth lies between b / (n +
    1) and (b + e + 1) / (n + 1), and counts by how much of that is in the middle. So perfect draws hold what is
    promised, however few they are and however many ties there are (Czado, Gneiting, Held, Biometrics 65:1254 (2009)).
    `width_50_raw`, `width_90_raw` mean distance of the draws' quantiles in standard deviations of the gene's truth.
    `zeros_bias` share of exact zeros in the draws minus that in the truth. `negative_share` share of the
    draws below 0. `variance_error` |ln| of the ratio of variance to mean over the spots in the draws (mean variance
    over mean of the draws) over that in the truth; variances count as at least 1e-6, means as at least 1e-3.
    `moran_error` |I of the draws - I of the truth| / I of the truth, Moran's I over 6 nearest neighbours, mean over the
    draws; `moran_bias` the signed difference.

    The quantile of share p lies at place p (n + 1) of the n ordered draws, no further out than the outermost draws.

    NaN policy: a gene of constant truth is NaN in the widths, `variance_error` and `moran_bias`; a gene whose truth
    has a Moran's I of at most 0.1 is NaN in `moran_error`. Nothing else is NaN.

    Parameters
    ----------
    draws
        (n_draws, n_genes, n_spots), at least two draws, log-normalised expression.
    truth
        (n_genes, n_spots) in the same units.
    coordinates
        (n_spots, 2 or 3) positions in any unit; several spots may share one.

    Returns
    -------
    dict
        Name -> (n_genes,) float64.

    Raises
    ------
    ValueError
        Shapes that do not fit, fewer than two draws or two spots, values that are not finite.
    """
    samples, true = _check(draws, truth)
    graph = link_neighbours(coordinates, true.shape[1])
    size = max(1, _BLOCK // (samples.shape[0] * samples.shape[2]))
    parts = [
        _score_block(samples[:, i : i + size].astype(np.float64), true[i : i + size], graph)
        for i in range(0, len(true), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def score_crps(draws: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]) -> FloatArray:
    """(n_genes,) fair CRPS of draws (n_draws, n_genes, n_spots) for truth (n_genes, n_spots), mean over spots."""
    return _score_crps(np.sort(draws, axis=0).astype(np.float64), truth.astype(np.float64))


def score_draws_jointly(draws: npt.ArrayLike, truth: npt.ArrayLike, seed: int = 0) -> dict[str, float]:
    """Score what draws say about genes together.

    Definitions: `energy_genes` fair energy score of the vector over the genes of a spot, mean over spots.
    `gene_correlation_error` root mean square difference between the entries off the diagonal of the gene-gene
    correlation matrix over spots of a draw and of the truth, `gene_correlation_r` the Pearson correlation of these
    entries, both mean over draws: a draw that is not the truth differs from it by chance too, like a second tissue.
    `gene_correlation_mean_error` the difference of the mean matrix over the draws: what they say is to be expected.
    `c2st_auc` area under the ROC curve of gradient-boosted trees that tell the spots
    of one draw from those of the truth, cross-validated over spots: .5 is a perfect draw.

    Genes of constant truth are left out of the two correlations; a gene constant in a draw is correlated with none.
    For `c2st_auc` each gene is standardised within its sample and blurred by noise of 0.3 standard deviations, so that
    neither its level nor the place of its zeros is the tell. It sees at most 40 genes, which vary in the truth, and
    800 spots; a spot of the draw and of the truth are always in one fold.

    Parameters
    ----------
    draws
        (n_draws, n_genes, n_spots), at least two draws, log-normalised expression.
    truth
        (n_genes, n_spots) in the same units.
    seed
        Of the choice of draw, genes and spots, of the noise and of the classifier of `c2st_auc`.

    Returns
    -------
    dict
        Name -> number. The errors of the correlations are NaN with fewer than 2 varying genes, `gene_correlation_r`
        with fewer than 3, `c2st_auc` without one or with fewer than 6 spots.

    Raises
    ------
    ValueError
        Shapes that do not fit, fewer than two draws or two spots, values that are not finite.
    """
    samples, true = _check(draws, truth)
    size = max(1, _BLOCK // (samples.shape[0] * samples.shape[1]))
    energy = [
        _score_energy(samples[:, :, i : i + size].transpose(2, 0, 1), true[:, i : i + size].T)
        for i in range(0, true.shape[1], size)
    ]
    varies = _varies(true)
    error, r, of_mean = _compare_correlations(samples[:, varies], true[varies])
    return {
        "energy_genes": float(np.concatenate(energy).mean()),
        "gene_correlation_error": error,
        "gene_correlation_r": r,
        "gene_correlation_mean_error": of_mean,
        "c2st_auc": _tell_apart(samples[:, varies], true[varies], np.random.default_rng(seed)),
    }


def summarise_draws(per_gene: Mapping[str, npt.ArrayLike]) -> dict[str, float]:
    """Mean of each score over the genes that have it; NaN where none has.

    Parameters
    ----------
    per_gene
        Columns of `score_draws_by_gene`, of the genes that are scored.
    """
    found = {}
    for name, values in per_gene.items():
        column = np.asarray(values, dtype=np.float64)
        known = column[np.isfinite(column)]
        found[name] = float(known.mean()) if known.size else float("nan")
    return found


def link_neighbours(coordinates: npt.ArrayLike, n_spots: int) -> sp.csr_matrix:
    """(n_spots, n_spots) weights of the 6 nearest other spots of each, 1/6 each; of all others where they are fewer.

    Raises
    ------
    ValueError
        Coordinates that are not (n_spots, 2 or 3) or not finite, or a single spot.
    """
    import scipy.sparse as sp
    from scipy.spatial import cKDTree

    places = np.asarray(coordinates, dtype=np.float64)
    if places.ndim != 2 or len(places) != n_spots or places.shape[1] not in (2, 3):
        raise ValueError(f"coordinates must be (n_spots, 2 or 3) with n_spots {n_spots}, found shape {places.shape}")
    if not np.isfinite(places).all():
        raise ValueError(f"coordinates must be finite, found {int((~np.isfinite(places)).sum())} that are not")
    if n_spots < 2:
        raise ValueError(f"draws are scored over at least 2 spots, found {n_spots}")
    k = min(N_NEIGHBOURS, n_spots - 1)
    found = cKDTree(places).query(places, k + 1)[1]
    # where spots share a place, a spot is not always its own first neighbour, nor among those found
    is_self = found == np.arange(n_spots)[:, None]
    order = np.argsort(is_self, axis=1, kind="stable")
    columns = np.take_along_axis(found, order, axis=1)[:, :k]
    rows = np.repeat(np.arange(n_spots), k)
    return sp.csr_matrix((np.full(n_spots * k, 1.0 / k), (rows, columns.ravel())), shape=(n_spots, n_spots))


def compute_moran(x: npt.ArrayLike, graph: sp.csr_matrix) -> FloatArray:
    """Moran's I of rows over spots; 0 for a constant row.

    Parameters
    ----------
    x
        (..., n_spots).
    graph
        (n_spots, n_spots) weights, rows of sum 1 (`link_neighbours`).
    """
    values = np.asarray(x, dtype=np.float64)
    rows = values.reshape(-1, values.shape[-1])
    varies = _varies(rows)
    centred = rows - rows.mean(axis=1, keepdims=True)
    products = np.einsum("is,is->i", centred, (graph @ centred.T).T)
    squares = np.where(varies, np.square(centred).sum(axis=1), 1.0)
    return np.where(varies, products / squares, 0.0).reshape(values.shape[:-1])


def _check(draws: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[npt.NDArray[np.floating], FloatArray]:
    samples, true = np.asarray(draws), np.asarray(truth, dtype=np.float64)
    if samples.dtype.kind != "f":
        samples = samples.astype(np.float64)
    if samples.ndim != 3 or samples.shape[1:] != true.shape or 0 in true.shape:
        raise ValueError(
            "draws must be (n_draws, n_genes, n_spots) and truth (n_genes, n_spots), neither empty, "
            f"found draws {samples.shape} and truth {true.shape}"
        )
    if len(samples) < 2:
        raise ValueError(f"a score of draws needs at least 2 of them, found {len(samples)}")
    if true.shape[1] < 2:
        raise ValueError(f"draws are scored over at least 2 spots, found {true.shape[1]}")
    for name, values in (("draws", samples), ("truth", true)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} must be finite, found {int((~np.isfinite(values)).sum())} NaN or infinite entries"
            )
    return samples, true


def _varies(x: FloatArray) -> npt.NDArray[np.bool_]:
    """Rows that are not constant but for the rounding of float32."""
    return np.ptp(x, axis=-1) > CONSTANT_TOLERANCE * np.abs(x).max(axis=-1)


def _score_block(draws: FloatArray, truth: FloatArray, graph: sp.csr_matrix) -> dict[str, FloatArray]:
    varies = _varies(truth)
    ordered = np.sort(draws, axis=0)
    moran_truth = compute_moran(truth, graph)
    moran_bias = compute_moran(draws, graph).mean(axis=0) - moran_truth
    has_pattern = moran_truth > LEAST_MORAN
    scores = {"crps": _score_crps(ordered, truth), "energy_spots": _score_energy(draws.transpose(1, 0, 2), truth)}
    # the place of the truth among the draws; of counts it is often one of them, computed another way
    rounding = _ROUNDING * (1 + np.abs(truth))
    below = (ordered < truth - rounding).sum(axis=0) / (len(ordered) + 1)
    above = ((ordered <= truth + rounding).sum(axis=0) + 1) / (len(ordered) + 1)
    for name, level in LEVELS.items():
        tail = (1 - level) / 2
        inside = np.clip(np.minimum(above, 1 - tail) - np.maximum(below, tail), 0.0, None) / (above - below)
        scores[f"coverage_{name}_raw"] = inside.mean(axis=1)
        low, high = (_interpolate_quantile(ordered, share) for share in (tail, 1 - tail))
        width = (high - low).mean(axis=1) / np.where(varies, truth.std(axis=1), 1.0)
        scores[f"width_{name}_raw"] = np.where(varies, width, np.nan)
    ratio = _divide_variance(draws.var(axis=2).mean(axis=0), draws.mean(axis=(0, 2)))
    error = np.abs(np.log(ratio / _divide_variance(truth.var(axis=1), truth.mean(axis=1))))
    return scores | {
        "zeros_bias": (draws == 0).mean(axis=(0, 2)) - (truth == 0).mean(axis=1),
        "negative_share": (draws < 0).mean(axis=(0, 2)),
        "variance_error": np.where(varies, error, np.nan),
        "moran_error": np.where(has_pattern, np.abs(moran_bias) / np.where(has_pattern, moran_truth, 1.0), np.nan),
        "moran_bias": np.where(varies, moran_bias, np.nan),
    }


def _score_crps(ordered: FloatArray, truth: FloatArray) -> FloatArray:
    """(n_genes,) mean over spots; of sorted draws the distances between all pairs are one weighted sum."""
    n = len(ordered)
    weights = (2 * np.arange(1, n + 1) - n - 1) / (n * (n - 1))
    return np.abs(ordered - truth).mean(axis=(0, 2)) - (weights @ ordered.mean(axis=2))


def _score_energy(draws: npt.NDArray[np.floating], truth: FloatArray) -> FloatArray:
    """(m,) fair energy scores of draws (m, n_draws, d) for truth (m, d), from the inner products of the draws."""
    errors = draws.astype(np.float64) - truth[:, None]
    n = errors.shape[1]
    gram = errors @ errors.transpose(0, 2, 1)
    squares = np.einsum("mii->mi", gram)
    between = np.sqrt(np.clip(squares[:, :, None] + squares[:, None] - 2 * gram, 0.0, None))
    between[:, np.arange(n), np.arange(n)] = 0.0
    return np.sqrt(squares).mean(axis=1) - between.sum(axis=(1, 2)) / (2 * n * (n - 1))


def _interpolate_quantile(ordered: FloatArray, share: float) -> FloatArray:
    """`np.quantile` along the first axis with the method `weibull`, of what is sorted along it."""
    place = min(max(share * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    below = min(int(place), len(ordered) - 2)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


def _divide_variance(variance: FloatArray, mean: FloatArray) -> FloatArray:
    return np.maximum(variance, LEAST_VARIANCE) / np.maximum(mean, LEAST_MEAN)


def _standardise(x: FloatArray) -> FloatArray:
    varies = _varies(x)[..., None]
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.where(varies, centred / np.where(varies, x.std(axis=-1, keepdims=True), 1.0), 0.0)


def _compare_correlations(draws: npt.NDArray[np.floating], truth: FloatArray) -> tuple[float, float, float]:
    """RMS difference and correlation of the entries off the diagonal, mean over the draws; RMS difference of their
    mean."""
    n_genes, n_spots = truth.shape
    if n_genes < 2:
        return float("nan"), float("nan"), float("nan")
    upper = np.triu_indices(n_genes, 1)

    def correlate_genes(x: FloatArray) -> FloatArray:
        z = _standardise(x)
        return (z @ z.T / n_spots)[upper]

    known = correlate_genes(truth)
    found = np.stack([correlate_genes(draw.astype(np.float64)) for draw in draws])
    error = float(np.sqrt(np.square(found - known).mean(axis=1)).mean())
    of_mean = float(np.sqrt(np.square(found.mean(axis=0) - known).mean()))
    if n_genes < 3:
        return error, float("nan"), of_mean
    return error, float((_standardise(found) @ _standardise(known)).mean() / len(known)), of_mean


def _tell_apart(draws: npt.NDArray[np.floating], truth: FloatArray, rng: np.random.Generator) -> float:
    """Cross-validated AUC of a classifier of spots, drawn or true; .5 where it cannot tell."""
    n_genes, n_spots = truth.shape
    if not n_genes or n_spots < 2 * C2ST_FOLDS:
        return float("nan")
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    draw = draws[rng.integers(len(draws))].astype(np.float64)
    genes = rng.permutation(n_genes)[:C2ST_GENES]
    spots = rng.permutation(n_spots)[:C2ST_SPOTS]
    samples = np.stack([_standardise(x[genes])[:, spots].T for x in (draw, truth)])
    samples += C2ST_BLUR * rng.normal(size=samples.shape)
    # both samples of a spot in one fold: a classifier that has seen one of them must not meet the other
    fold = np.arange(len(spots)) % C2ST_FOLDS
    found = []
    for held in range(C2ST_FOLDS):
        train, test = (np.concatenate(samples[:, is_in]) for is_in in (fold != held, fold == held))
        model = HistGradientBoostingClassifier(
            max_iter=50, max_leaf_nodes=8, early_stopping=False, random_state=int(rng.integers(2**31))
        )
        # one thread: so few spots do not need more, and threads that wait for each other on busy cores take minutes
        with threadpool_limits(1):
            model.fit(train, np.repeat([1, 0], len(train) // 2))
            drawn = model.predict_proba(test)[:, 1]
        found.append(roc_auc_score(np.repeat([1, 0], len(test) // 2), drawn))
    return float(np.mean(found))
