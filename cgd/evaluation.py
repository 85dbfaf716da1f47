"""One trial's worth of science: hide, fit, predict, score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args, overload

import numpy as np
import pandas as pd
import torch

from cgd.config import CAUSALGED, Config
from cgd.data.pair import locate
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray, HiddenGenes, HiddenPair, hide
from cgd.data.split import GeneSplit
from cgd.errors import ConfigError
from cgd.estimator import CausalGeD
from cgd.kept_prediction import KeptPrediction
from cgd.memory import peak_memory_mb, reset_peak_memory
from cgd.metrics.draws import score_draws_by_gene, score_draws_jointly, summarise_draws
from cgd.metrics.facts import CEILING, DRAW_SCORES, PRIMARY
from cgd.metrics.floors import (
    ceiling,
    noise_ceiling,
    noise_ceiling_null,
    predict_floors,
    visible_mean_fill,
    zero_fill,
)
from cgd.metrics.intervals import constant_intervals, score_intervals
from cgd.metrics.summary import summarise_table
from cgd.parallel import ALONE, Parallel
from cgd.training.checkpoint import CheckpointFolder, OpenCheckpoints
from cgd.training.trainer import EpochReport
from cgd.version import code_version

RAW_COVERAGE = "coverage_90_raw"
Scored: TypeAlias = Literal["test", "validation"]


@dataclass(frozen=True)
class Evaluation:
    """Result of a trial.

    Attributes
    ----------
    per_gene
        A row per test gene; NaN where the gene cannot be scored. With at least two draws their scores stand beside.
    summary
        `test_*` means over scored genes and scores of all genes together, counts, cost; `coverage_90` and
        `interval_width_90` of the calibrated intervals, `interval_width_90_constant` of intervals that ignore the
        model, `coverage_90_raw` of the draws.
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
        fit = fit_hidden(
            config, prepared, split, on_epoch, checkpoint_root, open_checkpoints, parallel, from_training_alone=True
        )
        predicted = _predict(fit, split.val)
        summary = fit.costs()
        if not parallel.is_main:
            return None
        fit.model.parallel = ALONE
        table, joint = _score_draws(predicted.draws, fit.hidden.val, fit.hidden.visible.coordinates)
        per_gene = fit.hidden.val.score_heldout(predicted.mean)
        scores = summarise_table(per_gene, "val_") | _summarise_draws(table, joint, "val_")
        return Evaluation(per_gene.join(table), summary | scores, fit.model)
    kept = KeptPrediction(checkpoint_root, config, prepared, split, trial_code(config))
    known = kept.load_twin() if parallel.is_main else None
    if parallel.from_main(known is not None):
        return _score(hide(prepared, split, config), *known, model=None) if known else None
    table = pd.DataFrame(index=pd.RangeIndex(len(split.test)))
    if config.method != CAUSALGED:
        from cgd.baselines.trial import fit_baseline

        hidden, prediction, summary = fit_baseline(config, prepared, split)
        model = None
    else:
        fit = fit_hidden(config, prepared, split, on_epoch, checkpoint_root, open_checkpoints, parallel)
        hidden, model = fit.hidden, fit.model
        predicted = _predict(fit, split.test)
        costs = fit.costs()
        if not parallel.is_main:
            return None
        prediction = predicted.mean
        summary = _score_calibrated(prediction, fit)
        table, joint = _score_draws(predicted.draws, hidden.test, hidden.visible.coordinates)
        if predicted.draws is not None:
            mean = hidden.test.score_heldout(predicted.draws.mean(axis=0))
            summary["draws_pcc"] = float(mean["pcc"].mean())
        summary |= _summarise_draws(table, joint, "test_") | costs
        model.parallel = ALONE
    kept.save(prediction, summary, table)
    return _score(hidden, prediction, summary, table, model=model)


@dataclass(frozen=True)
class _Predicted:
    """Best guess (n_genes, n_spots) and draws (n, n_genes, n_spots), None without."""

    mean: FloatArray
    draws: FloatArray | None


def _predict(fit: Fit, genes: Sequence[str]) -> _Predicted:
    """What a fitted model says of genes."""
    draws = fit.model.predict_draws(genes) if fit.model.config.sampling.n_samples else None
    return _Predicted(fit.model.predict_mean(genes, draws), draws)


