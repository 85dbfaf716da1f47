"""From expression to counts: what a measurement adds to a rate.

A field is log-normalised expression of which a model says that it is the rate behind the counts: a best guess, or a
draw. A gene's counts follow a negative binomial around the rate times the spot's exposure. Fields are turned into
rates by a level and a contrast, since the mean of logarithms is not the logarithm of the mean and a regression's
pattern is not that of a rate; the dispersion is a line in the gene's abundance. All are chosen by the continuous ranked
probability score (CRPS) of the draws: on training genes, each predicted from the others, and the level, the
dispersion and what neighbours share once more on validation genes.

Shapes: n draws, G genes, S spots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import scipy.sparse as sp

FloatArray = npt.NDArray[np.float32]
Likelihood = Literal["gaussian", "poisson", "negative_binomial"]

LEAST_SHARE = 0.02  # of a gene's mean rate: no spot's rate is below
_LEAST_RATE = 1e-3
_SMOOTHINGS = 2  # steps of diffusion over the neighbours' graph that make neighbours share what they share
_N_DRAWS = 16  # that a calibration compares
_N_GENES, _N_SPOTS = 150, 300  # a calibration looks at no more
_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)  # of the overdispersion, shared by neighbours
_ZEROS = (0.05, 0.1, 0.2, 0.3)
_LEAST_GAIN, _CHANCE = 0.01, 0.2  # relative gain by what is out of the ordinary that is no chance; more with few genes
SPREADS = (0.5, 1.5)
_ROUNDS = 3
_STEPS = {"level": 0.2, "contrast": 0.25, "dispersion": 0.4, "slope": 0.2}


@dataclass(frozen=True)
class CountNoise:
    """How counts scatter around a field.

    Attributes
    ----------
    kind
        Distribution of a count around its rate.
    level
        Log factor from a field's mean rate to that of the counts.
    contrast
        Exponent of a gene's pattern: 1 takes a field's differences between spots for those of the rate.
    dispersion, slope
        Log size of the negative binomial at the mean abundance of the training genes, and how it grows with log
        abundance. The variance of a count of mean m is m + m^2 / size.
    abundance
        Mean log abundance of the training genes.
    zeros
        Share of the counts that are 0 whatever their rate.
    neighbours
        Share of the overdispersion that a spot has in common with its neighbours.
    spread
        Factor on how far draws of a field lie from its centre; see `widen`.
    """

    kind: Literal["poisson", "negative_binomial"] = "negative_binomial"
    level: float = 0.2
    contrast: float = 1.0
    dispersion: float = 0.7
    slope: float = 0.3
    abundance: float = 0.0
    zeros: float = 0.0
    neighbours: float = 0.0
    spread: float = 1.0

    def widen(self, fields: FloatArray, center: FloatArray) -> FloatArray:
        """Fields (n, G, S) `spread` times as far from a centre (G, S)."""
        return fields if self.spread == 1.0 else center + np.float32(self.spread) * (fields - center)

    def draw(
        self,
        fields: npt.ArrayLike,
        exposure: npt.ArrayLike,
        rng: np.random.Generator,
        graph: sp.csr_matrix | None = None,
    ) -> npt.NDArray[np.int32]:
        """(n, G, S) counts.

        Parameters
        ----------
        fields
            (n, G, S) log-normalised expression.
        exposure
            (S,) totals of the spots over their median.
        rng
            Source of the noise.
        graph
            (S, S) weights of each spot's neighbours, rows summing to 1; needed where neighbours share something.
        """
        log_rate, mean = self._find_rates(fields)
        if self.kind == "negative_binomial":
            size = np.exp(self.dispersion + self.slope * (np.log(mean) - self.abundance))  # (n, G, 1)
            shared = np.log1p(self.neighbours / size)  # variance of a log-normal that holds this share of it
            if self.neighbours > 0:
                if graph is None:
                    raise ValueError("noise that neighbours share needs the graph of the spots")
                log_rate += np.sqrt(shared) * draw_smooth_noise(log_rate.shape, graph, rng) - shared / 2
            rest = (1 + 1 / size) / np.exp(shared) - 1  # together they have the variance of the negative binomial
            shape = np.broadcast_to(1 / np.maximum(rest, 1e-6), log_rate.shape)
            rate = np.exp(log_rate) * rng.standard_gamma(shape, dtype=np.float64) / shape
        else:
            rate = np.exp(log_rate)
        counts = rng.poisson(np.minimum(rate * np.asarray(exposure), 1e8)).astype(np.int32)
        if self.zeros > 0:
            counts[rng.random(counts.shape) < self.zeros] = 0
        return counts

    def _find_rates(self, fields: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(n, G, S) log rates at exposure 1, and (n, G, 1) mean rates."""
        rate = np.expm1(np.maximum(np.asarray(fields, dtype=np.float64), 0.0))
        mean = np.maximum(rate.mean(axis=-1, keepdims=True), _LEAST_RATE)
        pattern = np.maximum(rate / mean, LEAST_SHARE) ** self.contrast
        mean = mean * np.exp(self.level)
        return np.log(mean * pattern / pattern.mean(axis=-1, keepdims=True)), mean


