"""Where a running study stands: what is counted while trials report, and how it reads."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tune.terminal.text import duration

SCORE = "val_pcc"


@dataclass
class RunningTrial:
    """A trial in progress; `score` is its newest validation PCC. Without epochs it is done all at once."""

    n_epochs: int
    dataset: str
    has_epochs: bool = True
    epoch: int = 0
    score: float = math.nan


@dataclass
class Board:
    """Counts, running trials and the best validation PCC per data set. The test genes play no part in it.

    Parameters
    ----------
    n_trials, n_epochs
        Trials to run, and the sum of their epochs at most.
    """

    n_trials: int
    n_epochs: int
    n_done: int = 0
    n_failed: int = 0
    running: dict[str, RunningTrial] = field(default_factory=dict)
    best: dict[str, tuple[float, str]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _epochs_over: int = 0

    def start(self, name: str, n_epochs: int, dataset: str, has_epochs: bool = True) -> None:
        self.running[name] = RunningTrial(n_epochs, dataset, has_epochs)

    def epoch(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        trial = self.running.get(name)
        if trial is None:
            return  # a last report of a trial that has ended
        trial.epoch = epoch
        trial.score = float(metrics.get(SCORE, math.nan))
        highest = self.best.get(trial.dataset, (-math.inf, ""))[0]
        if trial.dataset and trial.score > highest:
            self.best[trial.dataset] = (trial.score, name)

    def finish(self, name: str, failed: bool) -> None:
        """A trial ended, perhaps before its last epoch: those it did not run are over too."""
        trial = self.running.pop(name, None)
        self._epochs_over += trial.n_epochs if trial else 0
        self.n_done += 1
        self.n_failed += failed

    @property
    def n_waiting(self) -> int:
        return max(self.n_trials - self.n_done - len(self.running), 0)

    @property
    def epochs_over(self) -> int:
        return self._epochs_over + sum(trial.epoch for trial in self.running.values())

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def seconds_left(self) -> float:
        """An estimate from the epochs done so far; NaN until there is one."""
        over = self.epochs_over
        return self.elapsed() * max(self.n_epochs - over, 0) / over if over else math.nan

    def counts(self) -> str:
        """`3/8 trials done, 1 failed, 2 running, 3 to do`."""
        parts = [f"{self.n_done}/{self.n_trials} trials done"]
        parts += [f"{self.n_failed} failed"] if self.n_failed else []
        return ", ".join([*parts, f"{len(self.running)} running", f"{self.n_waiting} to do"])

    def time_left(self) -> str:
        """`about 4 min left`, or nothing: predicting after the last epoch takes a time that is not known."""
        left = self.seconds_left()
        return f"about {duration(left)} left" if math.isfinite(left) and left > 0 else ""
