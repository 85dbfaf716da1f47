"""From one value per gene to one number with its interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

# Resampled values held in memory at once (8 bytes each).
_BLOCK = 2**22


def bootstrap_interval(
    values: npt.ArrayLike, level: float = 0.95, n_boot: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over genes with its percentile bootstrap interval; genes are resampled, NaN are ignored.

    Parameters
    ----------
    values
        (n_genes,) one value per gene.
    level
        Share of the bootstrap means inside the interval.
    n_boot
        Number of resamples.
    seed
        The same seed gives the same interval.

    Returns
    -------
    mean, low, high
        NaN, NaN, NaN where no gene has a value.

    Raises
    ------
    ValueError
        `values` not one-dimensional or infinite, `level` outside (0, 1) or `n_boot` below 1.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isinf(array).any():
        raise ValueError(f"values must be (n_genes,) without infinities, found shape {array.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, found {level}")
    if n_boot < 1:
        raise ValueError(f"n_boot must be at least 1, found {n_boot}")
    scored = array[~np.isnan(array)]
    if not scored.size:
        return float("nan"), float("nan"), float("nan")
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(_bootstrap_means(scored, n_boot, np.random.default_rng(seed)), tails)
    return float(scored.mean()), float(low), float(high)


def _bootstrap_means(values: npt.NDArray[np.float64], n_boot: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(n_boot,) means of resamples of `values`, in blocks so that thousands of genes fit in memory."""
    per_block = max(1, _BLOCK // values.size)
    sizes = [min(per_block, n_boot - start) for start in range(0, n_boot, per_block)]
    blocks = [values[rng.integers(values.size, size=(size, values.size))].mean(axis=1) for size in sizes]
    return np.concatenate(blocks)


def summarise(per_gene: Mapping[str, npt.ArrayLike]) -> dict[str, float]:
    """Mean of each metric over the genes that can be scored, and how many these are.

    Parameters
    ----------
    per_gene
        Metric name -> (n_genes,). A gene can be scored when every metric has a value for it, so that all means are
        over the same genes.

    Returns
    -------
    dict
        The mean of each metric (NaN where no gene can be scored), `n_genes` and `n_scored`.

    Raises
    ------
    ValueError
        No metric, or metrics over different numbers of genes.
    """
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in per_gene.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "no metric"
        raise ValueError(f"every metric must be (n_genes,) over the same genes, found {found}")
    scored = np.logical_and.reduce([np.isfinite(array) for array in arrays.values()])
    means = {name: float(array[scored].mean()) if scored.any() else float("nan") for name, array in arrays.items()}
    return means | {"n_genes": float(scored.size), "n_scored": float(scored.sum())}


def summarise_table(per_gene: pd.DataFrame, prefix: str = "") -> dict[str, float]:
    """Means over scored genes of every metric column, with `prefix`; `n_genes` and `n_scored` without."""
    columns = [key for key in per_gene.columns if key not in ("gene", "method")]
    values = summarise({key: per_gene[key].to_numpy(dtype=float) for key in columns})
    return {key if key.startswith("n_") else f"{prefix}{key}": value for key, value in values.items()}
