"""From one value per gene to one number."""

from __future__ import annotations

import numpy as np
import pandas as pd


def summarise_table(per_gene: pd.DataFrame, prefix: str = "") -> dict[str, float]:
    """Mean of each metric over the genes that can be scored, with `prefix`; without it `n_genes` and `n_scored`.

    Parameters
    ----------
    per_gene
        A row per gene, a column per metric. A gene can be scored when every metric has a value for it, so that all
        means are over the same genes; where there is none they are NaN.
    """
    names = [name for name in per_gene.columns if name not in ("gene", "method")]
    arrays = {name: per_gene[name].to_numpy(dtype=float) for name in names}
    scored = np.logical_and.reduce([np.isfinite(array) for array in arrays.values()])
    means = {name: float(array[scored].mean()) if scored.any() else float("nan") for name, array in arrays.items()}
    return {f"{prefix}{name}": mean for name, mean in means.items()} | {
        "n_genes": float(scored.size),
        "n_scored": float(scored.sum()),
    }
