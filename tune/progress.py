"""What a running study shows: a line for each finished trial, and on a terminal a bar with the time left."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Progress over the epochs of all trials.

    Parameters
    ----------
    n_trials, n_epochs
        Trials to run, and the sum of their epochs at most.
    """

    def __init__(self, n_trials: int, n_epochs: int) -> None:
        self.n_trials, self.n_epochs = n_trials, max(n_epochs, 1)
        self.console = Console(highlight=False, soft_wrap=True)
        self._done = 0
        self._epochs: dict[str, int] = {}
        self._planned: dict[str, int] = {}
        self._started = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("starting", total=self.n_epochs, left="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def start(self, name: str, n_epochs: int) -> None:
        self._planned[name] = n_epochs
        self._show()

    def epoch(self, name: str, epoch: int) -> None:
        self._epochs[name] = epoch
        self._show()

    def finish(self, name: str, outcome: str) -> None:
        """A trial ended, perhaps before its last epoch."""
        self._done += 1
        self._epochs[name] = self._planned.get(name, 0)
        left = self.time_left()
        tail = f"; about {left} left" if left and self._done < self.n_trials else ""
        self.console.print(f"[{self._done}/{self.n_trials}] {name}: {outcome}{tail}", markup=False)
        self._show()

    def time_left(self) -> str:
        """An estimate from the epochs done so far; empty until there is one."""
        done = sum(self._epochs.values())
        if not done:
            return ""
        seconds = (time.monotonic() - self._started) * (self.n_epochs - done) / done
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

    def _show(self) -> None:
        left = self.time_left()
        self._bar.update(
            self._task,
            completed=sum(self._epochs.values()),
            description=f"{self._done}/{self.n_trials} trials",
            left=f"about {left} left" if left else "",
        )
