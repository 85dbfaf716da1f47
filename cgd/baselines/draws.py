"""Draws of a method that has none, which are counts around what it predicts, and the scores of a method's draws.

The noise of the counts is chosen on validation genes, which the method predicts as it does the test genes, by the
continuous ranked probability score (CRPS). Nothing of it is from the test genes.

Shapes: n draws, G genes, S spots.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cgd.data.protocol import FloatArray, HiddenGenes, HiddenPair
from cgd.metrics.draws import link_neighbours, score_draws_by_gene, score_draws_jointly, summarise_draws
from cgd.metrics.facts import DRAW_SCORES
from cgd.model.counts import CountNoise, choose_spots, fit_count_noise, fit_neighbours, normalise_counts
from cgd.random import derive_seed

_MOST_GENES = 100  # of the validation genes: what is looked at
_MORAN_GENES, _MORAN_DRAWS = 60, 2
_LARGEST = 15.0  # log-normalised expression of three million counts: of more, the rate may not be finite
_RAW_COVERAGE = "coverage_90_raw"


def calibrate_counts(predicted: FloatArray, hidden: HiddenPair) -> CountNoise:
    """The noise whose counts around `predicted`, (n_val, S) of the validation genes, score best; of these genes at
    least one must be scored."""
    genes = hidden.val.pick_scored(_MOST_GENES)
    fields, exposure = _limit(predicted[genes])[None], hidden.visible.measure_exposure()
    spots = choose_spots(len(exposure))
    noise, _ = fit_count_noise(
        fields[:, :, spots], exposure[spots], lambda draws: hidden.val.measure_crps(draws, genes, spots)
    )
    graph, some = link_neighbours(hidden.visible.coordinates, len(exposure)), slice(_MORAN_GENES)
    return fit_neighbours(
        noise,
        np.broadcast_to(fields, (_MORAN_DRAWS, *fields.shape[1:]))[:, some],
        exposure,
        graph,
        lambda draws: hidden.val.measure_moran_excess(draws, genes[some], graph),
    )


def draw_counts(noise: CountNoise, predicted: FloatArray, hidden: HiddenPair, n: int, seed: int) -> FloatArray:
    """(n, G, S) log-normalised counts around `predicted` (G, S), at the depth of the genes measured. Each draw has its
    own stream: the first are the same however many."""
    exposure, field = hidden.measured.measure_exposure(), _limit(predicted)[None]
    graph = link_neighbours(hidden.visible.coordinates, len(exposure)) if noise.neighbours else None
    draws = np.empty((n, *predicted.shape), dtype=np.float32)
    for i in range(n):
        rng = np.random.default_rng(derive_seed(seed, "counts", i))
        draws[i] = normalise_counts(noise.draw(field, exposure, rng, graph)[0], exposure)
    return draws


def score_draws(
    draws: FloatArray | None, hidden: HiddenGenes, coordinates: FloatArray
) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row per test gene and a column per score of its draws, and what the summary says of them, as of CausalGeD's;
    no column and nothing without draws."""
    index = pd.RangeIndex(len(hidden.genes))
    if draws is None:
        return pd.DataFrame(index=index), {}
    scored, joint = hidden.scored, {}
    table = pd.DataFrame(np.nan, index=index, columns=list(DRAW_SCORES))
    if scored.any():
        drawn, truth = draws[:, scored], hidden.truth[scored]
        for name, values in score_draws_by_gene(drawn, truth, coordinates).items():
            table.loc[scored, name] = values
        joint = score_draws_jointly(drawn, truth)
    means = summarise_draws({name: table[name].dropna() for name in table})
    summary = {name if name == _RAW_COVERAGE else f"test_{name}": value for name, value in (means | joint).items()}
    return table, summary


def _limit(predicted: FloatArray) -> FloatArray:
    return np.minimum(predicted, np.float32(_LARGEST))
