"""A forecast beside what happened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from ablations.findings.results import StudyResults


@dataclass(frozen=True)
class Check:
    """A forecast number and its outcome; `ratio` is outcome / forecast, NaN where the forecast is 0."""

    forecast: float
    outcome: float

    @property
    def ratio(self) -> float:
        return self.outcome / self.forecast if self.forecast else math.nan


@dataclass(frozen=True)
class ForecastCheck:
    """The forecast of a study against the trials that ran after it was made.

    Attributes
    ----------
    wall_seconds
        While at least one of them ran, on `n_concurrent` slots: a study shares trials with those that a command ran
        before it, and between a kill and its resumption nothing runs.
    trial_seconds
        Summed over the trials.
    peak_memory_mb
        The largest of the trials.
    n_trials, n_concurrent, made
        Trials compared, slots, and when the forecast was made (ISO date).
    """

    wall_seconds: Check
    trial_seconds: Check
    peak_memory_mb: Check
    n_trials: int
    n_concurrent: int
    made: str


def compare_forecast(results: StudyResults) -> ForecastCheck | None:
    """Compare the forecast of a study with its outcome.

    Only trials that the forecast names and that started after it was made and finished are compared, on both sides;
    trials taken from an earlier run cost nothing. The forecast wall time is that of all its trials; where some are not
    among the finished it is scaled by the compared share of the forecast seconds.

    Returns
    -------
    None without a forecast, or where none of its trials ran after it.
    """
    if results.forecast is None:
        return None
    made = datetime.fromisoformat(results.forecast.made).timestamp()
    expected = {entry.fingerprint: entry for entry in results.forecast.trials}
    trials = results.trials
    ran = trials[(trials["status"] == "FINISHED") & (trials["started"] >= made) & trials["fingerprint"].isin(expected)]
    if ran.empty:
        return None
    known = [expected[key] for key in ran["fingerprint"]]
    seconds = sum(entry.seconds for entry in known)
    total = sum(entry.seconds for entry in expected.values())
    share = seconds / total if total else math.nan
    return ForecastCheck(
        wall_seconds=Check(results.forecast.wall_seconds * share, _sum_busy_seconds(ran)),
        trial_seconds=Check(seconds, float(ran["wall_seconds"].sum())),
        peak_memory_mb=Check(max(entry.memory_mb for entry in known), float(ran["peak_memory_mb"].max())),
        n_trials=len(ran),
        n_concurrent=results.forecast.n_concurrent,
        made=results.forecast.made,
    )


def _sum_busy_seconds(trials: pd.DataFrame) -> float:
    """Length of the union of the trials' times."""
    total, until = 0.0, -math.inf
    for start, end in trials[["started", "ended"]].sort_values("started").itertuples(index=False):
        total += max(end - max(start, until), 0.0)
        until = max(end, until)
    return total
