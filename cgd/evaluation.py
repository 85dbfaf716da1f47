"""One trial's worth of science: hide, fit, predict, score. And the audit that nothing leaked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from cgd.calibration import LEVEL
from cgd.config import CAUSALGED, Config
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray, HiddenGenes, HiddenPair, hide
from cgd.data.split import GeneSplit
from cgd.estimator import CausalGeD
from cgd.kept_prediction import KeptPrediction
from cgd.memory import peak_memory_mb, reset_peak_memory
from cgd.metrics.floors import ceiling, predict_floors, visible_mean_fill, zero_fill
from cgd.metrics.intervals import constant_intervals, score_intervals
from cgd.metrics.summary import summarise_table
from cgd.parallel import ALONE, Parallel
from cgd.training.checkpoint import CheckpointFolder, OpenCheckpoints
from cgd.training.trainer import EpochReport
from cgd.version import code_version


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
    """Names a trial for ever: configuration, data, split and code version."""
    return config.fingerprint(prepared.sha256, split.sha256, trial_code(config))


def trial_code(config: Config) -> str:
    """Version of the code that the trial's method runs."""
    if config.method == CAUSALGED:
        return code_version("cgd.evaluation")
    from cgd.baselines import find_method

    return find_method(config.method).code_version()


def evaluate(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    on_epoch: EpochReport | None = None,
    checkpoint_root: Path | None = None,
    open_checkpoints: OpenCheckpoints = CheckpointFolder,
) -> Evaluation:
    """Fit on the training genes, predict the test genes, score them.

    Parameters
    ----------
    config, prepared, split
        The trial. `prepared` must have been prepared with `config.data`.
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
    """
    found = evaluate_in_group(config, prepared, split, ALONE, on_epoch, checkpoint_root, open_checkpoints)
    assert found is not None
    return found


def evaluate_in_group(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    parallel: Parallel,
    on_epoch: EpochReport | None = None,
    checkpoint_root: Path | None = None,
    open_checkpoints: OpenCheckpoints = CheckpointFolder,
) -> Evaluation | None:
    """`evaluate` by several processes together: each of `parallel` calls this with the same trial.

    Rank 0 returns what `evaluate` returns to the order of sums, and alone uses `on_epoch` and `checkpoint_root`; the
    others return None.
    """
    kept = KeptPrediction(checkpoint_root, config, prepared, split, trial_code(config))
    known = kept.of_the_other_protocol() if parallel.is_main else None
    if parallel.from_main(known is not None):
        return _scored(hide(prepared, split, config), *known, model=None) if known else None
    if config.method != CAUSALGED:
        from cgd.baselines.trial import fit_baseline

        hidden, prediction, summary = fit_baseline(config, prepared, split)
        model = None
    else:
        fit = _fit(config, prepared, split, on_epoch, checkpoint_root, open_checkpoints, parallel)
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
    return _scored(hidden, prediction, summary, model)


def _scored(
    hidden: HiddenPair, prediction: FloatArray, summary: dict[str, float], model: CausalGeD | None
) -> Evaluation:
    per_gene = hidden.test.score(prediction)
    return Evaluation(per_gene, summarise_table(per_gene, "test_") | summary, model)


def validate(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    on_epoch: EpochReport | None = None,
    checkpoint_root: Path | None = None,
    open_checkpoints: OpenCheckpoints = CheckpointFolder,
) -> Evaluation:
    """Fit on the training genes and score the validation genes: what a search may look at.

    No test gene is predicted or scored: `per_gene` has a row per validation gene, `summary` the same costs as that of
    `evaluate` and `val_*` in place of `test_*`. Parameters and errors are those of `evaluate`.
    """
    found = validate_in_group(config, prepared, split, ALONE, on_epoch, checkpoint_root, open_checkpoints)
    assert found is not None
    return found


def validate_in_group(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    parallel: Parallel,
    on_epoch: EpochReport | None = None,
    checkpoint_root: Path | None = None,
    open_checkpoints: OpenCheckpoints = CheckpointFolder,
) -> Evaluation | None:
    """`validate` by several processes together, as in `evaluate_in_group`."""
    fit = _fit(config, prepared, split, on_epoch, checkpoint_root, open_checkpoints, parallel)
    prediction, costs = fit.model.predict_mean(split.val), fit.costs()
    if not parallel.is_main:
        return None
    fit.model.parallel = ALONE
    per_gene = fit.hidden.val.score_heldout(prediction)
    return Evaluation(per_gene, summarise_table(per_gene, "val_") | costs, fit.model)


@dataclass(frozen=True)
class _Fit:
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


def _fit(
    config: Config,
    prepared: PreparedPair,
    split: GeneSplit,
    on_epoch: EpochReport | None,
    checkpoint_root: Path | None,
    open_checkpoints: OpenCheckpoints = CheckpointFolder,
    parallel: Parallel = ALONE,
) -> _Fit:
    start = time.perf_counter()
    reset_peak_memory()
    fingerprint = trial_fingerprint(config, prepared, split)
    checkpoints = open_checkpoints(checkpoint_root / fingerprint, fingerprint) if checkpoint_root else None
    hidden = hide(prepared, split, config)
    model = CausalGeD(config)
    model.fit_visible(hidden.visible, hidden.val, on_epoch, checkpoints, parallel)
    return _Fit(model, hidden, start, time.perf_counter(), checkpoints)


