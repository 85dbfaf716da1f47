"""What trials of a study, candidates of a search, confirmations and probes tell the driver, in one format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pandas as pd

from tune.trials.failure import Failure

# By these a search compares what is not yet finished, so Ray Tune wants them at the top of a report.
VALUE, PERCENT = "val_pcc", "percent"
_MESSAGE = "message"


@dataclass(frozen=True)
class Epoch:
    """An epoch ended."""

    metrics: Mapping[str, float]  # of the epoch; `epoch` counts over all replicates
    value: float  # the best validation PCC so far, as the mean over the replicates begun
    percent: int  # how far the trial is: it means the same whatever number of epochs a candidate asks for


@dataclass(frozen=True)
class TrialResult:
    """What a trial that ran to its end found.

    Over several replicates `seconds` and `train_seconds` of its summary are sums, `peak_memory_mb` is the largest.
    """

    value: float  # mean validation PCC, every data set weighing the same
    by_dataset: dict[str, float]  # mean validation PCC of each data set
    summary: dict[str, float]  # scores and costs
    per_gene: pd.DataFrame  # a row per gene, and per replicate where validation genes are scored
    lost: dict[str, int] = field(default_factory=dict)  # checkpoints damaged or not kept, by what happened: no result
    has_model: bool = False  # whether there was a model to keep
    tags: dict[str, str] = field(default_factory=dict)  # what its run is tagged with besides

    def to_json(self) -> str:
        """What a search keeps of it; numbers that are not finite become null."""
        table = self.per_gene.astype(object).where(self.per_gene.notna(), None).to_dict("list")
        content = {"value": self.value, "by_dataset": self.by_dataset, "summary": self.summary, "per_gene": table}
        return json.dumps({**content, "lost": self.lost})

    @classmethod
    def from_json(cls, text: str) -> TrialResult:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        table = pd.DataFrame(content["per_gene"])
        numbers = [column for column in table.columns if column not in ("dataset", "gene")]
        table[numbers] = table[numbers].apply(pd.to_numeric)
        lost = content.get("lost", {})  # results of earlier versions do not say
        return cls(content["value"], content["by_dataset"], content["summary"], table, lost)


@dataclass(frozen=True)
class NodeProblem:
    """The node cannot run trials; `reason` says what is wrong with it."""

    reason: str


Message: TypeAlias = Epoch | TrialResult | Failure | NodeProblem


def to_report(message: Message) -> dict[str, Any]:
    """A message as Ray Tune carries it. A result has no percentage: what has arrived is no longer to be stopped."""
    match message:
        case Epoch(value=value, percent=percent):
            return {_MESSAGE: message, VALUE: value, PERCENT: percent}
        case TrialResult(value=value):
            return {_MESSAGE: message, VALUE: value}
        case NodeProblem():
            return {_MESSAGE: message, VALUE: math.nan, PERCENT: 0}
    return {_MESSAGE: message, VALUE: math.nan}


def from_report(report: Mapping[str, Any]) -> Message:
    """The message in a report of Ray Tune."""
    message: Message = report[_MESSAGE]
    return message
