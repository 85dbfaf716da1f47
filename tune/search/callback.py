"""The driver's side of a running search: what candidates report becomes MLflow runs and lines on the terminal."""

from __future__ import annotations

import math
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgd.config import Config, says_where
from cgd.data.preprocess import PreparedPair
from tune.checkpoints.mirror import CheckpointMirror
from tune.search.progress import SearchProgress
from tune.search.trial import (
    EPOCH,
    IS_EPOCH,
    IS_ERROR,
    IS_RESULT,
    KIND,
    PAYLOAD,
    PERCENT,
    REASON,
    TAGS,
    VALUE,
    CandidateResult,
)
from tune.store.opening import after_all_ran
from tune.store.outbox import Outbox
from tune.store.outbox_files import opening
from tune.store.tracking import FINISHED, KILLED, STOPPED, RunRecord, describe_dataset, table_text
from tune.trials.tuning import OpenRun, RunCallback, message_of_death, remember_error, say_lost_checkpoints

KIND_OF_RUN = "search_trial"
KEPT = "kept_val_pcc"  # the value in the end; `val_pcc` is the curve, and MLflow shows the last of its points


@dataclass(frozen=True)
class Candidate:
    """What the store says of a candidate: fingerprint, readable name, configuration and tags."""

    key: str
    name: str
    config: Config
    tags: Mapping[str, str]


@dataclass
class _Open(OpenRun):
    """The run of a candidate in progress, its value so far and how far it is."""

    candidate: Candidate = field(kw_only=True)
    value: float = math.nan
    percent: int = 0


