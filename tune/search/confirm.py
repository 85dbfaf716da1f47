"""The end of a search: its best configurations and the default again, over seeds and folds, and a winner per outcome.

The seeds are others than the search's, so that none wins by the seed it was found with. The winner by an outcome is the
best here, on validation genes. If that is the default, there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.search.aim import Aim
from ablations.statistics.paired import Estimate, compare_paired
from cgd.config import Config
from cgd.evaluation import trial_fingerprint
from cgd.files import write_atomically
from tune.search.book import DEFAULT, SAMPLE, SearchBook, read_value
from tune.search.engine import Place, run_candidates
from tune.search.runs import WHOLE, Candidate, SearchRecorder, SearchRuns
from tune.store.reading import FAILED
from tune.terminal.progress import Progress
from tune.trials.messages import TrialResult, average_score
from tune.trials.spec import Job


@dataclass(frozen=True)
class Finalist:
    """A configuration to confirm; `sample` is its position in the search, None for a default that was not sampled."""

    label: str
    sample: int | None
    config: Config
    values: Mapping[str, Any]

    @property
    def is_default(self) -> bool:
        return self.label == DEFAULT


@dataclass(frozen=True)
class Confirmed:
    """A finalist and what it is worth."""

    finalist: Finalist
    scores: dict[str, dict[str, float]]  # outcome -> data set -> mean on validation genes over seeds and folds
    per_gene: pd.DataFrame  # a row per data set, seed, fold and validation gene
    n_missing: int  # replicates that have no result

    def find_score(self, outcome: str) -> float:
        """Mean of an outcome, every data set weighing the same; NaN where it was not scored."""
        return average_score(self.scores, outcome)


@dataclass(frozen=True)
class _Job:
    """One finalist on one replicate."""

    candidate: Candidate
    finalist: str
    replicate: int


@dataclass(frozen=True)
class Won:
    """A finalist that none is better than by some outcomes; never the default."""

    confirmed: Confirmed
    outcomes: tuple[Aim, ...]


def choose_finalists(book: SearchBook) -> list[Finalist]:
    """The default, then the best samples (of the Pareto front, if that is sought), each configuration once.

    Of several outcomes each has its turn: the best by the first, the best by the second, and so on.
    """
    plan = book.plan
    before, found = plan.base.flatten(), {plan.base.fingerprint(): Finalist(DEFAULT, None, plan.base, {})}
    outcomes = plan.space.outcomes
    among = book.find_front() if len(plan.space.aims) > 1 else book.rank()
    by_outcome = [sorted(among, key=lambda t: -outcome.weigh(read_value(t, outcome))) for outcome in outcomes]
    for trial in chain.from_iterable(zip(*by_outcome, strict=True)):
        config, sample = book.read_config(trial), trial.user_attrs[SAMPLE]
        if len(found) > plan.n_finalists:
            break
        values = {path: value for path, value in config.flatten().items() if before[path] != value}
        found.setdefault(config.fingerprint(), Finalist(f"sample {sample}", sample, config, values))
    return list(found.values())


def confirm(
    book: SearchBook, finalists: list[Finalist], runs: SearchRuns, place: Place
) -> tuple[list[Confirmed], bool]:
    """Score the finalists on every replicate of the confirmation; what is there already is not run again.

    Returns
    -------
    confirmed, complete
        The finalists with what they are worth, and False if the user stopped it: then none of them may win.
    """
    folder = place.folder / "confirmation"
    jobs = _make_jobs(book, finalists)
    for key, job in jobs.items():
        if _file(folder, key).is_file():
            runs.complete(job.candidate, _read(folder, key))
            place.work.forget(key)
    missing = {key: job for key, job in jobs.items() if not _file(folder, key).is_file()}
    failed: set[str] = set()
    if missing:
        outcomes = tuple(aim.name for aim in book.plan.space.outcomes)
        progress = Progress(len(missing), len(missing) * WHOLE, outcomes=outcomes)
        with progress, runs.outbox.redirect_lines(progress.note):
            recorder = SearchRecorder(
                runs,
                progress,
                place.work,
                book.plan.space.outcomes,
                candidate_of=lambda key: missing[key].candidate,
                keep=lambda key, result: write_atomically(_file(folder, key), result.to_json()),
                is_ranked=False,
            )
            tune_jobs = [Job(key, job.candidate.config, (job.replicate,)) for key, job in missing.items()]
            run_candidates(place, book.plan.confirmation, recorder, tune_jobs)
            failed = {key for key, record in recorder.outcomes.items() if record.status == FAILED}
    complete = all(key in failed or _file(folder, key).is_file() for key in jobs)
    return [_collect(finalist, jobs, folder) for finalist in finalists], complete


def _make_jobs(book: SearchBook, finalists: list[Finalist]) -> dict[str, _Job]:
    """Jobs by key; the key names configuration, data, split, seed and code, so that a result is never used twice."""
    plan, jobs = book.plan, {}
    for i, replicate in enumerate(plan.confirmation):
        for finalist in finalists:
            prepared = plan.planner.plan.datasets[replicate.prepared]
            config = finalist.config.with_values({"seed": replicate.seed})
            key = f"confirm-{book.uid}-{trial_fingerprint(config, prepared, replicate.split)}"
            tags = {
                "cgd.search": plan.name,
                "cgd.search_uid": book.uid,
                "cgd.stage": "confirmation",
                "cgd.finalist": finalist.label,
                "cgd.dataset": replicate.dataset,
                "cgd.seed": str(replicate.seed),
                "cgd.fold": str(replicate.fold),
            }
            where = f"{replicate.dataset} · seed {replicate.seed} · validation fold {replicate.fold}"
            jobs[key] = _Job(Candidate(key, f"{finalist.label} · {where}", config, tags), finalist.label, i)
    return jobs


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _read(folder: Path, key: str) -> TrialResult:
    return TrialResult.from_json(_file(folder, key).read_text(encoding="utf-8"))


def _collect(finalist: Finalist, jobs: Mapping[str, _Job], folder: Path) -> Confirmed:
    own = [key for key, job in jobs.items() if job.finalist == finalist.label]
    results = [_read(folder, key) for key in own if _file(folder, key).is_file()]
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for outcome, by_dataset in result.scores.items():
            for dataset, value in by_dataset.items():
                found.setdefault(outcome, {}).setdefault(dataset, []).append(value)
    tables = [result.per_gene for result in results]
    return Confirmed(
        finalist,
        {
            outcome: {dataset: sum(values) / len(values) for dataset, values in by_dataset.items()}
            for outcome, by_dataset in found.items()
        },
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(),
        len(own) - len(results),
    )


def choose_winners(confirmed: list[Confirmed], outcomes: Sequence[Aim]) -> list[Won]:
    """The best finalist with all its results by each outcome; one that is the best by several is there once.

    None by an outcome where that is the default, none at all where the default has not all of its own results.
    """
    whole = [row for row in confirmed if not row.n_missing]
    if not any(row.finalist.is_default for row in whole):
        return []
    won: dict[str, list[Aim]] = {}
    for outcome in outcomes:
        best = max(whole, key=lambda row: (outcome.weigh(row.find_score(outcome.name)), row.finalist.is_default))
        if not best.finalist.is_default:
            won.setdefault(best.finalist.label, []).append(outcome)
    by_label = {row.finalist.label: row for row in whole}
    return [Won(by_label[label], tuple(by)) for label, by in won.items()]


def compare(one: pd.DataFrame, other: pd.DataFrame, outcomes: Sequence[Aim]) -> dict[str, dict[str, Estimate]]:
    """Outcome -> data set -> mean of `one` minus that of `other` over the same seeds, folds and genes.

    Outcomes that one of the tables does not have are left out.
    """
    names = [outcome.name for outcome in outcomes if outcome.name in one and outcome.name in other]
    found: dict[str, dict[str, Estimate]] = {name: {} for name in names}
    if not names:
        return found
    for dataset, rows in one.groupby("dataset", sort=False):
        gaps = compare_paired(rows, other[other["dataset"] == dataset], names)
        for name in names:
            found[name][str(dataset)] = gaps[name]
    return found
