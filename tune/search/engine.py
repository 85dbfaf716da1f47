"""Run a search: samples on Ray until all are told, each in the storage and in MLflow as soon as it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import TrialScheduler

from ablations.search.aim import AIMS, SECONDS
from tune.checkpoints.budget import CheckpointBudget
from tune.checkpoints.options import DEFAULT_BUDGET
from tune.search.book import ORIGIN, SAMPLE, SearchBook, read_value
from tune.search.drawing import (
    BookedSearch,
    candidate_key,
    describe_sample,
    make_scheduler,
    result_file,
    sample_name,
)
from tune.search.runs import WHOLE, SearchRecorder, SearchRuns
from tune.terminal.progress import Progress
from tune.trials.messages import TrialResult
from tune.trials.spec import Job, Replicate
from tune.trials.trial import Work
from tune.trials.tuning import run_tune


@dataclass(frozen=True)
class Place:
    """Where a search runs, and how much at a time."""

    work: Work  # what its trials share, except for what they are scored on
    output: Path
    folder: Path  # the search's own in `output`
    max_concurrent: int | None  # trials at a time; None for as many as the cluster takes
    budget: int = DEFAULT_BUDGET  # bytes that the checkpoints below `output` may take


def run_search(book: SearchBook, runs: SearchRuns, place: Place) -> bool:
    """Draw and run what the book has not; returns False if the user stopped it.

    What an earlier command told the storage and not the tracking store any more is written there first.
    """
    _catch_up(book, runs, place)
    left = book.plan.n_samples - len(book.list_finished())
    if left <= 0:
        return True
    plan = book.plan
    best = {
        aim.name: (read_value(trial, aim), sample_name(plan, trial.user_attrs[SAMPLE]))
        for aim in plan.space.outcomes
        for trial in book.rank(aim)[:1]
    }

    def is_eligible(result: TrialResult) -> bool:
        return plan.max_memory_mb is None or result.summary["peak_memory_mb"] <= plan.max_memory_mb

    progress = Progress(left, left * WHOLE, outcomes=tuple(aim.name for aim in plan.space.outcomes))
    with progress, runs.outbox.redirect_lines(progress.note):

        def refuse(sample: int, reason: str) -> None:
            progress.start(sample_name(plan, sample), WHOLE)  # or its work would stay among what is left to do
            progress.finish(sample_name(plan, sample), f"FAILED: {reason}", failed=True)

        search = BookedSearch(book, place.folder / "samples", refuse)
        recorder = SearchRecorder(
            runs,
            progress,
            place.work,
            plan.space.outcomes,
            candidate_of=search.candidates.__getitem__,
            is_eligible=is_eligible,
            best=best,
        )
        try:
            run_candidates(
                place,
                plan.candidates,
                recorder,
                with_checkpoints=AIMS[SECONDS] not in plan.space.aims,  # a front of seconds wants all of them
                searcher=search,
                scheduler=make_scheduler(plan.space, book.list_finished(), progress.note),
                n_samples=left,
            )
        finally:
            book.replace_interrupted()
    return len(book.list_finished()) == plan.n_samples


def _catch_up(book: SearchBook, runs: SearchRuns, place: Place) -> None:
    """What a killed command left undone after telling: runs of finished samples to write, checkpoints to remove."""
    for trial in book.list_finished():
        sample = trial.user_attrs[SAMPLE]
        file = result_file(place.folder / "samples", sample)
        if trial.state == TrialState.COMPLETE and file.is_file():
            candidate = describe_sample(book, sample, book.read_config(trial), trial.user_attrs[ORIGIN])
            runs.complete(candidate, TrialResult.from_json(file.read_text(encoding="utf-8")))
        place.work.forget(candidate_key(book.uid, sample))


def run_candidates(
    place: Place,
    replicates: Sequence[Replicate],
    recorder: SearchRecorder,
    jobs: Sequence[Job] = (),
    with_checkpoints: bool = True,
    searcher: BookedSearch | None = None,
    scheduler: TrialScheduler | None = None,
    n_samples: int = 1,
) -> None:
    """Run candidates, `jobs` or `n_samples` that a searcher draws, to the end or until the user stops it.

    They are scored on `replicates`. `with_checkpoints` an interrupted one continues, and its seconds are those of the
    last attempt alone.
    """
    work = replace(place.work, replicates=replicates, with_checkpoints=with_checkpoints)
    run_tune(
        work,
        jobs,
        recorder,
        place.output,
        max_concurrent=place.max_concurrent,
        searcher=searcher,
        scheduler=scheduler,
        n_samples=n_samples,
        label=f"-{place.folder.name}",
        callbacks=[CheckpointBudget(work.checkpoints, place.budget, recorder.runs.is_finished)],
        storage=work.mirror.uri if work.mirror else None,
    )


def describe_state(trial: FrozenTrial) -> str:
    """How a sample ended, in a word."""
    words = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
    return words.get(trial.state, "not finished")
