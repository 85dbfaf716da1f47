"""What a trial will cost, measured on a few real steps of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from cgd.data.split import GeneSplit
from cgd.estimator import CALIBRATION_DRAWS, MOST_GENES, STOPPING_DRAWS
from cgd.evaluation import fit_hidden
from cgd.memory import peak_memory_mb


@dataclass(frozen=True)
class Probe:
    """What a trial will cost, from a few real steps of it.

    Attributes
    ----------
    setup_seconds
        Everything before the first epoch, the validation of the untrained network included.
    epoch_seconds
        One epoch with its validation.
    predict_seconds
        The prediction of the test genes, draws included, and those of the validation genes for the calibration.
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
        fit = fit_hidden(short, prepared, split, lambda metrics: epochs.append(metrics["epoch_seconds"]), root)
        setup = fit.trained - fit.started - sum(epochs)
        share, fit.model.share = fit.model.share, 1.0  # at a share of 0 nothing is asked of the network
        val_seconds = _seconds(lambda: fit.model.predict_mean(split.val))
        is_shared = config.sampling.estimate == "posterior_mean" and config.model.center != "none"
        # the calibration comes after the epochs, and one validation before them
        setup = max(setup - (1 + is_shared + (share > 0)) * val_seconds, 0.0)
        if n_draws:
            fit.model.predict_draws(split.test)  # the first one also imports the sampler
        val_draw_seconds = 0.0
        if n_draws > 1:
            some = [split.val[i] for i in fit.hidden.val.pick_scored(MOST_GENES)]
            val_draw_seconds = _seconds(lambda: fit.model.predict_draws(some)) if some else 0.0
        step_seconds = max(epochs[-1] - val_seconds, 0.0) / short.train.steps_per_epoch if epochs else 0.0
        predict_seconds = n_draws * _seconds(lambda: fit.model.predict_draws(split.test)) if n_draws else 0.0
        if config.sampling.estimate == "draws":
            val_seconds *= n_draws
        else:
            predict_seconds += _seconds(lambda: fit.model.predict_mean(split.test))
        judge_seconds = val_seconds + STOPPING_DRAWS * val_draw_seconds
        setup += judge_seconds if epochs else 0.0
        predict_seconds += (1 + is_shared) * val_seconds + min(CALIBRATION_DRAWS, 2 * n_draws) * val_draw_seconds
        fit.model.save(root / "model")
        checkpoint = max(root.glob("*/epoch-*"), default=None)
        sizes = [_megabytes(checkpoint) if checkpoint else 0.0, _megabytes(root / "model")]
    return Probe(setup, judge_seconds + n_steps * step_seconds, predict_seconds, peak_memory_mb(), *sizes)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
