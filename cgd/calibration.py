"""Split-conformal intervals about a prediction, calibrated on the validation genes.

The unit is the gene: the spots of one gene share what makes it easy or hard to predict, so that G validation genes of S
spots are G observations, not G x S. Each validation gene gets the weight 1 / (G + 1), divided over its spots, and the
new gene the weight 1 / (G + 1) at infinity; the threshold is the quantile of the scores under these weights. If the new
gene and the validation genes are exchangeable, an entry of the new gene then lies in the interval with at least the
stated probability, whatever the distribution of expression and however the spots depend on each other.

Sources: two-layer hierarchical models, Dunn, Wasserman, Ramdas, JASA 118:2491 (2023), whose pooling of the groups'
distribution functions is used here; the weight at infinity, which makes it hold for a finite number of groups, is that
of Lee, Barber, Willett, arXiv:2306.06342.

Shapes: G genes, S spots, P = N_POINTS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from cgd.errors import ConfigError

Matrix = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]

LEVEL = 0.9  # of the intervals that predictions and trials report
N_POINTS = 200  # quantiles kept of the scores of a gene
_QUANTILES = (np.arange(N_POINTS) + 0.5) / N_POINTS


@dataclass(frozen=True)
class SpreadTrend:
    """The spread to be expected at a level of expression: log sd = intercept + slope log mean.

    A line over the training genes (Taylor, Nature 189:732 (1961)), read at the predicted expression of each spot. It
    makes the scores of abundant and rare genes, and of the bright and dark spots of one gene, comparable, and needs
    no draws.

    Attributes
    ----------
    intercept, slope
        Of the line.
    low, high
        Smallest and largest mean of a training gene; the line is not used beyond.
    """

    intercept: float
    slope: float
    low: float
    high: float

    @classmethod
    def fit(cls, x_st: npt.ArrayLike) -> SpreadTrend:
        """Line through the genes of (G, S) expression that vary; a constant 1 where none does."""
        x = np.asarray(x_st, dtype=np.float64)
        mean, spread = x.mean(axis=1), x.std(axis=1)
        usable = (mean > 0) & (spread > 1e-6 * mean)
        if not usable.any():
            return cls(0.0, 0.0, 1.0, 1.0)
        log_mean, log_spread = np.log(mean[usable]), np.log(spread[usable])
        centred = log_mean - log_mean.mean()
        size = centred @ centred
        slope = centred @ log_spread / size if size > 1e-12 else 0.0
        intercept = log_spread.mean() - slope * log_mean.mean()
        return cls(float(intercept), float(slope), float(mean[usable].min()), float(mean[usable].max()))

    def __call__(self, center: npt.ArrayLike) -> Matrix:
        """Spread at each entry of `center`, of any shape; always positive."""
        level = np.clip(np.asarray(center, dtype=np.float64), self.low, self.high)
        return np.exp(self.intercept + self.slope * np.log(level))


def score_quantiles(truth: npt.ArrayLike, center: npt.ArrayLike, scale: npt.ArrayLike) -> Matrix:
    """(G, P) conformity scores |truth - center| / scale, all (G, S): per gene P quantiles, none below the exact one.

    Which spot has which score is not kept.
    """
    scores = np.abs(np.asarray(truth, dtype=np.float64) - np.asarray(center)) / np.asarray(scale)
    rank = np.ceil(scores.shape[1] * np.arange(1, N_POINTS + 1) / N_POINTS - 1e-9).astype(int)
    return np.sort(scores, axis=1)[:, rank - 1]


@dataclass(frozen=True)
class Calibration:
    """Scores of the validation genes, and the intervals that follow from them.

    A level is guaranteed up to 1 - 2 / (G + 1). Above, a threshold free of assumptions would rest on the largest score
    of a single gene, or not exist; there the distribution of the scores is extrapolated instead: log sizes of the
    genes' scores taken as normal, with Student's t for the G that are known, and one shape for all. Such an interval is
    never narrower than the widest guaranteed one. Fewer than two genes tell nothing: the interval is unbounded.

    Attributes
    ----------
    scores
        (G, P) from `score_quantiles`.
    trend
        What the scores are in units of.
    """

    scores: Matrix
    trend: SpreadTrend

    @property
    def n_genes(self) -> int:
        return len(self.scores)

    @property
    def guaranteed_level(self) -> float:
        """The highest level for which the coverage is guaranteed; 0 with fewer than two genes."""
        return 1 - 2 / (self.n_genes + 1) if self.n_genes > 1 else 0.0

    def interval(self, center: npt.ArrayLike, level: float = LEVEL) -> tuple[FloatArray, FloatArray]:
        """Bounds (G, S) about a prediction (G, S) of any genes; expression is never below 0, nor are they.

        Raises
        ------
        ConfigError
            `level` is not between 0 and 1.
        """
        threshold, middle = self.threshold(level), np.asarray(center, dtype=np.float64)
        reach = threshold * self.trend(middle)
        low, high = np.maximum(middle - reach, 0.0), np.maximum(middle + reach, 0.0)
        return low.astype(np.float32), high.astype(np.float32)

    def threshold(self, level: float) -> float:
        """Half the width of the interval, in units of the trend. Raises ConfigError for a level outside (0, 1)."""
        if not 0 < level < 1:
            raise ConfigError(f"level must be above 0 and below 1, found {level}; 0.9 asks for intervals of 90 %")
        if self.n_genes < 2:
            return float("inf")
        if self.is_guaranteed(level):
            return self._pool(level)
        return max(self._pool(self.guaranteed_level), self._extrapolate(level))

    def is_guaranteed(self, level: float = LEVEL) -> bool:
        return level <= self.guaranteed_level + 1e-12

    def note(self, level: float = LEVEL) -> str:
        """What may be claimed of the intervals, in a sentence."""
        known = f"calibrated on {self.n_genes} validation gene{'s' * (self.n_genes != 1)}"
        if self.is_guaranteed(level):
            return f"{known}: hold {level:.3g} of a new gene's values on average over genes like these"
        if self.n_genes < 2:
            return f"{known}: too few for any bound; the upper one is infinite"
        return (
            f"{known}: too few to guarantee {level:.3g} (at most {self.guaranteed_level:.2f}); extrapolated, assuming "
            "log-normal errors across genes"
        )

    def _pool(self, level: float) -> float:
        """Quantile of the scores with weight 1 / (G + 1) for each gene and as much at infinity."""
        rank = int(np.ceil(level * (self.n_genes + 1) * N_POINTS - 1e-9))
        return float(np.sort(self.scores, axis=None)[rank - 1])

    def _extrapolate(self, level: float) -> float:
        size = np.sqrt(np.square(self.scores).mean(axis=1))
        if not size.any():
            return 0.0
        size = np.maximum(size, 1e-6 * size.max())  # a gene predicted without error has no logarithm
        shape = np.quantile(self.scores / size[:, None], _QUANTILES)
        deviation = np.log(size).std(ddof=1) * np.sqrt(1 + 1 / self.n_genes)
        with np.errstate(over="ignore"):  # with two genes the tails reach infinity
            sizes = np.exp(np.log(size).mean() + deviation * student_t.ppf(_QUANTILES, self.n_genes - 1))
        return float(np.quantile(np.outer(sizes, shape), level, method="higher"))
