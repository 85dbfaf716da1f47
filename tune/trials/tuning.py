"""What studies and searches share in running trials under Ray Tune and in writing what they report."""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from ray import tune as ray_tune

from cgd.errors import TrackingError
from tune.cluster.resources import Request
from tune.store.outbox import Outbox
from tune.trials.failure import RETRIES, RenewRetries
from tune.trials.preflight import NodeStop, checked_trials

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 5.0
_Method = TypeVar("_Method", bound=Callable[..., None])


@dataclass
class OpenRun:
    """A run in progress and the epochs that are not yet on their way to the store; `key` is its fingerprint."""

    key: str
    last_epoch: int = 0
    pending: list[Mapping[str, float]] = field(default_factory=list)
    flushed: float = field(default_factory=time.monotonic)

    def add(self, metrics: Mapping[str, float], outbox: Outbox) -> None:
        """The metrics of an epoch, once: after its worker died a trial reports its earlier epochs again."""
        if metrics["epoch"] > self.last_epoch:
            self.pending.append(metrics)
            self.last_epoch = int(metrics["epoch"])
        if time.monotonic() - self.flushed > _FLUSH_SECONDS:
            self.flush(outbox)

    def flush(self, outbox: Outbox) -> None:
        """Hand over what is pending."""
        outbox.epochs(self.key, self.pending)
        self.pending, self.flushed = [], time.monotonic()


def say_lost_checkpoints(outbox: Outbox, key: str, name: str, lost: Mapping[str, float]) -> None:
    """Tag a run with how many checkpoints were damaged or not kept, by what befell them; none of that is a result."""
    for what, count in lost.items():
        outbox.tag(key, f"cgd.{what}", str(int(count)))
        _log.warning("%s: %s %s; training went on", name, int(count), what.replace("_", " "))


class RunCallback(ray_tune.Callback, ABC):
    """A callback that writes to the store; `error` is what kept it from doing so."""

    error: TrackingError | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a snapshot that is never read

    @abstractmethod
    def close(self) -> None:
        """After a stop: end the runs of what did not."""


def remember_error(method: _Method) -> _Method:
    """Keep a TrackingError of a callback's method: Tune replaces it with one of its own."""

    @wraps(method)
    def wrapped(self: RunCallback, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except TrackingError as error:
            self.error = error
            raise

    return cast(_Method, wrapped)


def message_of_death(trial: Any) -> str:
    """What Ray wrote of a worker that died; `trial.get_error` would look where it is not yet synced to."""
    written = Path(trial.local_path) / "error.txt"
    return written.read_text(errors="replace").strip() if written.is_file() else "no message from Ray"


def run_tune(
    trainable: Any,
    callback: RunCallback,
    request_of: Callable[[dict[str, Any]], Request],
    output: Path,
    param_space: Mapping[str, Any],
    label: str = "",
    reuse_actors: bool = True,
    also: Sequence[ray_tune.Callback] = (),
    files: Sequence[Path] = (),
    storage: str | None = None,
    **how: Any,
) -> None:
    """Run trials to the end or until the user stops them.

    Parameters
    ----------
    trainable
        Function that runs a trial, with its data bound to it.
    request_of
        What a trial asks of Ray, by its parameters; it is called here and on the driver alone.
    output
        Folder in which Tune keeps its own files.
    label
        Ends the name of Tune's folder.
    reuse_actors
        Let a process go on to further trials. Not where trials ask for different things: Tune keeps an idle process
        with what it holds, for which a trial of another kind would then wait for ever.
    also
        Callbacks beside the one that writes to the store, called after it.
    files
        What trials read from disk, which a node that joins must see.
    storage
        Where checkpoints are kept for all nodes; without one, all must share the output folder.
    how
        Further arguments of `TuneConfig`.

    Raises
    ------
    TrackingError
        The store failed.
    ClusterError
        A node that joined the cluster meanwhile cannot run trials.
    """
    nodes = NodeStop()

    def resources(params: dict[str, Any]) -> ray_tune.PlacementGroupFactory:
        return ray_tune.PlacementGroupFactory([request_of(params).driver])

    run_config = ray_tune.RunConfig(
        name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}{label}",
        storage_path=str(output / "ray_tune"),
        verbose=0,
        stop=nodes,
        callbacks=[callback, RenewRetries(), *also],
        failure_config=ray_tune.FailureConfig(max_failures=RETRIES),
    )
    tuning = ray_tune.TuneConfig(reuse_actors=reuse_actors, **how)
    try:
        with checked_trials(trainable, output, files, storage) as checked:
            trials = ray_tune.with_resources(checked, resources)
            ray_tune.Tuner(trials, param_space=dict(param_space), tune_config=tuning, run_config=run_config).fit()
    except Exception:  # whatever Tune made of it: if the store or a node failed, that is what the user must hear
        error = callback.error or nodes.error
        if error is None:
            raise
        raise error from None
    finally:
        with suppress(TrackingError):
            callback.close()
