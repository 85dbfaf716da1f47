"""From one value per gene to one number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from cgd.metrics.draws import summarise_draws
from cgd.metrics.facts import DRAW_SCORES, INTERVALS


def summarise_table(per_gene: pd.DataFrame, prefix: str = "") -> dict[str, float]:
    """Mean of each metric over the genes that can be scored, with `prefix`; without it `n_genes` and `n_scored`.

    What is said beside calibrated intervals (`INTERVALS`) bears no prefix.

    Parameters
    ----------
    per_gene
        A row per gene, a column per metric. A gene can be scored when every metric of the best guess has a value for
        it, so that all means are over the same genes; where there is none they are NaN. A metric that no gene has does
        not count. The scores of draws are means over those of the scored genes that have them; of what has no best
        guess, over all genes that have them.
    """
    draws = [name for name in per_gene.columns if name in DRAW_SCORES]
    names = [name for name in per_gene.columns if name not in ("gene", "method", *draws)]
    arrays = {name: per_gene[name].to_numpy(dtype=float) for name in names}
    scored = _find_scored(len(per_gene), arrays)
    means = {name: float(array[scored].mean()) if scored.any() else float("nan") for name, array in arrays.items()}
    means |= summarise_draws({name: per_gene.loc[scored if scored.any() else slice(None), name] for name in draws})
    return {name if name in INTERVALS else f"{prefix}{name}": mean for name, mean in means.items()} | {
        "n_genes": float(scored.size),
        "n_scored": float(scored.sum()),
    }


def _find_scored(n_genes: int, arrays: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.bool_]:
    """(n_genes,) which have every metric that any of them has."""
    finite = [found for found in map(np.isfinite, arrays.values()) if found.any()]
    return np.logical_and.reduce(finite) if finite else np.zeros(n_genes, dtype=bool)
