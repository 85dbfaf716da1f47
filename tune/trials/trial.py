"""One trial, as it runs under Ray Tune: configuration and data reference in, messages out.

A trial of a study, a candidate of a search, a confirmation of one and a probe of costs are the same work with another
question. A trial of one worker runs here, inside the Tune function: starting a Ray Train group costs more than ten
seconds. One of several workers calls the same `compute` in each of them.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd
import ray
from ray import tune as ray_tune

from cgd.baselines.predictions import Predictions
from cgd.baselines.trial import evaluate_baseline
from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from cgd.evaluation import Evaluation, evaluate
from cgd.metrics.facts import METRICS, OUTCOMES
from cgd.parallel import ALONE, Parallel
from cgd.probe import probe
from cgd.training.checkpoint import LOST, CheckpointFolder
from tune.checkpoints.mirror import CheckpointMirror
from tune.cluster.resources import NO_SHARE, Request, Share
from tune.trials.failure import describe
from tune.trials.messages import METRIC, Epoch, Message, TrialResult, to_report
from tune.trials.out_of_memory import retry_with_less_memory
from tune.trials.spec import Job, Replicate
from tune.trials.system_metrics import SystemMonitor
from tune.trials.train_group import Group, Report

MODEL = "model"  # folder of the fitted model, beside the trial's checkpoints
TIME = "time_ms"  # when an epoch ended, among its metrics
Question: TypeAlias = Literal["test", "validation", "cost"]  # which genes are scored, or what a trial would take


@dataclass(frozen=True)
class Work:
    """What the trials that run side by side share."""

    question: Question
    replicates: Sequence[Replicate]  # what they are scored on
    datasets: Mapping[str, ray.ObjectRef]  # prepared pairs in Ray's object store, by key
    checkpoints: Path  # root of their checkpoints and models
    share: Share = NO_SHARE  # what the command gives to each
    with_checkpoints: bool = True  # whether one that is interrupted continues
    log_models: bool = False  # leave the fitted model beside the checkpoints
    mirror: CheckpointMirror | None = None  # where checkpoints and models are kept for other machines
    since: float = field(default_factory=time.time)  # when it was handed out, in seconds since the epoch

    def request(self, config: Config) -> Request:
        """What a trial asks of Ray; a probe is of one worker, whatever the trial it stands for has."""
        if self.question == "cost":
            return Request(1, 1.0, 1.0 if config.runtime.device == "cuda" else 0.0)
        return self.share.request(config)

    def folder(self, key: str) -> Path | None:
        """Where a trial's checkpoints lie, a folder per fingerprint in it; None for nowhere.

        Two candidates of a search may be one configuration, and run at the same time: each has a folder of its own.
        """
        if not self.with_checkpoints:
            return None
        return self.checkpoints / key if self.question == "validation" else self.checkpoints

    def forget(self, key: str) -> None:
        """Remove what a trial left, here and in the mirror."""
        shutil.rmtree(self.checkpoints / key, ignore_errors=True)
        if self.mirror:
            self.mirror.forget(key)


def run_trial(params: Mapping[str, Any], work: Work) -> None:
    """Ray Tune function trainable: reports an `Epoch` after each epoch, and a `TrialResult` or `Failure` at the end.

    An exception is reported, not raised: it is the trial's outcome, others go on, and repeating it would change
    nothing, unless a GPU's memory ran out. A worker that dies without a word is Tune's, or a group's own, to restart,
    and continues from its checkpoint.
    """

    def report(message: Message) -> None:
        ray_tune.report(to_report(message))

    def run(config: Config) -> TrialResult:
        task = partial(compute, job, config, work)
        if request.n_workers == 1:
            found = task(report, ALONE)
            assert found is not None  # of one worker alone
            return found
        return Group(job.key, request, config.runtime.device, work.checkpoints / job.key).run(task, report)

    try:
        job = Job.from_params(params)
        request = work.request(job.config)
        if work.question == "cost":  # with less memory it would be the cost of another trial
            report(run(job.config))
        else:
            found, tags = retry_with_less_memory(run, job.config, request)
            report(replace(found, tags=tags))
    except Exception as error:  # the boundary between one trial and the others: whatever it was, they go on
        report(describe(error))


def compute(job: Job, config: Config, work: Work, report: Report, parallel: Parallel) -> TrialResult | None:
    """Answer the question of a trial, as one of `parallel`; its result on rank 0, which alone reports.

    `config` is that of `job`, or differs from it in where and how it runs.
    """
    replicates = [work.replicates[i] for i in job.replicates]
    if work.question == "cost":
        return _measure_cost(config, replicates[0], work)
    epochs = _Epochs(config.train.epochs, len(replicates), report)
    outcomes: list[tuple[Replicate, Evaluation]] = []
    for replicate in replicates:
        outcome = _evaluate(job, config, replicate, work, epochs, parallel)
        if outcome is None:
            continue
        if work.log_models and outcome.model:
            _keep_model(job, work, outcome)
        has_model = outcome.model is not None
        epochs.end_replicate(outcome.summary)
        outcome = replace(outcome, model=None)  # the next replicate needs the memory
        outcomes.append((replicate, outcome))
    if not outcomes:
        return None
    if work.question == "validation":
        return combine(outcomes)
    ((_, outcome),) = outcomes
    summary = {key: value for key, value in outcome.summary.items() if key not in LOST}
    return TrialResult({}, summary, outcome.per_gene, _count_lost([outcome]), has_model)


def _evaluate(
    job: Job,
    config: Config,
    replicate: Replicate,
    work: Work,
    on_epoch: Callable[[dict[str, float]], None],
    parallel: Parallel,
) -> Evaluation | None:
    assert work.question != "cost"
    prepared: PreparedPair = ray.get(work.datasets[replicate.prepared])  # read from shared memory, not copied
    if replicate.brought:
        brought = Predictions(replicate.brought)
        return Evaluation(*evaluate_baseline(config, prepared, replicate.split, brought), model=None)
    return evaluate(
        config.with_values({"seed": replicate.seed}),
        prepared,
        replicate.split,
        scored=work.question,
        parallel=parallel,
        on_epoch=on_epoch,
        checkpoint_root=work.folder(job.key),
        open_checkpoints=work.mirror.open if work.mirror else CheckpointFolder,
    )


class _Epochs:
    """Reports the epochs of all replicates as those of one trial."""

    def __init__(self, n_epochs: int, n_replicates: int, report: Report) -> None:
        self.n_epochs, self.n_replicates, self.report = n_epochs, n_replicates, report
        self.ended: list[Mapping[str, float]] = []  # summaries of the replicates that are done
        self.best: dict[str, float] = {}  # of each outcome, of the replicate that runs
        self.monitor = SystemMonitor()

    def __call__(self, metrics: dict[str, float]) -> None:
        for outcome in OUTCOMES:
            if METRIC[outcome] in metrics:
                found = (self.best.get(outcome, math.nan), metrics[METRIC[outcome]])
                known = [value for value in found if not math.isnan(value)]
                self.best[outcome] = max(known, key=lambda value: METRICS[outcome].sign * value, default=math.nan)
        n_done, epoch = len(self.ended), metrics["epoch"]
        percent = math.floor(100 * (n_done + epoch / self.n_epochs) / self.n_replicates)
        step = n_done * self.n_epochs + int(epoch)
        shown = {**metrics, **self.monitor.sample(), TIME: time.time() * 1000, "epoch": step}
        self.report(Epoch(shown, {outcome: self._find_mean(outcome) for outcome in self.best}, percent))

    def _find_mean(self, outcome: str) -> float:
        """The best so far, as the mean over the replicates begun."""
        ended = sum(summary.get(METRIC[outcome], math.nan) for summary in self.ended)
        return (ended + self.best[outcome]) / (len(self.ended) + 1)

    def end_replicate(self, summary: Mapping[str, float]) -> None:
        self.ended.append(summary)
        self.best = {}


def _keep_model(job: Job, work: Work, outcome: Evaluation) -> None:
    assert outcome.model is not None
    folder = work.checkpoints / job.key / MODEL
    outcome.model.save(folder)
    if work.mirror:
        work.mirror.try_to_put(folder)


def combine(outcomes: Sequence[tuple[Replicate, Evaluation]]) -> TrialResult:
    """What a candidate is worth over its replicates.

    Raises
    ------
    ValueError
        No validation gene could be scored.
    """
    summaries = pd.DataFrame([{**found.summary, "dataset": replicate.dataset} for replicate, found in outcomes])
    tables = [
        found.per_gene.assign(dataset=replicate.dataset, seed=replicate.seed, fold=replicate.fold)
        for replicate, found in outcomes
    ]
    means = summaries.groupby("dataset", sort=False)
    scores = {
        outcome: {str(name): float(mean) for name, mean in means[METRIC[outcome]].mean().items()}
        for outcome in OUTCOMES
        if METRIC[outcome] in summaries
    }
    costs = {
        "seconds": float(summaries["wall_seconds"].sum()),
        "train_seconds": float(summaries["train_seconds"].sum()),
        "peak_memory_mb": float(summaries["peak_memory_mb"].max()),
        "n_parameters": float(summaries["n_parameters"].max()),
        "epochs": float(summaries["epochs"].sum()),
    }
    lost = _count_lost([found for _, found in outcomes])
    result = TrialResult(scores, costs, pd.concat(tables, ignore_index=True), lost)
    for outcome in scores:
        if not math.isfinite(value := result.find_score(outcome)):
            label = METRICS[outcome].label
            raise ValueError(f"the mean validation {label} is {value}: no validation gene could be scored")
    return result


def _count_lost(outcomes: Sequence[Evaluation]) -> dict[str, int]:
    """Checkpoints that were damaged or not kept, by what happened to them."""
    counts = {what: sum(int(found.summary.get(what, 0)) for found in outcomes) for what in sorted(LOST)}
    return {what: count for what, count in counts.items() if count}


_is_warm = False  # whether this process has measured a trial


def _measure_cost(config: Config, replicate: Replicate, work: Work) -> TrialResult:
    """Measure in a process that has run a trial before, like most trials of a study.

    The first one of a process also pays for what torch and the libraries around it do once: `warmup_seconds`.
    """
    global _is_warm
    launch = time.time() - work.since
    prepared: PreparedPair = ray.get(work.datasets[replicate.prepared])
    first: dict[str, float] = {}
    if not _is_warm:
        start = time.perf_counter()
        probe(config, prepared, replicate.split)
        first = {"warmup_seconds": time.perf_counter() - start, "launch_seconds": launch}
    _is_warm = True
    start = time.perf_counter()
    found = probe(config, prepared, replicate.split)
    if first:
        first["warmup_seconds"] = max(first["warmup_seconds"] - (time.perf_counter() - start), 0.0)
    return TrialResult({}, asdict(found) | first, pd.DataFrame())
