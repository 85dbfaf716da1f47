"""The driver's side of a running search: what candidates report becomes MLflow runs and lines on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ablations.findings.stored import write_per_gene
from ablations.search.aim import Aim
from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from tune.store.opening import explain_absence
from tune.store.outbox import Outbox
from tune.store.outbox_files import Entry, Open
from tune.store.reading import FINISHED, STOPPED, RunRecord
from tune.store.tracking import describe_dataset
from tune.terminal.progress import Progress
from tune.trials.failure import Failure
from tune.trials.messages import METRIC, PERCENT, Epoch, TrialResult
from tune.trials.recorder import KEPT, Recorder, run_params, tag_lost_checkpoints
from tune.trials.trial import Work

KIND_OF_RUN = "search_trial"
WHOLE = 100  # a candidate's work on the terminal, in per cent


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
        metrics = dict(result.summary)
        for outcome, by_dataset in result.scores.items():
            kept = KEPT[METRIC[outcome]]
            metrics[kept] = result.find_score(outcome)
            if len(by_dataset) > 1:
                metrics |= {f"{kept}_{_metric_name(name)}": value for name, value in by_dataset.items()}
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
    """Writes what candidates report: a line per finished one with its scores, and the best so far by each outcome.

    On the terminal a candidate counts as a hundred epochs; the checkpoints of one that has ended are removed.
    """

    def __init__(
        self,
        runs: SearchRuns,
        progress: Progress,
        work: Work,
        aims: Sequence[Aim],  # what the search aims at, but for seconds
        candidate_of: Callable[[str], Candidate],  # the candidate of a key
        keep: Callable[[str, TrialResult], None] = lambda key, result: None,  # keeps a result, before the store has it
        is_eligible: Callable[[TrialResult], bool] = lambda result: True,  # whether a result may become the best
        best: Mapping[str, tuple[float, str]] = MappingProxyType({}),  # outcome -> the best of an earlier command
        is_ranked: bool = True,  # whether there is a best: the runs of a confirmation do not compare one by one
    ) -> None:
        super().__init__(runs.outbox, progress, work)
        self.runs, self.aims, self.candidate_of = runs, aims, candidate_of
        self.keep, self.is_eligible, self.best, self.is_ranked = keep, is_eligible, dict(best), is_ranked
        self._last: dict[str, Epoch] = {}
        for aim in aims:
            if aim.name in self.best:
                progress.mark_best(aim.full_label, *self.best[aim.name])

    def describe(self, key: str) -> tuple[str, Entry]:
        candidate = self.candidate_of(key)
        return candidate.name, self.runs.describe(candidate)

    def show_start(self, key: str, name: str) -> None:
        self.progress.start(name, WHOLE)

    def hear_epoch(self, key: str, epoch: Epoch) -> None:
        self._last[key] = epoch
        super().hear_epoch(key, replace(epoch, metrics={**epoch.metrics, PERCENT: float(epoch.percent)}))

    def show_epoch(self, name: str, epoch: Epoch) -> None:
        self.progress.report_epoch(name, epoch.percent, {METRIC[key]: value for key, value in epoch.scores.items()})

    def write_result(self, key: str, name: str, result: TrialResult) -> str:
        self.keep(key, result)
        self.runs.finish(self.candidate_of(key), result)
        self.work.forget(key)
        found = {aim: result.find_score(aim.name) for aim in self.aims}
        text = f"{_list_scores(found)} in {result.summary['seconds']:.0f} s"
        if not self.is_eligible(result):
            return f"{text}, over the memory asked for"
        if not self.is_ranked:
            return text
        better = [aim for aim, value in found.items() if aim.weigh(value) > self._weigh_best(aim)]
        if not better:
            best = [self.best[aim.name] for aim in self.aims if aim.name in self.best]
            return f"{text} (best {' and '.join(f'{value:.4f}, {who}' for value, who in best)})" if best else text
        for aim in better:
            self.best[aim.name] = (found[aim], name)
            self.progress.mark_best(aim.full_label, found[aim], name)
        which = f" {' and '.join(aim.label for aim in better)}" if len(self.aims) > 1 else ""
        return f"{text}, the best{which} so far"

    def _weigh_best(self, aim: Aim) -> float:
        return aim.weigh(self.best[aim.name][0]) if aim.name in self.best else -math.inf

    def fail(self, key: str, failure: Failure) -> None:
        super().fail(key, failure)
        self.work.forget(key)

    def stop(self, key: str) -> None:
        """A hopeless one was stopped early: a run that is finished, but has no result."""
        name, last = self._flush(key), self._last.get(key, Epoch({}, {}, 0))
        self.outbox.tag(key, STOPPED, str(last.percent))
        self.outbox.end(key, FINISHED)
        first = self.aims[0]
        score = _list_scores({first: last.scores.get(first.name, math.nan)})
        self.progress.finish(name, f"stopped at {last.percent} % with {score}")
        self.work.forget(key)


def _list_scores(scores: Mapping[Aim, float]) -> str:
    """`validation PCC 0.4310, CRPS 0.2100`."""
    return f"validation {', '.join(f'{aim.label} {value:.4f}' for aim, value in scores.items())}"
