"""Means and paired differences over genes, seeds and folds, with what may be concluded from them.

Replicates are seeds x folds. A gene's values over the seeds are not independent, so they are averaged first, per fold
and gene; genes are nested in folds; all genes of a (seed, fold) share one trained model. How the interval takes all
three into account is said in `ablations.statistics.intervals`, what each number means in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import nctdtrinc

from ablations.statistics.intervals import (
    ALPHA,
    N_RESAMPLES,
    FloatArray,
    IntArray,
    find_effective_df,
    find_p_values,
    find_reach,
    measure,
)

POWER = 0.8
FEW_GENES = 10  # fewer were not simulated: one outlying gene can decide the answer
_UNIT = ["fold", "gene"]


@dataclass(frozen=True)
class Estimate:
    """A mean over genes with its interval.

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
        The same after Holm's correction over the family of the study; NaN where not corrected.
    effect_size
        Mean over the standard deviation of the genes within their folds, seeds averaged (Cohen's d for pairs).
    mde
        Smallest true difference this design would find 8 times in 10 (two-sided, alpha 0.05).
    standard_error, df
        Of the mean, and the degrees of freedom at which Student's t gives the interval's width before skew.
    n_folds, n_seeds
        Folds, and distinct seeds, behind the mean.
    noise_known
        Whether the replicates let the variance between trained models be estimated and the interval include it.
    model_share
        Share of `standard_error` squared that is between models; 0 where it is not known.
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
    model_share: float = 0.0

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of 0; False without an interval."""
        return self.low > 0 or self.high < 0

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.mean)

    def orient(self, sign: int) -> Estimate:
        """The same with what is better above: as it is for `sign` 1, turned about 0 for -1 (`Metric.sign`)."""
        if sign >= 0:
            return self
        return replace(self, mean=-self.mean, low=-self.high, high=-self.low, effect_size=-self.effect_size)

    @property
    def differs(self) -> bool:
        """Whether "differs from 0" stands after Holm's correction; before it where there is none."""
        p = self.p if math.isnan(self.p_holm) else self.p_holm
        return p < ALPHA


def estimate(values: FloatArray, folds: IntArray | None = None, n_resamples: int = N_RESAMPLES) -> list[Estimate]:
    """One `Estimate` per column; NaN entries are left out, and units that no seed scored counted.

    Parameters
    ----------
    values
        (n_units, n_columns) or (n_seeds, n_units, n_columns); a unit is a gene in its fold.
    folds
        (n_units,) labels; one fold if not given.
    n_resamples
        Of the bootstrap. Columns with the same entries missing share one set of draws.
    """
    cube = values if values.ndim == 3 else values[None]
    folds = np.zeros(cube.shape[1], dtype=np.intp) if folds is None else folds
    estimates = [Estimate(math.nan, math.nan, math.nan, 0, n_unscored=cube.shape[1])] * cube.shape[2]
    if not cube.size:
        return estimates
    finite = np.isfinite(cube)
    for pattern in np.unique(finite.reshape(-1, cube.shape[2]), axis=1).T:
        columns = np.flatnonzero((finite.reshape(-1, cube.shape[2]) == pattern[:, None]).all(axis=0))
        mask = pattern.reshape(cube.shape[:2])
        units, seeds = mask.any(axis=0), mask.any(axis=1)
        if units.any():
            found = _estimate_columns(
                cube[seeds][:, units][:, :, columns], folds[units], int((~units).sum()), n_resamples
            )
            for column, one in zip(columns, found, strict=True):
                estimates[column] = one
    return estimates


def _estimate_columns(cube: FloatArray, folds: IntArray, n_unscored: int, n_resamples: int) -> list[Estimate]:
    n_seeds, n_units, _ = cube.shape
    n_folds = len(np.unique(folds))
    blank = Estimate(math.nan, math.nan, math.nan, n_units, n_unscored, n_folds=n_folds, n_seeds=n_seeds)
    if n_units < 2:
        return [replace(blank, mean=float(mean)) for mean in np.nanmean(cube, axis=(0, 1))]
    if n_units == n_folds:  # a gene a fold: what folds differ by shows among the genes
        folds = np.zeros_like(folds)
    spread = measure(cube, folds, n_resamples)
    error, p = spread.standard_error, find_p_values(spread)
    df = find_effective_df(find_reach(spread) / np.where(error > 0, error, math.nan))
    low, high = find_reach(spread, spread.low_shape), find_reach(spread, spread.high_shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(spread.gene_sd > 0, spread.mean / spread.gene_sd, math.nan)
        share = np.where(error > 0, spread.model_variance / error**2, 0.0)
        mde = np.where(error > 0, nctdtrinc(df, 1 - POWER, np.maximum(low, high) / error) * error, 0.0)
    return [
        replace(
            blank, mean=float(spread.mean[i]), low=float(spread.mean[i] - low[i]), high=float(spread.mean[i] + high[i]),
            p=float(p[i]), effect_size=float(effect[i]), mde=float(mde[i]), standard_error=float(error[i]),
            df=float(df[i]), noise_known=spread.model_df > 0, model_share=float(share[i]),
        )
        for i in range(len(error))
    ]  # fmt: skip


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p values (Scandinavian Journal of Statistics 6:65, 1979).

    NaN stays NaN and does not count: a comparison that could not be made is not one of the family.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    corrected = np.full(len(p), math.nan)
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return [float(value) for value in corrected]


def correct_family(estimates: Iterable[Estimate | None]) -> Iterator[Estimate | None]:
    """Estimates with Holm's correction over all of them that are there, in their order."""
    known = list(estimates)
    corrected = correct_holm([one.p if one else math.nan for one in known])
    return (replace(one, p_holm=p) if one else None for one, p in zip(known, corrected, strict=True))


def summarise(table: pd.DataFrame, metrics: Sequence[str], n_resamples: int = N_RESAMPLES) -> dict[str, Estimate]:
    """Mean and interval of each metric over the genes of one level or floor on one data set.

    Parameters
    ----------
    table
        Columns `fold`, `gene`, the metrics, and `seed` where there are several rows per fold and gene.
    """
    units = table[_UNIT].drop_duplicates().sort_values(_UNIT)
    index = pd.MultiIndex.from_frame(units)
    seeds = [rows for _, rows in table.groupby("seed", sort=True)] if "seed" in table else [table]
    blocks = [rows.set_index(_UNIT)[list(metrics)].reindex(index).to_numpy(float) for rows in seeds]
    cube = np.array(blocks).reshape(len(blocks), len(units), len(metrics))
    folds = pd.factorize(units["fold"])[0]
    return dict(zip(metrics, estimate(cube, folds, n_resamples), strict=True))


def compare_paired(
    table: pd.DataFrame, reference: pd.DataFrame, metrics: Sequence[str], n_resamples: int = N_RESAMPLES
) -> dict[str, Estimate]:
    """Mean and interval of `table` - `reference` over the same (seed, fold, gene).

    A reference without a `seed` column (a floor) is paired with every seed. Rows that only one side has, or where
    either side has no value, do not enter.
    """
    return summarise(_subtract(table, reference, metrics), metrics, n_resamples)


def compare_by_seed(table: pd.DataFrame, reference: pd.DataFrame, metric: str) -> dict[int, float]:
    """Seed -> mean of `table` - `reference` over the same (fold, gene): whether the training noise could turn it."""
    means = _subtract(table, reference, [metric]).groupby("seed")[metric].mean().dropna()
    return dict(zip(means.index.astype(int).tolist(), means.tolist(), strict=True))


def _subtract(table: pd.DataFrame, reference: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    keys = [key for key in ("seed", *_UNIT) if key in table and key in reference]
    both = table.merge(reference, on=keys, suffixes=("", "_reference"), validate="many_to_one")
    differences = both[["seed", *_UNIT]].copy()
    wanted = [f"{metric}_reference" for metric in metrics]
    differences[list(metrics)] = both[list(metrics)].to_numpy(float) - both[wanted].to_numpy(float)
    return differences
