"""How often a trial may lose its worker: again and again on spot machines, but not for ever where it is to blame."""

from __future__ import annotations

from typing import Any

from ray import tune as ray_tune

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
