"""One trial of a baseline: hide, fit, predict, score."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch

from cgd.baselines import Method, find_method
from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray, HiddenPair, hide
from cgd.data.split import GeneSplit
from cgd.errors import DataError
from cgd.memory import peak_memory_mb, reset_peak_memory
from cgd.metrics.summary import summarise_table


def fit_baseline(
    config: Config, prepared: PreparedPair, split: GeneSplit, method: Method | None = None
) -> tuple[HiddenPair, FloatArray, dict[str, float]]:
    """Fit `config.method`, or `method` in its place, on the training genes and predict the test genes.

    Returns
    -------
    hidden, prediction, costs
        What scores it, (n_test, n_spots), and its costs, named as in `cgd.evaluation.evaluate`.

    Raises
    ------
    CGDError
        The method cannot be made or used, or its prediction has the wrong shape or is not finite.
    """
    start = time.perf_counter()
    reset_peak_memory()
    torch.set_num_threads(config.runtime.n_threads)
    hidden = hide(prepared, split, config)
    method = method or find_method(config.method).make()
    method.fit(hidden.visible, config.seed)
    fitted = time.perf_counter()
    prediction = _predict(method, config, hidden, split)
    costs = {
        "train_seconds": fitted - start,
        "wall_seconds": time.perf_counter() - start,
        "peak_memory_mb": peak_memory_mb(),
    }
    return hidden, prediction, costs


def evaluate_baseline(
    config: Config, prepared: PreparedPair, split: GeneSplit, method: Method
) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row per test gene and the summary of a trial of `method`. Parameters and errors are those of `fit_baseline`."""
    hidden, prediction, costs = fit_baseline(config, prepared, split, method)
    per_gene = hidden.test.score(prediction)
    return per_gene, summarise_table(per_gene, "test_") | costs


def predict_baseline(config: Config, hidden: HiddenPair, split: GeneSplit) -> FloatArray:
    """(n_test, n_spots) prediction of the test genes by `config.method`, fitted on what may be seen."""
    method = find_method(config.method).make()
    method.fit(hidden.visible, config.seed)
    return _predict(method, config, hidden, split)


def _predict(method: Method, config: Config, hidden: HiddenPair, split: GeneSplit) -> FloatArray:
    prediction = np.ascontiguousarray(method.predict(split.test), dtype=np.float32)
    expected = (len(split.test), hidden.visible.x_st.shape[1])
    if prediction.shape != expected or not np.isfinite(prediction).all():
        found = f"shape {prediction.shape}" if prediction.shape != expected else "values that are not finite"
        title = find_method(config.method).title
        raise DataError(f"{title} must predict finite values of shape {expected} (genes, spots), found {found}")
    return prediction
