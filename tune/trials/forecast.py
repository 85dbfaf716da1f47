"""What a plan will cost: the arithmetic from probes to hours, memory and disk, and where a forecast is kept.

A forecast made by a dry run is found again by the real run of the same plan, so that it can be checked against the
outcome.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cgd.files import write_atomically
from cgd.probe import Probe
from tune.cluster.resources import count_workers
from tune.trials.plan import Plan
from tune.trials.spec import TrialSpec

RECORD_MB = 0.1  # a trial in the store without its model: texts, tables, metrics; 0.06 measured on a small panel
GROUP_START_SECONDS = 15.0  # of the workers of a trial that has several: the difference measured in docs/studies.md
_CHECKPOINTS_KEPT = 4  # of a running trial: the last, the best, a spare, and one being written
EpochShares = Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class TrialForecast:
    """What one trial will cost. `seconds` is an upper bound where no share of epochs run is known."""

    fingerprint: str
    seconds: float
    memory_mb: float
    checkpoints_mb: float
    kept_mb: float


@dataclass(frozen=True)
class Forecast:
    """What the trials still to run will cost.

    Attributes
    ----------
    trials
        In the order they will run; those that could not be probed are not among them.
    n_concurrent
        Trials at a time.
    made
        When, ISO 8601.
    launch_seconds
        Until the first trial starts.
    """

    trials: tuple[TrialForecast, ...]
    n_concurrent: int
    made: str
    launch_seconds: float = 0.0

    @property
    def wall_seconds(self) -> float:
        """Until the last trial ends, each starting where a slot is free first."""
        return self.launch_seconds + schedule([trial.seconds for trial in self.trials], self.n_concurrent)

    @property
    def memory_mb(self) -> float:
        """Of the largest trials that may run at a time."""
        return sum(heapq.nlargest(self.n_concurrent, (trial.memory_mb for trial in self.trials)))

    @property
    def checkpoints_mb(self) -> float:
        """Disk space of the checkpoints while trials run; those of a finished trial are removed."""
        return sum(heapq.nlargest(self.n_concurrent, (trial.checkpoints_mb for trial in self.trials)))

    @property
    def kept_mb(self) -> float:
        """Disk space of what stays."""
        return sum(trial.kept_mb for trial in self.trials)

    def select(self, fingerprints: Iterable[str]) -> Forecast:
        """The part about some trials."""
        wanted = set(fingerprints)
        trials = tuple(trial for trial in self.trials if trial.fingerprint in wanted)
        return replace(self, trials=trials)

    def to_record(self) -> dict[str, Any]:
        """As kept with a study, for its report."""
        return {
            "wall_seconds": self.wall_seconds,
            "n_concurrent": self.n_concurrent,
            "launch_seconds": self.launch_seconds,
            "memory_mb": self.memory_mb,
            "disk_mb": self.checkpoints_mb + self.kept_mb,
            "trials": [asdict(trial) for trial in self.trials],
            "made": self.made,
        }


def schedule(seconds: Sequence[float], n_slots: int) -> float:
    """Wall seconds of jobs started in order on `n_slots` slots, each on the slot that is free first."""
    slots = [0.0] * max(min(n_slots, len(seconds)), 1)
    for job in seconds:
        heapq.heapreplace(slots, slots[0] + job)
    return max(slots)


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
    return Forecast(warmed, n_concurrent, datetime.now(UTC).isoformat(timespec="seconds"), launch_seconds)


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
    parts = [sorted(plan.trials), plan.base.fingerprint_of("runtime"), plan.base.train.n_workers]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return output / "forecasts" / f"{key}.json"


def save_forecast(output: Path, plan: Plan, forecast: Forecast) -> Path:
    """Keep a forecast for the real run of the plan."""
    path = forecast_path(output, plan)
    write_atomically(path, json.dumps(forecast.to_record(), indent=1))
    return path


def load_forecast(output: Path, plan: Plan) -> Forecast | None:
    """The forecast a dry run of this plan left; None where there is none, or one of another layout."""
    try:
        record = json.loads(forecast_path(output, plan).read_text(encoding="utf-8"))
        trials = tuple(TrialForecast(**trial) for trial in record["trials"])
        return Forecast(trials, int(record["n_concurrent"]), str(record["made"]), float(record["launch_seconds"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # written by another version, or by hand: a dry run writes it anew
        return None
