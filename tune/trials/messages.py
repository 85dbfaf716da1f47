"""What trials of a study, candidates of a search, confirmations and probes tell the driver, in one format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pandas as pd

from cgd.metrics.facts import OUTCOMES
from tune.trials.failure import Failure

# By these a search compares what is not yet finished, so Ray Tune wants them at the top of a report.
METRIC = {
    outcome: f"val_{outcome}" for outcome in OUTCOMES
}  # what a validation score is called in summaries and epochs
PERCENT = "percent"
_MESSAGE = "message"


@dataclass(frozen=True)
class Epoch:
    """An epoch ended."""

    metrics: Mapping[str, float]  # of the epoch; `epoch` counts over all replicates
    scores: Mapping[
        str, float
    ]  # of each outcome that epochs report: the best so far, as the mean over the replicates begun
    percent: int  # how far the trial is: it means the same whatever number of epochs a candidate asks for


@dataclass(frozen=True)
class TrialResult:
    """What a trial that ran to its end found.

    Over several replicates `seconds` and `train_seconds` of its summary are sums, `peak_memory_mb` is the largest.
    """

    scores: dict[str, dict[str, float]]  # outcome -> data set -> mean on validation genes
    summary: dict[str, float]  # scores and costs
    per_gene: pd.DataFrame  # a row per gene, and per replicate where validation genes are scored
    lost: dict[str, int] = field(default_factory=dict)  # checkpoints damaged or not kept, by what happened: no result
    has_model: bool = False  # whether there was a model to keep
    tags: dict[str, str] = field(default_factory=dict)  # what its run is tagged with besides

    def find_score(self, outcome: str) -> float:
        """Mean of an outcome on validation genes, every data set weighing the same; NaN where it was not scored."""
        return average_score(self.scores, outcome)

    def to_json(self) -> str:
        """What a search keeps of it; numbers that are not finite become null."""
        table = self.per_gene.astype(object).where(self.per_gene.notna(), None).to_dict("list")
        content = {"scores": self.scores, "summary": self.summary, "per_gene": table, "lost": self.lost}
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> TrialResult:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        table = pd.DataFrame(content["per_gene"])
        numbers = [column for column in table.columns if column not in ("dataset", "gene")]
        table[numbers] = table[numbers].apply(pd.to_numeric)
        lost = content.get("lost", {})  # results of earlier versions do not say
        return cls(content["scores"], content["summary"], table, lost)


def average_score(scores: Mapping[str, Mapping[str, float]], outcome: str) -> float:
    """Mean of an outcome over the data sets of `TrialResult.scores`; NaN where it was not scored."""
    found = scores.get(outcome, {}).values()
    return sum(found) / len(found) if found else math.nan


@dataclass(frozen=True)
class NodeProblem:
    """The node cannot run trials; `reason` says what is wrong with it."""

    reason: str


Message: TypeAlias = Epoch | TrialResult | Failure | NodeProblem


def to_report(message: Message) -> dict[str, Any]:
    """A message as Ray Tune carries it. A result has no percentage: what has arrived is no longer to be stopped."""
    match message:
        case Epoch(scores=scores, percent=percent):
            return {_MESSAGE: message, **_name_scores(scores), PERCENT: percent}
        case TrialResult():
            return {_MESSAGE: message, **_name_scores({outcome: message.find_score(outcome) for outcome in OUTCOMES})}
        case NodeProblem():
            return {_MESSAGE: message, **_name_scores({}), PERCENT: 0}
    return {_MESSAGE: message, **_name_scores({})}


def _name_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """Every outcome as reports name it; NaN where there is none."""
    return {METRIC[outcome]: scores.get(outcome, math.nan) for outcome in OUTCOMES}


def from_report(report: Mapping[str, Any]) -> Message:
    """The message in a report of Ray Tune."""
    message: Message = report[_MESSAGE]
    return message