def draw_smooth_noise(
    shape: tuple[int, ...], graph: sp.csr_matrix, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Standard normal noise (..., S) that neighbouring spots share, independent between rows."""
    noise = rng.standard_normal((int(np.prod(shape[:-1])), shape[-1]), dtype=np.float32)
    for _ in range(_SMOOTHINGS):
        noise = 0.5 * noise + 0.5 * (graph @ noise.T).T
    return (noise / max(float(noise.std()), 1e-9)).reshape(shape).astype(np.float64)


def normalise_counts(counts: npt.ArrayLike, exposure: npt.ArrayLike) -> FloatArray:
    """Log-normalised expression (..., S) of counts at spots of exposure (S,): Eq. 4 at the scale of the median."""
    return np.log1p(np.asarray(counts) / np.asarray(exposure)).astype(np.float32)


Score = Callable[[FloatArray], float]  # of draws (n, G, S): lower is better


def fit_count_noise(
    fields: npt.ArrayLike,
    exposure: npt.ArrayLike,
    score: Score,
    kind: Literal["poisson", "negative_binomial"] = "negative_binomial",
    start: CountNoise | None = None,
    free: Sequence[str] = ("level", "dispersion", "contrast", "slope"),
    seed: int = 0,
) -> tuple[CountNoise, float]:
    """The noise whose draws score best, one parameter after the other, and their score.

    Parameters
    ----------
    fields
        (n, G, S) of genes whose counts are known to `score`; a single field serves every draw.
    exposure
        (S,).
    score
        Of log-normalised draws.
    start
        Where to begin; its `abundance` is kept. Without one the abundance is that of the fields.
    free
        Parameters to choose. Those of the dispersion are left alone for Poisson counts.
    """
    fields = np.asarray(fields, dtype=np.float32)
    if len(fields) == 1:
        fields = np.broadcast_to(fields, (_N_DRAWS, *fields.shape[1:]))
    if start is None:
        mean = np.maximum(np.expm1(np.maximum(fields[:1], 0.0)).mean(axis=-1), _LEAST_RATE)
        start = CountNoise(kind, abundance=float(np.log(mean).mean()))
    names = [name for name in free if kind != "poisson" or name not in ("dispersion", "slope")]

    def measure(noise: CountNoise) -> float:
        # the same random numbers for every candidate: what differs is the candidate
        counts = noise.draw(fields, exposure, np.random.default_rng(seed))
        return score(normalise_counts(counts, exposure))

    best, least = start, measure(start)
    for shrink in range(_ROUNDS):
        for name in names:
            for sign in (1, -1):
                while True:
                    value = getattr(best, name) + sign * _STEPS[name] / 2**shrink
                    if name == "contrast" and value < 0:
                        break
                    found = measure(candidate := replace(best, **{name: value}))
                    if not found < least:
                        break
                    best, least = candidate, found
    if start.zeros == 0:
        scored = [(measure(replace(best, zeros=share)), share) for share in _ZEROS]
        found, share = min(scored)
        if is_better(found, least, fields.shape[1]):
            best, least = replace(best, zeros=share), found
    return best, least


def is_better(found: float, least: float, n_genes: int) -> bool:
    """Whether a score of so many genes is lower by more than chance."""
    return found < least * (1 - _LEAST_GAIN - _CHANCE / max(n_genes, 1))


def fit_neighbours(
    noise: CountNoise,
    fields: npt.ArrayLike,
    exposure: npt.ArrayLike,
    graph: sp.csr_matrix,
    score: Score,
    seed: int = 0,
) -> CountNoise:
    """`noise` with the share of the overdispersion that neighbours have in common, chosen so that |score| is least.

    Parameters
    ----------
    score
        Of log-normalised draws: by how much their spatial autocorrelation exceeds that of the truth.
    """
    if noise.kind == "poisson":
        return noise
    candidates = [replace(noise, neighbours=share) for share in _SHARES]
    found = [
        abs(score(normalise_counts(c.draw(fields, exposure, np.random.default_rng(seed), graph), exposure)))
        for c in candidates
    ]
    return candidates[int(np.argmin(found))]


def choose_some(n: int, most: int, seed: int = 0) -> npt.NDArray[np.intp]:
    """At most `most` of `n` places, drawn at random, in order."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def choose_genes(n: int) -> npt.NDArray[np.intp]:
    """The genes that a calibration looks at."""
    return choose_some(n, _N_GENES)


def choose_spots(n: int) -> npt.NDArray[np.intp]:
    """The spots that a calibration looks at."""
    return choose_some(n, _N_SPOTS)
