"""The driver's side of running trials: what Ray Tune says of them, and what they report, for one listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from ray import tune as ray_tune

from cgd.errors import TrackingError
from tune.trials.failure import Failure
from tune.trials.messages import Epoch, TrialResult, from_report
from tune.trials.spec import read_key

_Method = TypeVar("_Method", bound=Callable[..., None])


class Listener:
    """Hears of each trial, by its key, that it started, its epochs, and once how it ended. This one ignores it all."""

    def start(self, key: str) -> None:
        """It runs."""

    def hear_epoch(self, key: str, epoch: Epoch) -> None:
        """An epoch ended; after a worker died, epochs are heard again."""

    def finish(self, key: str, result: TrialResult) -> None:
        """It ran to its end."""

    def fail(self, key: str, failure: Failure) -> None:
        """It ended with an error, or its worker died too often."""

    def forget(self, key: str) -> None:
        """It ended, was run again because its worker died right afterwards, and ended again: what that left can go."""

    def stop(self, key: str) -> None:
        """Ray Tune stopped it before its end."""

    def close(self, unfinished: Iterable[str]) -> None:
        """The command stops, with these still running."""


def _remember_error(method: _Method) -> _Method:
    """Keep a TrackingError of a callback's method: Tune replaces it with one of its own."""

    @wraps(method)
    def wrapped(self: TrialCallback, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except TrackingError as error:
            self.error = error
            raise

    return cast(_Method, wrapped)


class TrialCallback(ray_tune.Callback):
    """Passes on what happens to trials; `error` is what kept the listener from writing to the store."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.error: TrackingError | None = None
        self._started: dict[str, None] = {}  # in order
        self._ended: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a snapshot that is never read

    @_remember_error
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._start(read_key(trial.config))

    def _start(self, key: str) -> None:
        if key not in self._started:  # else a restart after its worker died
            self.listener.start(key)
            self._started[key] = None

    @_remember_error
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        key, message = read_key(trial.config), from_report(result)
        if key in self._ended:
            if isinstance(message, TrialResult):
                self.listener.forget(key)
            return
        match message:
            case Epoch():
                self.listener.hear_epoch(key, message)
            case TrialResult():
                self.listener.finish(key, message)
                self._ended.add(key)  # only now: a run whose result could not be written is ended by `close`
            case Failure():
                self.listener.fail(key, message)
                self._ended.add(key)

    @_remember_error
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = read_key(trial.config)
        if key in self._started and key not in self._ended:
            self.listener.stop(key)
            self._ended.add(key)

    @_remember_error
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = read_key(trial.config)
        if key not in self._ended:
            self._start(key)  # Tune tells nothing of the start of a process that died while it started
            self.listener.fail(key, _describe_death(trial))
            self._ended.add(key)

    def close(self) -> None:
        """The command stops: what did not end, did not."""
        self.listener.close([key for key in self._started if key not in self._ended])


def _describe_death(trial: Any) -> Failure:
    """What Ray wrote of a worker that died; `trial.get_error` would look where it is not yet synced to."""
    written = Path(trial.local_path) / "error.txt"
    detail = written.read_text(errors="replace").strip() if written.is_file() else "no message from Ray"
    reasons = [line.strip() for line in detail.splitlines() if line.strip()]
    return Failure("WorkerDied", f"the worker process died: {' '.join(reasons[-3:])[:500]}", detail)
