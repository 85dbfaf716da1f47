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

    def stop(self, key: str) -> None:
        """Ray Tune ended it before it did."""

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
        key = read_key(trial.config)
        if key not in self._started:  # else a restart after its worker died
            self._started[key] = None
            self.listener.start(key)

    @_remember_error
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        key = read_key(trial.config)
        if key in self._ended:
            return
        match from_report(result):
            case Epoch() as epoch:
                self.listener.hear_epoch(key, epoch)
            case TrialResult() as found:
                self._ended.add(key)
                self.listener.finish(key, found)
            case Failure() as failure:
                self._ended.add(key)
                self.listener.fail(key, failure)

    @_remember_error
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = read_key(trial.config)
        if key not in self._ended:
            self._ended.add(key)
            self.listener.stop(key)

    @_remember_error
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = read_key(trial.config)
        if key not in self._ended:
            self._ended.add(key)
            self.listener.fail(key, _describe_death(trial))

    def close(self) -> None:
        """The command stops: what did not end, did not."""
        self.listener.close([key for key in self._started if key not in self._ended])


def _describe_death(trial: Any) -> Failure:
    """What Ray wrote of a worker that died; `trial.get_error` would look where it is not yet synced to."""
    written = Path(trial.local_path) / "error.txt"
    detail = written.read_text(errors="replace").strip() if written.is_file() else "no message from Ray"
    reasons = [line.strip() for line in detail.splitlines() if line.strip()]
    return Failure("WorkerDied", f"the worker process died: {' '.join(reasons[-3:])[:500]}", detail)
