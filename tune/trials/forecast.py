"""What a plan will cost: the arithmetic from probes to hours, memory and disk, and where a forecast is kept.

A forecast made by a dry run is found again by the real run of the same plan, so that it can be checked against the
outcome.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ablations.findings.study_json import Forecast, TrialForecast
from cgd.errors import TrackingError
from cgd.files import write_atomically
from cgd.probe import Probe
from tune.cluster.resources import count_workers
from tune.trials.plan import Plan
from tune.trials.spec import TrialSpec

RECORD_MB = 0.1  # a trial in the store without its model: texts, tables, metrics; 0.06 measured on a small panel
GROUP_START_SECONDS = 15.0  # of the workers of a trial that has several: the difference measured in docs/studies.md
_CHECKPOINTS_KEPT = 4  # of a running trial: the last, the best, a spare, and one being written
EpochShares = Mapping[tuple[str, int], float]


def forecast_trial(spec: TrialSpec, probe: Probe, shares: EpochShares, log_models: bool = True) -> TrialForecast:
    """Setup, epochs and prediction of one trial.

    A probe has one worker. Each of several is taken to need its memory, and the steps to last as long as with one: what
    workers save and what they spend on each other is not probed. Starting them comes on top.

    Parameters
    ----------
    spec, probe
        The trial, and a probe of its configuration or of one that costs the same.
    shares
        Mean share of the epochs that finished trials ran before training stopped, by data set and `train.epochs`;
        all epochs are assumed elsewhere.
    log_models
        Whether the fitted model stays in the store.
    """
    n_epochs = spec.config.train.epochs
    epochs = n_epochs * shares.get((spec.dataset, n_epochs), 1.0)
    seconds = probe.setup_seconds + epochs * probe.epoch_seconds + probe.predict_seconds
    n_workers = count_workers(spec.config)
    if n_workers > 1:
        seconds += GROUP_START_SECONDS
    kept, memory = RECORD_MB + (probe.model_mb if log_models else 0.0), n_workers * probe.peak_memory_mb
    return TrialForecast(spec.fingerprint, seconds, memory, _CHECKPOINTS_KEPT * probe.checkpoint_mb, kept)


def make_forecast(
    trials: Sequence[TrialForecast], n_concurrent: int, warmup_seconds: float = 0.0, launch_seconds: float = 0.0
) -> Forecast:
    """The forecast of trials in the order they will run, made now.

    Parameters
    ----------
    trials
        As in workers that have run a trial before.
    n_concurrent
        Trials at a time, each in a worker of its own that goes on to later trials.
    warmup_seconds
        What the first trial of each worker takes on top.
    launch_seconds
        Until the first trial starts.
    """
    first, later = trials[:n_concurrent], trials[n_concurrent:]
    warmed = (*(replace(trial, seconds=trial.seconds + warmup_seconds) for trial in first), *later)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Forecast(trials=warmed, n_concurrent=n_concurrent, made=made, launch_seconds=launch_seconds)


def measure_epoch_shares(
    finished: Iterable[tuple[Mapping[str, str], Mapping[str, str], Mapping[str, float]]], studies: Iterable[str]
) -> dict[tuple[str, int], float]:
    """Mean share of its epochs a trial ran, by data set and `train.epochs`, over finished trials of these studies.

    Parameters
    ----------
    finished
        (tags, parameters, metrics) of finished trials.
    studies
        Names of the studies whose trials count.
    """
    wanted = {f"cgd.study.{name}" for name in studies}
    shares: dict[tuple[str, int], list[float]] = {}
    for tags, params, metrics in finished:
        if wanted & tags.keys() and "train.epochs" in params and "epochs" in metrics:
            planned = int(params["train.epochs"])
            shares.setdefault((tags.get("cgd.dataset", ""), planned), []).append(metrics["epochs"] / planned)
    return {key: sum(values) / len(values) for key, values in shares.items()}


# ---- keeping it -----------------------------------------------------------------------------------------------------


def forecast_path(output: Path, plan: Plan) -> Path:
    """Where the forecast of a plan is kept: named by its trials and by what they run on."""
    parts = [sorted(plan.trials), plan.base.fingerprint_section("runtime"), plan.base.train.n_workers]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return output / "forecasts" / f"{key}.json"


def save_forecast(output: Path, plan: Plan, forecast: Forecast) -> Path:
    """Keep a forecast for the real run of the plan."""
    path = forecast_path(output, plan)
    write_atomically(path, forecast.to_json())
    return path


def load_forecast(output: Path, plan: Plan) -> Forecast | None:
    """The forecast a dry run of this plan left; None where there is none, or one of another layout."""
    path = forecast_path(output, plan)
    try:
        return Forecast.from_json(path.read_text(encoding="utf-8"), str(path), "make a dry run")
    except (FileNotFoundError, UnicodeDecodeError, TrackingError):  # by another version, or by hand: made again
        return None
