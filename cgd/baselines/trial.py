"""One trial of a baseline: hide, fit, predict, draw, score."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cgd.baselines import GenerativeMethod, Method, find_method
from cgd.baselines.draws import calibrate_counts, draw_counts, score_draws
from cgd.baselines.predictions import Predictions
from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray, HiddenPair, hide
from cgd.data.split import GeneSplit
from cgd.errors import DataError
from cgd.memory import peak_memory_mb, reset_peak_memory
from cgd.metrics.summary import summarise_table

N_DRAWS = 16
# 16 runs of these samplers would take more than 3 times as long as the whole trial without draws
FEWER_DRAWS = {"stdiff": 8, "spatialscope": 8}


@dataclass(frozen=True)
class Predicted:
    """What a method says of the test genes: (n_test, n_spots), and draws (n, n_test, n_spots), None where there are
    none."""

    prediction: FloatArray
    draws: FloatArray | None


@dataclass(frozen=True)
class BaselineTrial:
    """What a baseline predicted, what scores it, and its costs, named as in `cgd.evaluation.evaluate`."""

    hidden: HiddenPair
    prediction: FloatArray
    draws: FloatArray | None
    costs: dict[str, float]

    def score_draws(self) -> tuple[pd.DataFrame, dict[str, float]]:
        """The scores of the draws: a row per test gene, and what the summary says."""
        return score_draws(self.draws, self.hidden.test, self.hidden.visible.coordinates)


def fit_baseline(
    config: Config, prepared: PreparedPair, split: GeneSplit, method: Method | None = None
) -> BaselineTrial:
    """Fit `config.method`, or `method` in its place, on the training genes; predict and draw the test genes.

    Raises
    ------
    CGDError
        The method cannot be made or used, or its prediction or draws have the wrong shape or are not finite.
    """
    start = time.perf_counter()
    reset_peak_memory()
    torch.set_num_threads(config.runtime.n_threads)
    hidden = hide(prepared, split, config)
    method = method or find_method(config.method).make()
    method.fit(hidden.visible, config.seed)
    fitted = time.perf_counter()
    predicted = _predict(method, config, hidden, split)
    costs = {
        "train_seconds": fitted - start,
        "wall_seconds": time.perf_counter() - start,
        "peak_memory_mb": peak_memory_mb(),
    }
    return BaselineTrial(hidden, predicted.prediction, predicted.draws, costs)


def evaluate_baseline(
    config: Config, prepared: PreparedPair, split: GeneSplit, method: Method
) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row per test gene and the summary of a trial of `method`. Parameters and errors are those of `fit_baseline`."""
    trial = fit_baseline(config, prepared, split, method)
    per_gene = trial.hidden.test.score(trial.prediction)
    table, summary = trial.score_draws()
    return per_gene.join(table), summarise_table(per_gene, "test_") | summary | trial.costs


def predict_baseline(config: Config, hidden: HiddenPair, split: GeneSplit) -> Predicted:
    """Prediction and draws of the test genes by `config.method`, fitted on what may be seen."""
    method = find_method(config.method).make()
    method.fit(hidden.visible, config.seed)
    return _predict(method, config, hidden, split)


def _predict(method: Method, config: Config, hidden: HiddenPair, split: GeneSplit) -> Predicted:
    shape = (len(split.test), hidden.visible.x_st.shape[1])
    prediction = _check(config, "predict", method.predict(split.test), shape)
    if isinstance(method, GenerativeMethod):
        n = FEWER_DRAWS.get(config.method, N_DRAWS)
        return Predicted(prediction, _check(config, "draw", method.draw(split.test, n), (n, *shape)))
    if not hidden.val.scored.any() or (isinstance(method, Predictions) and not method.can_predict(split.val)):
        return Predicted(prediction, None)
    # not asked for together with the test genes: sums over other shapes may round differently
    known = _check(config, "predict", method.predict(split.val), (len(split.val), shape[1]))
    noise = calibrate_counts(known, hidden)
    return Predicted(prediction, draw_counts(noise, prediction, hidden, N_DRAWS, config.seed))


def _check(config: Config, verb: str, values: FloatArray, expected: tuple[int, ...]) -> FloatArray:
    found = np.ascontiguousarray(values, dtype=np.float32)
    if found.shape != expected or not np.isfinite(found).all():
        wrong = f"shape {found.shape}" if found.shape != expected else "values that are not finite"
        title = find_method(config.method).title
        axes = "(genes, spots)" if len(expected) == 2 else "(draws, genes, spots)"
        raise DataError(f"{title} must {verb} finite values of shape {expected} {axes}, found {wrong}")
    return found
