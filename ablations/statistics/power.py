"""What a study would need to see a difference of a given size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import nctdtrinc, stdtrit

from ablations.statistics.intervals import ALPHA, MIN_MODEL_DF
from ablations.statistics.paired import POWER, Estimate

_MOST_FOLDS = 100_000
_MOST_SEEDS = 100


@dataclass(frozen=True)
class Need:
    """A design that would find an effect 8 times in 10; `folds` with the genes and seeds that each fold has now.

    `genes` are those of all folds. `seeds` would do with the folds there are; None where no number of them would, or
    none is known to: what folds differ by is training genes and training noise together, and seeds thin out the latter
    alone.
    """

    folds: int
    genes: int
    seeds: int | None


def find_needed(found: Estimate, effect: float) -> Need:
    """Roughly what would do, from the variance that this design measured.

    Folds thin out every variance, seeds only that between models. A training noise that was not measured is not
    counted, so the answer is a lower bound there.

    Parameters
    ----------
    found
        A paired difference with its standard error.
    effect
        The true difference to be found, in the same unit.
    """
    per_fold = found.n_genes / found.n_folds

    def would_do(folds: int) -> bool:
        df = folds - 1 if folds > MIN_MODEL_DF else max(1.0, folds * (per_fold - 1))
        return _find_mde(found.standard_error * math.sqrt(found.n_folds / folds), df) <= effect

    low, folds = found.n_folds, found.n_folds + 1
    while folds < _MOST_FOLDS and not would_do(folds):
        low, folds = folds, 2 * folds
    while folds - low > 1:
        middle = (low + folds) // 2
        low, folds = (low, middle) if would_do(middle) else (middle, folds)
    return Need(folds, math.ceil(folds * per_fold), _count_seeds(found, effect))


def _count_seeds(found: Estimate, effect: float) -> int | None:
    if not found.model_share or found.n_folds > MIN_MODEL_DF:
        return None
    for seeds in range(found.n_seeds + 1, _MOST_SEEDS):
        variance = 1 - found.model_share + found.model_share * found.n_seeds / seeds
        if _find_mde(found.standard_error * math.sqrt(variance), found.n_folds * (seeds - 1)) <= effect:
            return seeds
    return None


def _find_mde(standard_error: float, df: float) -> float:
    return float(nctdtrinc(df, 1 - POWER, stdtrit(df, 1 - ALPHA / 2))) * standard_error
