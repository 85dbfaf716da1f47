"""Where a running study stands: what is counted while trials report, and how it reads."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cgd.metrics.facts import METRICS, PRIMARY
from tune.terminal.text import format_clock, format_duration, join_lines


@dataclass
class RunningTrial:
    """A trial in progress; `score` is its newest validation score. Without epochs it is done all at once."""

    n_epochs: int
    dataset: str
    has_epochs: bool = True
    epoch: int = 0
    score: float = math.nan


@dataclass
class Board:
    """Counts, running trials and the best validation score per data set. The test genes play no part in it."""

    n_trials: int  # to run
    n_epochs: int  # the sum of theirs at most
    outcomes: tuple[str, ...] = (PRIMARY,)  # what is shown: of running trials the first
    n_done: int = 0
    n_failed: int = 0
    running: dict[str, RunningTrial] = field(default_factory=dict)
    best: dict[str, tuple[float, str]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _epochs_over: int = 0

    def start(self, name: str, n_epochs: int, dataset: str, has_epochs: bool = True) -> None:
        self.running[name] = RunningTrial(n_epochs, dataset, has_epochs)

    def report_epoch(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        trial = self.running.get(name)
        if trial is None:
            return  # a last report of a trial that has ended
        trial.epoch = epoch
        metric = METRICS[self.outcomes[0]]
        trial.score = float(metrics.get(f"val_{metric.name}", math.nan))
        best = self.best.get(trial.dataset, (-metric.sign * math.inf, ""))[0]
        if trial.dataset and metric.sign * trial.score > metric.sign * best:
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

    def measure_elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def estimate_seconds_left(self) -> float:
        """An estimate from the epochs done so far; NaN until there is one."""
        over = self.epochs_over
        return self.measure_elapsed() * max(self.n_epochs - over, 0) / over if over else math.nan

    def describe_counts(self) -> str:
        """`3/8 trials done, 1 failed, 2 running, 3 to do`."""
        parts = [f"{self.n_done}/{self.n_trials} trials done"]
        parts += [f"{self.n_failed} failed"] if self.n_failed else []
        return ", ".join([*parts, f"{len(self.running)} running", f"{self.n_waiting} to do"])

    def describe_time_left(self) -> str:
        """`about 4 min left`, or nothing: predicting after the last epoch takes a time that is not known."""
        left = self.estimate_seconds_left()
        return f"about {format_duration(left)} left" if math.isfinite(left) and left > 0 else ""


_MOST_ROWS = 12
_OTHER_LINES = 6  # heading, bar, two table headings, `and N more`, the cursor


def draw(board: Board, width: int, height: int) -> RenderableType:
    """Counts and times, the running trials and the best so far of each data set, in a terminal of that size."""
    times = [f"{format_clock(board.measure_elapsed())} elapsed", board.describe_time_left()]
    head = _make_cell(", ".join(filter(None, [board.describe_counts(), *times])), style="bold")
    bar = Table.grid()  # a bar by itself does not end its line
    bar.add_row(ProgressBar(board.n_epochs, board.epochs_over, width=min(40, width)))
    n_rows = min(_MOST_ROWS, max((height - _OTHER_LINES) // 2, 1))
    labels = [f"validation {METRICS[outcome].label}" for outcome in board.outcomes]
    running = _draw_running(board.running, n_rows, labels[0])
    return Group(head, bar, running, _draw_best(board.best, n_rows, labels[0] if len(labels) == 1 else ""))


def _draw_running(running: Mapping[str, RunningTrial], n_rows: int, label: str) -> Table:
    table = _make_table("running", "epoch", label)
    for name, trial in list(running.items())[:n_rows]:
        score = f"{trial.score:.3f}" if math.isfinite(trial.score) else ""
        table.add_row(_make_cell(name), f"{trial.epoch}/{trial.n_epochs}" if trial.has_epochs else "", score)
    if len(running) > n_rows:
        table.add_row(f"and {len(running) - n_rows} more", "", "")
    return table


def _draw_best(best: Mapping[str, tuple[float, str]], n_rows: int, label: str) -> Table:
    table = _make_table("best so far", label)
    table.show_header = bool(best)
    for dataset, (score, name) in list(best.items())[:n_rows]:
        table.add_row(_make_cell(name if dataset in name else f"{dataset}: {name}"), f"{score:.3f}")
    return table


def _make_table(first: str, *numbers: str) -> Table:
    """A borderless table over the whole width, whose first column gives way where the terminal is narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column(first, no_wrap=True, overflow="ellipsis", ratio=1)
    for heading in numbers:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", justify="right")
    return table


def _make_cell(text: str, style: str = "") -> Text:
    return Text(join_lines(text), no_wrap=True, overflow="ellipsis", style=style)
