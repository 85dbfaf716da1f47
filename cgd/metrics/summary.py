"""From one value per gene to one number with its interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd


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
