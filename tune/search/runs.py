"""The driver's side of a running search: what candidates report becomes MLflow runs and lines on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ablations.findings.stored import write_per_gene
from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from cgd.metrics.facts import METRICS, PRIMARY
from tune.store.opening import explain_absence
from tune.store.outbox import Outbox
from tune.store.outbox_files import Entry, Open
from tune.store.reading import FINISHED, STOPPED, RunRecord
from tune.store.tracking import describe_dataset
from tune.terminal.progress import Progress
from tune.trials.failure import Failure
from tune.trials.messages import PERCENT, Epoch, TrialResult
from tune.trials.recorder import KEPT, Recorder, run_params, tag_lost_checkpoints
from tune.trials.trial import Work

KIND_OF_RUN = "search_trial"
WHOLE = 100  # a candidate's work on the terminal, in per cent
_WHERE = "validation"


@dataclass(frozen=True)
class Candidate:
    """What the store says of a candidate: fingerprint, readable name, configuration and tags."""

    key: str
    name: str
    config: Config
    tags: Mapping[str, str]


class SearchRuns:
    """MLflow runs of candidates, below `parent`, the run of their search; `datasets` are prepared pairs by name."""

    def __init__(self, outbox: Outbox, parent: str, datasets: Mapping[str, PreparedPair]) -> None:
        self.outbox, self.parent, self.datasets = outbox, parent, datasets
        self.known: dict[str, RunRecord] = outbox.tracking.find_runs(KIND_OF_RUN)
        self._finished = {key for key, record in self.known.items() if record.status == FINISHED}

    def describe(self, candidate: Candidate) -> Entry:
        """What the run of a candidate begins with; one that ran before is opened again."""
        self._finished.discard(candidate.key)
        return Open(
            kind=KIND_OF_RUN,
            name=candidate.name,
            tags={"mlflow.parentRunId": self.parent, **candidate.tags},
            params=run_params(candidate.config),
            texts={"config.yaml": candidate.config.to_yaml()},
            datasets=[describe_dataset(prepared) for prepared in self.datasets.values()],
        )

    def finish(self, candidate: Candidate, result: TrialResult) -> None:
        """Write the final metrics and the per-gene table."""
        metrics = {KEPT: result.value, **result.summary}
        if len(result.by_dataset) > 1:
            metrics |= {f"{KEPT}_{_metric_name(name)}": value for name, value in result.by_dataset.items()}
        self.outbox.finish(candidate.key, metrics, write_per_gene(result.per_gene))
        self._finished.add(candidate.key)

    def is_finished(self, key: str) -> bool:
        """Whether a candidate has its result; its checkpoints are then of no use."""
        return key in self._finished

    def complete(self, candidate: Candidate, result: TrialResult) -> None:
        """Write a result that the store lost: its command was killed between two writes."""
        if candidate.key not in self._finished:
            self.outbox.put(candidate.key, self.describe(candidate))
            tag_lost_checkpoints(self.outbox, candidate.key, candidate.name, result.lost)
            self.finish(candidate, result)

    def settle(self) -> None:
        """Wait for the store, and read its runs back. Raises UndeliveredError."""
        self.outbox.settle()
        with explain_absence():
            self.known = self.outbox.tracking.find_runs(KIND_OF_RUN)


def _metric_name(name: str) -> str:
    """A data set's name in the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)


class SearchRecorder(Recorder):
    """Writes what candidates report: a line per finished one with its value, and the best so far.

    On the terminal a candidate counts as a hundred epochs; the checkpoints of one that has ended are removed.
    """

    def __init__(
        self,
        runs: SearchRuns,
        progress: Progress,
        work: Work,
        candidate_of: Callable[[str], Candidate],  # the candidate of a key
        keep: Callable[[str, TrialResult], None] = lambda key, result: None,  # keeps a result, before the store has it
        is_eligible: Callable[[TrialResult], bool] = lambda result: True,  # whether a result may become the best
        best: tuple[float, str] | None = None,  # value and name of the best so far, from an earlier command
        is_ranked: bool = True,  # whether there is a best: the runs of a confirmation do not compare one by one
    ) -> None:
        super().__init__(runs.outbox, progress, work)
        self.runs, self.candidate_of = runs, candidate_of
        self.keep, self.is_eligible, self.best, self.is_ranked = keep, is_eligible, best, is_ranked
        self._last: dict[str, Epoch] = {}
        if best is not None:
            progress.mark_best(_WHERE, *best)

    def describe(self, key: str) -> tuple[str, Entry]:
        candidate = self.candidate_of(key)
        return candidate.name, self.runs.describe(candidate)

    def show_start(self, key: str, name: str) -> None:
        self.progress.start(name, WHOLE)

    def hear_epoch(self, key: str, epoch: Epoch) -> None:
        self._last[key] = epoch
        super().hear_epoch(key, Epoch({**epoch.metrics, PERCENT: float(epoch.percent)}, epoch.value, epoch.percent))

    def show_epoch(self, name: str, epoch: Epoch) -> None:
        self.progress.report_epoch(name, epoch.percent, {"val_pcc": epoch.value})

    def write_result(self, key: str, name: str, result: TrialResult) -> str:
        self.keep(key, result)
        self.runs.finish(self.candidate_of(key), result)
        self.work.forget(key)
        text = f"validation {METRICS[PRIMARY].label} {result.value:.4f} in {result.summary['seconds']:.0f} s"
        if not self.is_eligible(result):
            return f"{text}, over the memory asked for"
        if not self.is_ranked:
            return text
        if self.best is not None and result.value <= self.best[0]:
            return f"{text} (best {self.best[0]:.4f}, {self.best[1]})"
        self.best = (result.value, name)
        self.progress.mark_best(_WHERE, result.value, name)
        return f"{text}, the best so far"

    def fail(self, key: str, failure: Failure) -> None:
        super().fail(key, failure)
        self.work.forget(key)

    def stop(self, key: str) -> None:
        """A hopeless one was stopped early: a run that is finished, but has no result."""
        name, last = self._flush(key), self._last.get(key, Epoch({}, math.nan, 0))
        self.outbox.tag(key, STOPPED, str(last.percent))
        self.outbox.end(key, FINISHED)
        self.progress.finish(
            name, f"stopped at {last.percent} % with validation {METRICS[PRIMARY].label} {last.value:.4f}"
        )
        self.work.forget(key)
