"""One trial's worth of science: hide, fit, predict, score."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args, overload

import numpy as np
import pandas as pd
import torch

from cgd.calibration import LEVEL
from cgd.config import CAUSALGED, Config
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray, HiddenGenes, HiddenPair, hide
from cgd.data.split import GeneSplit
from cgd.errors import ConfigError
from cgd.estimator import CausalGeD
from cgd.kept_prediction import KeptPrediction
from cgd.memory import peak_memory_mb, reset_peak_memory
from cgd.metrics.facts import CEILING
from cgd.metrics.floors import ceiling, predict_floors, visible_mean_fill, zero_fill
from cgd.metrics.intervals import constant_intervals, score_intervals
from cgd.metrics.summary import summarise_table
from cgd.parallel import ALONE, Parallel
from cgd.training.checkpoint import CheckpointFolder, OpenCheckpoints
from cgd.training.trainer import EpochReport
from cgd.version import code_version

Scored: TypeAlias = Literal["test", "validation"]


@dataclass(frozen=True)
class Evaluation:
    """Result of a trial.

    Attributes
    ----------
    per_gene
        A row per test gene; NaN where the gene cannot be scored.
    summary
        `test_*` means over scored genes, counts, cost; `coverage_90` and `interval_width_90` of the calibrated
        intervals, `interval_width_90_constant` of intervals that ignore the model, `coverage_90_raw` of the draws.
    model
        The fitted estimator; None for a baseline.
    """

    per_gene: pd.DataFrame
    summary: dict[str, float]
    model: CausalGeD | None


def trial_fingerprint(config: Config, prepared: PreparedPair, split: GeneSplit) -> str:
    """Names a trial forever: configuration, data, split and code version."""
    return config.fingerprint(prepared.sha256, split.sha256, trial_code(config))


def trial_code(config: Config) -> str:
    """Version of the code that the trial's method runs."""
    if config.method == CAUSALGED:
        return code_version("cgd.evaluation")
    from cgd.baselines import find_method

    return find_method(config.method).code_version()


@overload
def evaluate(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    *,
    scored: Scored = ...,
    on_epoch: EpochReport | None = ...,
    checkpoint_root: Path | None = ...,
    open_checkpoints: OpenCheckpoints = ...,
) -> Evaluation: ...


@overload
def evaluate(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    *,
    parallel: Parallel,
    scored: Scored = ...,
    on_epoch: EpochReport | None = ...,
    checkpoint_root: Path | None = ...,
    open_checkpoints: OpenCheckpoints = ...,
) -> Evaluation | None: ...


def evaluate(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    *,
    scored: Scored = "test",
    parallel: Parallel = ALONE,
    on_epoch: EpochReport | None = None,
    checkpoint_root: Path | None = None,
    open_checkpoints: OpenCheckpoints = CheckpointFolder,
) -> Evaluation | None:
    """Fit on the training genes, predict the genes that are scored, score them.

    Parameters
    ----------
    config, prepared, split
        The trial. `prepared` must have been prepared with `config.data`.
    scored
        Which genes. With `validation`, which is what a search may look at, no test gene is predicted or scored, and
        the summary has `val_*` in place of `test_*`.
    parallel
        Several processes that work together each call this with the same trial. Rank 0 returns what one alone would,
        to the order of sums, and alone uses `on_epoch` and `checkpoint_root`; the others return None.
    on_epoch
        Called with the metrics of each epoch.
    checkpoint_root
        Folder of checkpoints, a folder per fingerprint in it; an interrupted trial continues from there. What the same
        trial predicted under the other protocol is found there too: then nothing is fitted and there is no model.
    open_checkpoints
        Makes what keeps the checkpoints of one trial, of its folder and fingerprint.

    Raises
    ------
    CGDError
        The data cannot be used or training diverged.
    ValueError
        `scored` is neither.
    """
    if scored not in get_args(Scored):  # a slip of the pen must not score the test genes
        raise ValueError(f"scored must be one of {', '.join(get_args(Scored))}; found {scored!r}")
    if scored == "validation":
        if config.method != CAUSALGED:
            raise ConfigError(f"method = {config.method}: only {CAUSALGED} is scored on validation genes")
        fit = fit_hidden(config, prepared, split, on_epoch, checkpoint_root, open_checkpoints, parallel)
        prediction, summary = fit.model.predict_mean(split.val), fit.costs()
        if not parallel.is_main:
            return None
        fit.model.parallel = ALONE
        per_gene = fit.hidden.val.score_heldout(prediction)
        return Evaluation(per_gene, summarise_table(per_gene, "val_") | summary, fit.model)
    kept = KeptPrediction(checkpoint_root, config, prepared, split, trial_code(config))
    known = kept.load_twin() if parallel.is_main else None
    if parallel.from_main(known is not None):
        return _score(hide(prepared, split, config), *known, model=None) if known else None
    if config.method != CAUSALGED:
        from cgd.baselines.trial import fit_baseline

        hidden, prediction, summary = fit_baseline(config, prepared, split)
        model = None
    else:
        fit = fit_hidden(config, prepared, split, on_epoch, checkpoint_root, open_checkpoints, parallel)
        hidden, model = fit.hidden, fit.model
        draws = model.predict_draws(split.test) if config.sampling.n_samples else None
        prediction = model.predict_mean(split.test, draws)
        costs = fit.costs()
        if not parallel.is_main:
            return None
        summary = _score_calibrated(prediction, fit)
        if draws is not None:
            summary |= _score_draws(draws, hidden.test)
        summary |= costs
        model.parallel = ALONE
    kept.save(prediction, summary)
    return _score(hidden, prediction, summary, model)