def _score(
    hidden: HiddenPair,
    prediction: FloatArray,
    summary: dict[str, float],
    draw_scores: pd.DataFrame,
    model: CausalGeD | None,
) -> Evaluation:
    per_gene = hidden.test.score(prediction)
    scores = summarise_table(per_gene, "test_")
    return Evaluation(per_gene.join(draw_scores), scores | summary, model)


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
            **progress.kept,
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
    from_training_alone: bool = False,
) -> Fit:
    """Hide the test genes, and fit on what is left to see.

    Predictions are from all genes measured, or `from_training_alone`: only then may validation genes be scored.
    """
    start = time.perf_counter()
    reset_peak_memory()
    fingerprint = trial_fingerprint(config, prepared, split)
    checkpoints = open_checkpoints(checkpoint_root / fingerprint, fingerprint) if checkpoint_root else None
    hidden = hide(prepared, split, config)
    model = CausalGeD(config)
    measured = hidden.visible if from_training_alone else hidden.measured
    model.fit_visible(hidden.visible, hidden.val, measured, on_epoch, checkpoints, parallel)
    return Fit(model, hidden, start, time.perf_counter(), checkpoints)


def evaluate_floors(prepared: PreparedPair, split: GeneSplit, config: Config) -> pd.DataFrame:
    """Per-gene metrics of every floor and of the ceilings, with a column `method`: once per data set and split.

    They predict from all genes measured, as a model does. Under `published` the fills that use no model stand beside.
    Where the trials make draws, floors of draws have rows of their own: with scores of draws, and no other.
    """
    hidden = hide(prepared, split, config)
    predictions = predict_floors(hidden.measured, split.test, config.split.seed)
    predictions[CEILING] = ceiling(hidden.measured, hidden.test.truth, config.model.latent_dim)
    if hidden.test.hidden is not None:
        predictions["zero_fill"] = zero_fill(hidden.test.truth, hidden.test.hidden)
        predictions["visible_mean_fill"] = visible_mean_fill(hidden.test.truth, hidden.test.hidden)
    tables = [hidden.test.score(prediction).assign(method=name) for name, prediction in predictions.items()]
    tables += _measure_noise_ceilings(hidden, prepared, split, config)
    if config.sampling.n_samples > 1:
        from cgd.draw_floors import draw_floors  # which fits models itself

        for name, draws in draw_floors(hidden, prepared, split, config).items():
            table, joint = _score_draws(draws, hidden.test, hidden.visible.coordinates)
            tables.append(table.assign(gene=list(split.test), method=name, **joint))
    return pd.concat(tables, ignore_index=True)


def _measure_noise_ceilings(
    hidden: HiddenPair, prepared: PreparedPair, split: GeneSplit, config: Config
) -> list[pd.DataFrame]:
    """The PCC that the noise of the counts leaves possible, and that of genes without a pattern."""
    counts = prepared.st_counts[:, locate(split.test, prepared.panel)].toarray().T[:, hidden.spots]
    totals, scored = prepared.st_totals, hidden.test.scored
    scale = float(np.median(totals[totals > 0]))
    tables = []
    for name, measure in (("noise_ceiling", noise_ceiling), ("noise_ceiling_null", noise_ceiling_null)):
        pcc = np.where(scored, measure(counts, totals[hidden.spots], scale, config.split.seed), np.nan)
        tables.append(pd.DataFrame({"gene": list(split.test), PRIMARY: pcc, "method": name}))
    return tables


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


def _score_draws(
    draws: FloatArray | None, hidden: HiddenGenes, coordinates: FloatArray
) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row per gene and a column per score of its draws, NaN where it is not scored, and the scores of all together;
    nothing with fewer than two draws."""
    index = pd.RangeIndex(len(hidden.genes))
    if draws is None or len(draws) < 2:
        return pd.DataFrame(index=index), {}
    scored = hidden.scored
    table = pd.DataFrame(np.nan, index=index, columns=list(DRAW_SCORES))
    if not scored.any():
        return table, {}
    drawn, truth = draws[:, scored], hidden.truth[scored]
    for name, values in score_draws_by_gene(drawn, truth, coordinates).items():
        table.loc[scored, name] = values
    return table, score_draws_jointly(drawn, truth)


def _summarise_draws(table: pd.DataFrame, joint: dict[str, float], prefix: str) -> dict[str, float]:
    """Means over genes of the scores of draws, and the joint ones, with `prefix`; coverage keeps its name."""
    means = summarise_draws({name: table[name].dropna() for name in table})
    found = {f"{prefix}{name}": value for name, value in (means | joint).items()}
    if RAW_COVERAGE in table:
        found[RAW_COVERAGE] = found.pop(f"{prefix}{RAW_COVERAGE}")
    return found
