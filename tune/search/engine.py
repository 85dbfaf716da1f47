"""Run a search: samples on Ray until all are told, each in the storage and in MLflow as soon as it ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from optuna.trial import FrozenTrial, TrialState
from ray import tune as ray_tune

from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from tune.checkpoints.budget import BudgetCallback, CheckpointBudget
from tune.checkpoints.mirror import CheckpointMirror
from tune.checkpoints.options import CHECKPOINTS, DEFAULT_BUDGET
from tune.cluster.resources import Request
from tune.search.book import ORIGIN, SAMPLE, SearchBook
from tune.search.callback import Candidate, SearchCallback, SearchRuns
from tune.search.plan import SearchPlan
from tune.search.progress import SearchProgress
from tune.search.searcher import BookedSearch, candidate_key, make_scheduler, result_file
from tune.search.trial import CandidateResult, Replicate, run_candidate
from tune.terminal.progress import Progress
from tune.trials.tuning import run_tune

_PERCENT = 100


@dataclass(frozen=True)
class Workplace:
    """Where a search runs: Ray's share of its data, its folders, and how much at a time.

    Attributes
    ----------
    shared
        Prepared pairs in Ray's object store, by key.
    output, folder
        The output folder, and the search's own in it.
    max_concurrent
        Trials at a time; None for as many as the cluster takes.
    request
        What each trial asks of Ray.
    mirror
        Where checkpoints are kept beside the output folder; None for nowhere.
    budget
        Bytes that the checkpoints below the output folder may take.
    """

    shared: Mapping[str, ray.ObjectRef]
    output: Path
    folder: Path
    max_concurrent: int | None
    request: Request
    mirror: CheckpointMirror | None = None
    budget: int = DEFAULT_BUDGET

    @property
    def checkpoints(self) -> Path:
        return self.output / CHECKPOINTS

    def forget(self, key: str) -> None:
        """Remove the checkpoints of a candidate whose result is kept."""
        shutil.rmtree(self.checkpoints / key, ignore_errors=True)
        if self.mirror:
            self.mirror.forget(key)


def put_datasets(datasets: Mapping[str, PreparedPair]) -> dict[str, ray.ObjectRef]:
    """Each pair into the object store once; workers read it from there."""
    return {key: ray.put(prepared) for key, prepared in datasets.items()}


class SampleCallback(SearchCallback):
    """Writes the samples of a search."""

    def __init__(self, search: BookedSearch, runs: SearchRuns, progress: SearchProgress, checkpoints: Path) -> None:
        super().__init__(runs, progress, checkpoints)
        self.search = search

    def candidate_of(self, trial: Any) -> Candidate:
        drawn = self.search.drawn[trial.trial_id]
        return sample_candidate(self.search.book, drawn.sample, drawn.config, drawn.trial.user_attrs[ORIGIN])

    def is_eligible(self, result: CandidateResult) -> bool:
        limit = self.search.book.plan.max_memory_mb
        return limit is None or result.summary["peak_memory_mb"] <= limit


def sample_name(plan: SearchPlan, sample: int) -> str:
    """How the terminal and MLflow call a sample."""
    return f"{plan.space.name} · sample {sample}"


def sample_candidate(book: SearchBook, sample: int, config: Config, origin: str) -> Candidate:
    tags = {
        "cgd.search": book.plan.name,
        "cgd.search_uid": book.uid,
        "cgd.sample": str(sample),
        "cgd.stage": "search",
        "cgd.origin": origin,
    }
    return Candidate(candidate_key(book.uid, sample), sample_name(book.plan, sample), config, tags)


def run_search(book: SearchBook, runs: SearchRuns, workplace: Workplace) -> bool:
    """Draw and run what the book has not; returns False if the user stopped it.

    What an earlier command told the storage and not the tracking store any more is written there first.
    """
    _mirror(book, runs, workplace)
    done = len(book.finished())
    left = book.plan.n_samples - done
    if left <= 0:
        return True
    best = book.ranked()
    start = (best[0].values[0], sample_name(book.plan, best[0].user_attrs[SAMPLE])) if best else None
    with Progress(left, left * _PERCENT) as bar, runs.speaking(bar.note):
        progress = SearchProgress(bar, start)
        search = BookedSearch(book, workplace.folder / "samples", _refusal(book, progress))
        callback = SampleCallback(search, runs, progress, workplace.checkpoints)
        stopping = book.plan.space.stopping if book.plan.objective == "accuracy" else None
        try:
            fit(
                workplace,
                book.plan.candidates,
                callback,
                with_checkpoints=book.plan.objective == "accuracy",  # a front of accuracy and seconds wants all seconds
                search_alg=search,
                scheduler=make_scheduler(stopping, book.finished()),
                num_samples=left,
            )
        finally:
            book.replace_interrupted()
    return len(book.finished()) == book.plan.n_samples


def _refusal(book: SearchBook, progress: SearchProgress) -> Callable[[int, str], None]:
    def refuse(sample: int, reason: str) -> None:
        name = sample_name(book.plan, sample)
        progress.start(name)  # or its work would stay among what is left to do
        progress.fail(name, reason)

    return refuse


def _mirror(book: SearchBook, runs: SearchRuns, workplace: Workplace) -> None:
    """What a killed command left undone after telling: runs of finished samples to write, checkpoints to remove."""
    for trial in book.finished():
        sample = trial.user_attrs[SAMPLE]
        file = result_file(workplace.folder / "samples", sample)
        if trial.state == TrialState.COMPLETE and file.is_file():
            candidate = sample_candidate(book, sample, book.config_of(trial), trial.user_attrs[ORIGIN])
            runs.complete(candidate, CandidateResult.from_json(file.read_text(encoding="utf-8")))
        workplace.forget(candidate_key(book.uid, sample))


def fit(
    workplace: Workplace,
    replicates: tuple[Replicate, ...],
    callback: SearchCallback,
    param_space: Mapping[str, Any] | None = None,
    with_checkpoints: bool = True,
    **how: Any,
) -> None:
    """Run candidates under Ray Tune, to the end or until the user stops it.

    Parameters
    ----------
    replicates
        What candidates are scored on.
    with_checkpoints
        Whether an interrupted candidate continues; its seconds are then those of the last attempt alone.
    how
        Further arguments of `TuneConfig`.
    """
    trainable = ray_tune.with_parameters(
        run_candidate,
        replicates=replicates,
        datasets=dict(workplace.shared),
        request=workplace.request,
        folder=str(workplace.checkpoints),
        with_checkpoints=with_checkpoints,
        mirror=workplace.mirror,
    )
    callback.mirror = workplace.mirror
    over = BudgetCallback(CheckpointBudget(workplace.checkpoints, workplace.budget, callback.runs.is_finished))
    run_tune(
        trainable,
        callback,
        lambda params: workplace.request,
        workplace.output,
        param_space or {},
        f"-{workplace.folder.name}",
        also=[over],
        storage=workplace.mirror.uri if workplace.mirror else None,
        max_concurrent_trials=workplace.max_concurrent,
        **how,
    )


def state_of(trial: FrozenTrial) -> str:
    """How a sample ended, in a word."""
    words = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
    return words.get(trial.state, "not finished")