def _score(
    hidden: HiddenPair, prediction: FloatArray, summary: dict[str, float], model: CausalGeD | None
) -> Evaluation:
    per_gene = hidden.test.score(prediction)
    return Evaluation(per_gene, summarise_table(per_gene, "test_") | summary, model)


@dataclass(frozen=True)
class Fit:
    """A fitted model, what was hidden from it, and when it began and ended."""

    model: CausalGeD
    hidden: HiddenPair
    started: float
    trained: float
    checkpoints: CheckpointFolder | None

    def costs(self) -> dict[str, float]:
        """Which epoch was kept, and what the trial took until now; of earlier attempts, their epochs count.

        The memory is that of all its processes.
        """
        progress = self.model.progress
        assert progress is not None
        earlier = progress.earlier_seconds
        memory = torch.tensor([peak_memory_mb()], device=self.model.config.runtime.device)
        self.model.parallel.add_up([memory])
        return {
            "val_pcc": progress.kept_score,
            "kept_epoch": float(progress.kept_epoch),
            "epochs": float(progress.epoch),
            "n_parameters": float(self.model.n_parameters),
            "train_seconds": self.trained - self.started + earlier,
            "wall_seconds": time.perf_counter() - self.started + earlier,
            "peak_memory_mb": memory.item(),
            **(self.checkpoints.counts() if self.checkpoints else {}),
        }


def fit_hidden(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    on_epoch: EpochReport | None,
    checkpoint_root: Path | None,
    open_checkpoints: OpenCheckpoints = CheckpointFolder,
    parallel: Parallel = ALONE,
) -> Fit:
    """Hide the test genes, and fit on what is left to see."""
    start = time.perf_counter()
    reset_peak_memory()
    fingerprint = trial_fingerprint(config, prepared, split)
    checkpoints = open_checkpoints(checkpoint_root / fingerprint, fingerprint) if checkpoint_root else None
    hidden = hide(prepared, split, config)
    model = CausalGeD(config)
    model.fit_visible(hidden.visible, hidden.val, on_epoch, checkpoints, parallel)
    return Fit(model, hidden, start, time.perf_counter(), checkpoints)


def evaluate_floors(prepared: PreparedPair, split: GeneSplit, config: Config) -> pd.DataFrame:
    """Per-gene metrics of every floor and of the ceiling, with a column `method`: once per data set and split.

    Under `published` the fills that use no model stand beside.
    """
    hidden = hide(prepared, split, config)
    predictions = predict_floors(hidden.visible, split.test, config.split.seed)
    predictions[CEILING] = ceiling(hidden.visible, hidden.test.truth, config.model.latent_dim)
    if hidden.test.hidden is not None:
        predictions["zero_fill"] = zero_fill(hidden.test.truth, hidden.test.hidden)
        predictions["visible_mean_fill"] = visible_mean_fill(hidden.test.truth, hidden.test.hidden)
    tables = [hidden.test.score(prediction).assign(method=name) for name, prediction in predictions.items()]
    return pd.concat(tables, ignore_index=True)


def _score_calibrated(prediction: FloatArray, fit: Fit) -> dict[str, float]:
    """Coverage and width of the calibrated intervals, beside the width of those that ignore the model."""
    calibration = fit.model.calibration
    covered, width = score_intervals(*calibration.interval(prediction), fit.hidden.test)
    return {
        "coverage_90": covered,
        "interval_width_90": width,
        "interval_width_90_constant": score_intervals(*constant_intervals(fit.hidden), fit.hidden.test)[1],
        "calibration_genes": float(calibration.n_genes),
    }


def _score_draws(draws: FloatArray, test: HiddenGenes) -> dict[str, float]:
    """The mean of the draws scored beside the estimate, and how often their own interval holds the truth."""
    scores = {"draws_pcc": float(test.score_heldout(draws.mean(axis=0))["pcc"].mean())}
    if len(draws) > 1:
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        scores["coverage_90_raw"] = score_intervals(low, high, test)[0]
    return scores
