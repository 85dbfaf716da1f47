"""Means, paired differences and their bootstrap intervals.

The genes are what is sampled: a gene's values over the seeds are not independent, so they are averaged first, per
fold and gene, and the averages are resampled as one. An interval therefore says how much the answer would vary over
another draw of genes, with the training noise of the seeds averaged out. Intervals are per comparison: nothing here
corrects for looking at several levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
N_RESAMPLES = 2000
FEW_GENES = 20  # below, percentile intervals are too narrow: with 10 genes they cover the truth 87 times in 100
_UNIT = ["fold", "gene"]
_MAX_CELLS = 4_000_000  # resampled entries held at once: 32 MB per array


@dataclass(frozen=True)
class Estimate:
    """A mean over genes with its bootstrap interval.

    Attributes
    ----------
    mean, low, high
        NaN where there is nothing to average; `low` and `high` are NaN below two genes.
    n_genes
        Genes averaged, counted once per fold whatever the number of seeds.
    n_unscored
        Genes left out because no seed gave them a value.
    p
        Two-sided p value of "the mean is 0": below 0.05 exactly where the interval excludes 0.
    p_holm
        The same after Holm's correction over all levels and data sets of the study; NaN where not corrected.
    effect_size
        Mean over the standard deviation of the per-gene values (a paired Cohen's d for differences).
    mde
        Smallest true difference this design would find 8 times in 10 (two-sided, alpha 0.05).
    standard_error, df
        Of the mean, and the degrees of freedom of that standard error.
    n_folds, n_seeds
        Folds, and distinct seeds, behind the mean.
    noise_known
        Whether the replicates let the training noise be estimated and the interval include it.
    """

    mean: float
    low: float
    high: float
    n_genes: int
    n_unscored: int = 0
    p: float = math.nan
    p_holm: float = math.nan
    effect_size: float = math.nan
    mde: float = math.nan
    standard_error: float = math.nan
    df: float = math.nan
    n_folds: int = 0
    n_seeds: int = 0
    noise_known: bool = False

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of 0; False without an interval."""
        return self.low > 0 or self.high < 0

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.mean)


def bootstrap_means(values: FloatArray, n_resamples: int = N_RESAMPLES, seed: int = 0) -> FloatArray:
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


def estimate(values: FloatArray, n_resamples: int = N_RESAMPLES, seed: int = 0) -> list[Estimate]:
    """One `Estimate` per column of (n_genes, n_columns) values; NaN entries are left out and counted.

    Columns with the same entries missing share one set of draws.
    """
    estimates = [Estimate(math.nan, math.nan, math.nan, 0, len(values))] * values.shape[1]
    if not len(values):
        return estimates
    scored = np.isfinite(values)
    for pattern in np.unique(scored, axis=1).T:
        columns = np.flatnonzero((scored == pattern[:, None]).all(axis=0))
        kept = values[pattern][:, columns]
        if len(kept):
            for column, found in zip(columns, _with_interval(kept, n_resamples, seed), strict=True):
                estimates[column] = Estimate(*found, len(kept), len(values) - len(kept))
    return estimates


def _with_interval(values: FloatArray, n_resamples: int, seed: int) -> list[tuple[float, float, float]]:
    means = values.mean(axis=0)
    if len(values) < 2:
        return [(float(mean), math.nan, math.nan) for mean in means]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(bootstrap_means(values, n_resamples, seed), [tail, 1 - tail], axis=0)
    return [(float(m), float(a), float(b)) for m, a, b in zip(means, low, high, strict=True)]


def summarise(table: pd.DataFrame, metrics: Sequence[str], **bootstrap: int) -> dict[str, Estimate]:
    """Mean and interval of each metric over the genes of one level or floor on one data set.

    Parameters
    ----------
    table
        Columns `fold`, `gene`, the metrics, and any number of rows (seeds) per fold and gene.
    bootstrap
        `n_resamples` and `seed` of the bootstrap.
    """
    per_gene = table.groupby(_UNIT, sort=True)[list(metrics)].mean()
    return dict(zip(metrics, estimate(per_gene.to_numpy(float), **bootstrap), strict=True))


def paired_difference(
    table: pd.DataFrame, reference: pd.DataFrame, metrics: Sequence[str], **bootstrap: int
) -> dict[str, Estimate]:
    """Mean and interval of `table` - `reference` over the same (seed, fold, gene).

    A reference without a `seed` column (a floor) is paired with every seed. Rows that only one side has, or where
    either side has no value, do not enter.
    """
    return summarise(_differences(table, reference, metrics), metrics, **bootstrap)


def difference_by_seed(table: pd.DataFrame, reference: pd.DataFrame, metric: str) -> dict[int, float]:
    """Seed -> mean of `table` - `reference` over the same (fold, gene): whether the training noise could turn it."""
    means = _differences(table, reference, [metric]).groupby("seed")[metric].mean().dropna()
    return dict(zip(means.index.astype(int).tolist(), means.tolist(), strict=True))


def _differences(table: pd.DataFrame, reference: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    keys = [key for key in ("seed", *_UNIT) if key in table and key in reference]
    both = table.merge(reference, on=keys, suffixes=("", "_reference"), validate="many_to_one")
    differences = both[["seed", *_UNIT]].copy()
    wanted = [f"{metric}_reference" for metric in metrics]
    differences[list(metrics)] = both[list(metrics)].to_numpy(float) - both[wanted].to_numpy(float)
    return differences