@dataclass(frozen=True)
class Probe:
    """What a trial will cost, from a few real steps of it.

    Attributes
    ----------
    setup_seconds
        Everything before the first epoch.
    epoch_seconds
        One epoch with its validation.
    predict_seconds
        The prediction of the test genes, draws included, and that of the validation genes for the calibration.
    peak_memory_mb
        Of this process, during the probe.
    checkpoint_mb, model_mb
        Size of a checkpoint and of the saved model.
    """

    setup_seconds: float
    epoch_seconds: float
    predict_seconds: float
    peak_memory_mb: float
    checkpoint_mb: float
    model_mb: float


_PROBE_STEPS = 2


def probe(config: Config, prepared: PreparedPair, split: GeneSplit) -> Probe:
    """Run a few training steps, one validation and one draw of a trial, and scale them up. No test gene is scored."""
    n_steps, n_draws = config.train.steps_per_epoch, config.sampling.n_samples
    short = config.with_values(
        {
            "train.epochs": 2,  # the first one also pays for what torch does once
            "train.steps_per_epoch": min(_PROBE_STEPS, n_steps),
            "sampling.n_samples": min(1, n_draws),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        root, epochs = Path(folder), []
        fit = _fit(short, prepared, split, lambda metrics: epochs.append(metrics["epoch_seconds"]), root)
        setup = fit.trained - fit.started - sum(epochs)
        val_seconds = _seconds(lambda: fit.model.predict_mean(split.val))
        setup = max(setup - val_seconds, 0.0)  # the calibration comes after the epochs
        if n_draws:
            fit.model.predict_draws(split.test)  # the first one also imports the sampler
        step_seconds = max(epochs[-1] - val_seconds, 0.0) / short.train.steps_per_epoch
        predict_seconds = n_draws * _seconds(lambda: fit.model.predict_draws(split.test)) if n_draws else 0.0
        if config.sampling.estimate == "draws":
            val_seconds *= n_draws
        else:
            predict_seconds += _seconds(lambda: fit.model.predict_mean(split.test))
        predict_seconds += val_seconds
        fit.model.save(root / "model")
        checkpoint = max(root.glob("*/epoch-*"))
        sizes = [_megabytes(checkpoint), _megabytes(root / "model")]
    return Probe(setup, val_seconds + n_steps * step_seconds, predict_seconds, peak_memory_mb(), *sizes)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def evaluate_floors(prepared: PreparedPair, split: GeneSplit, config: Config) -> pd.DataFrame:
    """Per-gene metrics of every floor and of the ceiling, with a column `method`: once per data set and split.

    Under `published` the fills that use no model stand beside.
    """
    hidden = hide(prepared, split, config)
    predictions = predict_floors(hidden.visible, split.test, config.split.seed)
    predictions["ceiling"] = ceiling(hidden.visible, hidden.test.truth, config.model.latent_dim)
    if hidden.test.hidden is not None:
        predictions["zero_fill"] = zero_fill(hidden.test.truth, hidden.test.hidden)
        predictions["visible_mean_fill"] = visible_mean_fill(hidden.test.truth, hidden.test.hidden)
    tables = [hidden.test.score(prediction).assign(method=name) for name, prediction in predictions.items()]
    return pd.concat(tables, ignore_index=True)


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
    everything = _with_noise(prepared, (*split.val, *split.test), seed)
    noisy = _with_noise(prepared, split.test, seed)
    one, other = hide(prepared, split, config), hide(everything, split, config)
    same_view = _same_visible(one, other) and _same_scorer(one.val, hide(noisy, split, config).val)
    first, second = (_predict(config, p, split) for p in (prepared, noisy))
    difference = float(np.abs(first - second).max())
    return Audit(same_view and first.tobytes() == second.tobytes(), first.size, difference)


def _predict(config: Config, prepared: PreparedPair, split: GeneSplit) -> FloatArray:
    hidden = hide(prepared, split, config)
    if config.method != CAUSALGED:
        from cgd.baselines.trial import predict_baseline

        return predict_baseline(config, hidden, split)
    model = CausalGeD(config)
    model.fit_visible(hidden.visible, hidden.val)
    low, high = model.predict_interval(split.test)
    found = [model.predict_mean(split.test), low, np.nan_to_num(high)]  # unbounded where too few genes calibrate
    if config.sampling.n_samples:
        found += list(model.predict_draws(split.test))
    return np.stack(found)


def _same_visible(one: HiddenPair, other: HiddenPair) -> bool:
    a, b = one.visible, other.visible
    names = ("x_st", "x_sc", "coordinates", "st_totals", "sc_totals")
    arrays = [(getattr(a, name), getattr(b, name)) for name in names]
    same_names = (a.train_genes, a.genes, a.spot_names) == (b.train_genes, b.genes, b.spot_names)
    return same_names and all(x.tobytes() == y.tobytes() for x, y in arrays)


def _same_scorer(one: HiddenGenes, other: HiddenGenes) -> bool:
    return one.truth.tobytes() == other.truth.tobytes() and one.scored.tobytes() == other.scored.tobytes()


def _with_noise(prepared: PreparedPair, genes: tuple[str, ...], seed: int) -> PreparedPair:
    counts = prepared.st_counts.tolil(copy=True)
    position = {gene: i for i, gene in enumerate(prepared.panel)}
    rng = np.random.default_rng(seed)
    before = np.asarray(prepared.st_counts.sum(axis=1)).ravel()
    for gene in genes:
        counts[:, position[gene]] = rng.poisson(3.0, size=(prepared.n_spots, 1)).astype(np.float32)
    noisy = sp.csc_matrix(counts)
    totals = prepared.st_totals + np.asarray(noisy.sum(axis=1)).ravel() - before
    return replace(prepared, st_counts=noisy, st_totals=totals)


def _score_calibrated(prediction: FloatArray, fit: _Fit) -> dict[str, float]:
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