class SearchRuns:
    """MLflow runs of candidates, below the run of their search.

    Parameters
    ----------
    outbox
        On the way to the store.
    parent
        Run of the search.
    datasets
        Prepared pairs by name, to log as inputs.
    """

    def __init__(self, outbox: Outbox, parent: str, datasets: Mapping[str, PreparedPair]) -> None:
        self.outbox, self.parent, self.datasets = outbox, parent, datasets
        self.known: dict[str, RunRecord] = outbox.tracking.runs(KIND_OF_RUN)
        self._finished = {key for key, record in self.known.items() if record.status == FINISHED}

    def open(self, candidate: Candidate) -> None:
        """Create or re-open the run of a candidate."""
        tags = {"mlflow.parentRunId": self.parent, **candidate.tags}
        params = {k: v for k, v in candidate.config.flatten().items() if not says_where(k)}
        texts = {"config.yaml": candidate.config.to_yaml()}
        datasets = [describe_dataset(prepared) for prepared in self.datasets.values()]
        about = {"params": params, "texts": texts, "datasets": datasets}
        self.outbox.put(candidate.key, opening(KIND_OF_RUN, candidate.name, tags, **about))
        self._finished.discard(candidate.key)

    def finish(self, candidate: Candidate, result: CandidateResult) -> None:
        """Write the final metrics and the per-gene table."""
        metrics = {KEPT: result.value, **result.summary}
        if len(result.by_dataset) > 1:
            metrics |= {f"{KEPT}_{_metric_name(name)}": value for name, value in result.by_dataset.items()}
        say_lost_checkpoints(self.outbox, candidate.key, candidate.name, result.lost)
        self.outbox.finish(candidate.key, metrics, table_text(result.per_gene))
        self._finished.add(candidate.key)

    def is_finished(self, key: str) -> bool:
        """Whether a candidate has its result; its checkpoints are then of no use."""
        return key in self._finished

    def complete(self, candidate: Candidate, result: CandidateResult) -> None:
        """Write a result that the store lost: its command was killed between two writes."""
        if candidate.key not in self._finished:
            self.open(candidate)
            self.finish(candidate, result)

    def speaking(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """See `Outbox.speaking`."""
        return self.outbox.speaking(say)

    def settle(self) -> None:
        """Wait for the store, and read its runs back. Raises UndeliveredError."""
        self.outbox.settle()
        with after_all_ran():
            self.known = self.outbox.tracking.runs(KIND_OF_RUN)


def _metric_name(name: str) -> str:
    """A data set's name in the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)


class SearchCallback(RunCallback):
    """Writes what candidates report.

    Parameters
    ----------
    runs
        The store.
    progress
        The terminal.
    checkpoints
        Where candidates keep their checkpoints, a folder each; it is removed when one has ended.
    """

    mirror: CheckpointMirror | None = None  # where they are kept beside that

    def __init__(self, runs: SearchRuns, progress: SearchProgress, checkpoints: Path) -> None:
        self.runs, self.progress, self.checkpoints = runs, progress, checkpoints
        self._open: dict[str, _Open] = {}

    @abstractmethod
    def candidate_of(self, trial: Any) -> Candidate:
        """The candidate that a Tune trial runs."""

    def arrived(self, trial: Any, payload: str) -> CandidateResult:
        """Called with a result as JSON, once; returns it."""
        return CandidateResult.from_json(payload)

    def failed_for_good(self, trial: Any) -> None:
        """Called when a candidate ended without a result."""

    def is_eligible(self, result: CandidateResult) -> bool:
        """Whether a result may become the best."""
        return True

    @remember_error
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id not in self._open:  # else a restart after its worker died
            candidate = self.candidate_of(trial)
            self.runs.open(candidate)
            self._open[trial.trial_id] = _Open(candidate.key, candidate=candidate)
            self.progress.start(candidate.name)

    @remember_error
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        run = self._open[trial.trial_id]
        if result[KIND] == IS_EPOCH:
            self._epoch(run, result)
        elif result[KIND] == IS_RESULT:
            found = self.arrived(trial, result[PAYLOAD])
            run.flush(self.runs.outbox)
            for key, value in result.get(TAGS, {}).items():
                self.runs.outbox.tag(run.key, key, value)
            self.runs.finish(run.candidate, found)
            seconds = found.summary["seconds"]
            self.progress.finish(run.candidate.name, found.value, seconds, self.is_eligible(found))
            self._end(trial, run)
        elif result[KIND] == IS_ERROR:
            self._fail(trial, run, result[REASON], result[PAYLOAD])

    @remember_error
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """What is still open now was stopped early."""
        run = self._open.get(trial.trial_id)
        if run is not None:
            run.flush(self.runs.outbox)
            self.runs.outbox.tag(run.key, STOPPED, str(run.percent))
            self.runs.outbox.end(run.key, FINISHED)
            self.progress.stop(run.candidate.name, run.value, run.percent)
            self._end(trial, run)

    @remember_error
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run = self._open.get(trial.trial_id)
        if run is not None:
            self._fail(trial, run, "WorkerDied: the worker process died", message_of_death(trial))

    def close(self) -> None:
        """After a stop: keep what unfinished candidates reported, and end their runs as KILLED."""
        for run in self._open.values():
            run.flush(self.runs.outbox)
            self.runs.outbox.end(run.key, KILLED)

    def _epoch(self, run: _Open, result: dict[str, Any]) -> None:
        run.value, run.percent = result[VALUE], result[PERCENT]
        run.add(result[EPOCH], self.runs.outbox)
        self.progress.percent(run.candidate.name, run.percent, run.value)

    def _fail(self, trial: Any, run: _Open, reason: str, detail: str) -> None:
        run.flush(self.runs.outbox)
        self.runs.outbox.fail(run.key, reason, detail)
        self.failed_for_good(trial)
        self.progress.fail(run.candidate.name, reason)
        self._end(trial, run)

    def _end(self, trial: Any, run: _Open) -> None:
        del self._open[trial.trial_id]
        shutil.rmtree(self.checkpoints / run.candidate.key, ignore_errors=True)
        if self.mirror:
            self.mirror.forget(run.candidate.key)
