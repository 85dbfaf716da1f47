"""The leak audit: with noise in place of the hidden truth, nothing that is predicted may change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from cgd.config import CAUSALGED, Config
from cgd.data.pair import locate
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray, HiddenGenes, VisiblePair, hide
from cgd.data.split import GeneSplit
from cgd.estimator import CausalGeD


@dataclass(frozen=True)
class Audit:
    """Outcome of the leak audit: `identical` says that noise in place of the truth changed no bit."""

    identical: bool
    n_values: int
    largest_difference: float


def audit_leakage(config: Config, prepared: PreparedPair, split: GeneSplit, seed: int = 0) -> Audit:
    """Replace the ST counts of the test genes by noise, fit and predict again, and compare bit for bit.

    The counts of the validation genes are replaced too where what the method may see is concerned: the two visible
    pairs must be identical. They are left in place for the fit, whose stopping rule may look at their scores; what
    those are scored against must not depend on the test genes either.
    """
    everything = _add_noise(prepared, (*split.val, *split.test), seed)
    noisy = _add_noise(prepared, split.test, seed)
    one, other = hide(prepared, split, config), hide(everything, split, config)
    without_test = hide(noisy, split, config)
    same_view = _same_visible(one.visible, other.visible) and _same_visible(one.measured, without_test.measured)
    same_view &= _same_scorer(one.val, without_test.val)
    first, second = (_predict(config, p, split) for p in (prepared, noisy))
    difference = float(np.abs(first - second).max())
    return Audit(same_view and first.tobytes() == second.tobytes(), first.size, difference)


def _predict(config: Config, prepared: PreparedPair, split: GeneSplit) -> FloatArray:
    hidden = hide(prepared, split, config)
    if config.method != CAUSALGED:
        from cgd.baselines.trial import predict_baseline

        return predict_baseline(config, hidden, split)
    model = CausalGeD(config)
    model.fit_visible(hidden.visible, hidden.val, hidden.measured)
    low, high = model.predict_interval(split.test)
    found = [model.predict_mean(split.test), low, np.nan_to_num(high)]  # unbounded where too few genes calibrate
    if config.sampling.n_samples:
        found += list(model.predict_draws(split.test))
    return np.stack(found)


def _same_visible(a: VisiblePair, b: VisiblePair) -> bool:
    names = ("x_st", "x_sc", "coordinates", "st_totals", "sc_totals")
    arrays = [(getattr(a, name), getattr(b, name)) for name in names]
    same_names = (a.train_genes, a.genes, a.spot_names) == (b.train_genes, b.genes, b.spot_names)
    return same_names and all(x.tobytes() == y.tobytes() for x, y in arrays)


def _same_scorer(one: HiddenGenes, other: HiddenGenes) -> bool:
    return one.truth.tobytes() == other.truth.tobytes() and one.scored.tobytes() == other.scored.tobytes()


def _add_noise(prepared: PreparedPair, genes: tuple[str, ...], seed: int) -> PreparedPair:
    counts = prepared.st_counts.tolil(copy=True)
    rng = np.random.default_rng(seed)
    before = np.asarray(prepared.st_counts.sum(axis=1)).ravel()
    for column in locate(genes, prepared.panel):
        counts[:, column] = rng.poisson(3.0, size=(prepared.n_spots, 1)).astype(np.float32)
    noisy = sp.csc_matrix(counts)
    totals = prepared.st_totals + np.asarray(noisy.sum(axis=1)).ravel() - before
    return replace(prepared, st_counts=noisy, st_totals=totals)
