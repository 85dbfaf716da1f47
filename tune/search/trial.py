"""One candidate of a search, as it runs on a Ray worker: validation genes alone are scored.

A candidate is scored on several replicates (data set, fold) in turn. How far it is, in per cent of all of them, is the
budget by which candidates are compared early: it means the same whatever number of epochs a candidate asks for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import ray

from cgd.config import Config
from cgd.data.split import GeneSplit
from cgd.parallel import ALONE, Parallel
from tune.checkpoints.mirror import CheckpointMirror
from tune.cluster.resources import Request
from tune.trials.failure import describe
from tune.trials.out_of_memory import with_less_memory
from tune.trials.train_group import Group, Report

KIND, VALUE, PERCENT, EPOCH, PAYLOAD, REASON = "kind", "val_pcc", "percent", "epoch_metrics", "payload", "reason"
TAGS = "tags"
IS_EPOCH, IS_RESULT, IS_ERROR = "epoch", "result", "error"


@dataclass(frozen=True)
class Replicate:
    """One data set, training seed and fold of training and validation genes; `prepared` names the shared data."""

    dataset: str
    seed: int
    fold: int
    split: GeneSplit
    prepared: str


@dataclass(frozen=True)
class CandidateResult:
    """What a candidate that ran to its end is worth.

    Attributes
    ----------
    value
        Mean validation PCC, every data set weighing the same.
    by_dataset
        Mean validation PCC of each data set.
    summary
        Costs: `seconds` and `train_seconds` summed, `peak_memory_mb` the largest, `n_parameters`, `epochs`.
    per_gene
        A row per replicate and validation gene.
    lost
        How many checkpoints were damaged or not kept, by what befell them; none of that is a result.
    """

    value: float
    by_dataset: dict[str, float]
    summary: dict[str, float]
    per_gene: pd.DataFrame
    lost: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """As JSON; numbers that are not finite become null."""
        table = self.per_gene.astype(object).where(self.per_gene.notna(), None).to_dict("list")
        content = {"value": self.value, "by_dataset": self.by_dataset, "summary": self.summary, "per_gene": table}
        return json.dumps({**content, "lost": self.lost})

    @classmethod
    def from_json(cls, text: str) -> CandidateResult:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        table = pd.DataFrame(content["per_gene"])
        numbers = [column for column in table.columns if column not in ("dataset", "gene")]
        table[numbers] = table[numbers].apply(pd.to_numeric)
        lost = content.get("lost", {})  # results of earlier versions do not say
        return cls(content["value"], content["by_dataset"], content["summary"], table, lost)


def run_candidate(
    params: dict[str, Any],
    replicates: Sequence[Replicate],
    datasets: dict[str, ray.ObjectRef],
    request: Request,
    folder: str,
    with_checkpoints: bool,
    mirror: CheckpointMirror | None = None,
) -> None:
    """Ray Tune function trainable.

    Parameters
    ----------
    params
        What to run, either as it is or under `job`: `key` names the candidate's folder, `config` is its configuration
        as JSON, `replicates` are the positions in `replicates` to score it on.
    request
        What each candidate asks of Ray.
    folder
        Of the candidates' folders, which hold their checkpoints if these are kept.
    mirror
        Where other machines find them; None for nowhere.

    Reports after each epoch, and at the end its result or error. An exception is reported, not raised: repeating it
    would change nothing, unless a GPU's memory ran out, while a worker that dies without a word is Tune's, or a group's
    own, to restart, and continues from its checkpoints.
    """
    from ray import tune as ray_tune

    job = params.get("job", params)
    own = Path(folder) / job["key"]

    def run(config: Config) -> CandidateResult:
        chosen = [replicates[i] for i in job["replicates"]]
        work = partial(score, config, chosen, datasets, own if with_checkpoints else None, mirror)
        if request.n_workers == 1:
            result = work(ray_tune.report, ALONE)
            assert result is not None
            return result
        return Group(job["key"], request, config.runtime.device, own).run(work, ray_tune.report)

    try:
        found, tags = with_less_memory(run, Config.from_dict(json.loads(job["config"])), request)
        # without its percentage: what has arrived is no longer to be stopped
        report = {KIND: IS_RESULT, VALUE: found.value, PAYLOAD: found.to_json(), TAGS: tags}
    except Exception as error:  # the boundary between one candidate and the search: whatever it was, others go on
        failure = describe(error)
        reason = f"{failure.kind}: {failure.message}"
        report = {KIND: IS_ERROR, VALUE: math.nan, REASON: reason, PAYLOAD: failure.traceback}
    ray_tune.report(report)


def score(
    config: Config,
    replicates: Sequence[Replicate],
    datasets: dict[str, ray.ObjectRef],
    checkpoints: Path | None,
    mirror: CheckpointMirror | None,
    report: Report,
    parallel: Parallel,
) -> CandidateResult | None:
    """What a candidate is worth on its replicates, computed as one of `parallel`; None but on rank 0, which reports."""
    from cgd.evaluation import validate_in_group
    from cgd.training.checkpoint import CheckpointFolder

    tables: list[pd.DataFrame] = []
    summaries: list[dict[str, Any]] = []
    scores: list[float] = []
    for done, replicate in enumerate(replicates):
        best = -math.inf

        def on_epoch(metrics: dict[str, float], done: int = done) -> None:
            nonlocal best
            best = max(best, metrics["val_pcc"])
            percent = math.floor(100 * (done + metrics["epoch"] / config.train.epochs) / len(replicates))
            step = done * config.train.epochs + int(metrics["epoch"])
            so_far = (sum(scores) + best) / (done + 1)
            shown = {**metrics, "epoch": step, "percent": float(percent)}
            report({KIND: IS_EPOCH, VALUE: so_far, PERCENT: percent, EPOCH: shown})

        outcome = validate_in_group(
            config.with_values({"seed": replicate.seed}),
            ray.get(datasets[replicate.prepared]),
            replicate.split,
            parallel,
            on_epoch,
            checkpoints,
            mirror.open if mirror else CheckpointFolder,
        )
        if outcome is None:
            continue
        where = {"dataset": replicate.dataset, "seed": replicate.seed, "fold": replicate.fold}
        tables.append(outcome.per_gene.assign(**where))
        summaries.append({**outcome.summary, "dataset": replicate.dataset})
        scores.append(outcome.summary["val_pcc"])
    if not parallel.is_main:
        return None
    return _combine(pd.DataFrame(summaries), pd.concat(tables, ignore_index=True))


def _combine(summaries: pd.DataFrame, per_gene: pd.DataFrame) -> CandidateResult:
    from cgd.training.checkpoint import LOST

    by_dataset = summaries.groupby("dataset", sort=False)["val_pcc"].mean()
    value = float(by_dataset.mean())
    if not math.isfinite(value):
        raise ValueError(f"the mean validation PCC is {value}: no validation gene could be scored")
    costs = {
        "seconds": float(summaries["wall_seconds"].sum()),
        "train_seconds": float(summaries["train_seconds"].sum()),
        "peak_memory_mb": float(summaries["peak_memory_mb"].max()),
        "n_parameters": float(summaries["n_parameters"].max()),
        "epochs": float(summaries["epochs"].sum()),
    }
    lost = {key: int(summaries[key].sum()) for key in sorted(LOST & set(summaries.columns))}
    return CandidateResult(value, {str(k): float(v) for k, v in by_dataset.items()}, costs, per_gene, lost)
