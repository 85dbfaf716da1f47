"""What a trial reports of an error, wherever among its processes it was raised."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from ray import tune as ray_tune

# of memory asked for by CUDA itself, cuBLAS or NCCL, for which torch has no class of their own
_OUT_OF_MEMORY = ("out of memory", "cublas_status_alloc_failed")
_LOST_PEER = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "broken pipe")


@dataclass(frozen=True)
class Failure:
    """An error as text: it crosses from one process to another, which not every exception does."""

    kind: str
    message: str
    traceback: str
    is_out_of_memory: bool = False


class WorkerError(RuntimeError):
    """Raised where a worker of a group reported an error of its own."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def describe(error: Exception) -> Failure:
    """The error as text; that of a worker is given back as it was there. Called while the error is handled."""
    if isinstance(error, WorkerError):
        return error.failure
    kind = type(error).__name__
    return Failure(kind, str(error) or kind, traceback.format_exc(), is_out_of_memory(error))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU's memory ran out, in torch's own allocator or beside it, as where other processes took the rest."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _OUT_OF_MEMORY)


def is_lost_peer(error: Exception) -> bool:
    """Whether an error is what a worker sees of another one's death, so that it tells nothing of the trial."""
    if is_out_of_memory(error):  # NCCL's own has the class of a lost connection
        return False
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST_PEER)


RETRIES = 2


class RenewRetries(ray_tune.Callback):
    """A trial that got further than ever before has all its retries again.

    A worker that dies took its epoch along and nothing else, so what counts is how often one and the same epoch was
    lost: after `RETRIES` restarts without a new one the trial fails. Tune by itself counts over the whole trial (and
    leaves out only nodes that an autoscaler announces to be preempted), which a long trial on machines that come and
    go uses up however well it proceeds.
    """

    def __init__(self) -> None:
        self.furthest: dict[str, int] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        # a restarted trial counts its reports from 1 and reports its earlier epochs first
        done = int(result["training_iteration"])
        if done > self.furthest.get(trial.trial_id, 0):
            self.furthest[trial.trial_id] = done
            trial.max_failures = trial.num_failures + RETRIES
