"""The end of a search: its best configurations and the default again, over seeds and folds, and one winner at most.

The seeds are others than the search's, so that none wins by the seed it was found with. The winner is the best here,
on validation genes. If that is the default, there is no winner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.statistics.paired import Estimate, compare_paired
from cgd.config import Config
from cgd.evaluation import trial_fingerprint
from cgd.files import write_atomically
from tune.search.book import DEFAULT, SAMPLE, SearchBook
from tune.search.engine import Place, run_candidates
from tune.search.runs import WHOLE, Candidate, SearchRecorder, SearchRuns
from tune.store.reading import FAILED
from tune.terminal.progress import Progress
from tune.trials.messages import TrialResult
from tune.trials.spec import Job, Replicate


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
    value: float  # mean validation PCC over seeds and folds; every data set weighs the same
    by_dataset: dict[str, float]  # the same of each data set
    per_gene: pd.DataFrame  # a row per data set, seed, fold and validation gene
    n_missing: int  # replicates that have no result


@dataclass(frozen=True)
class _Job:
    """One finalist on one replicate."""

    candidate: Candidate
    finalist: str
    replicate: int


def choose_finalists(book: SearchBook) -> list[Finalist]:
    """The default, then the best samples (of the Pareto front, if that is sought), each configuration once."""
    plan = book.plan
    before, found = plan.base.flatten(), {plan.base.fingerprint(): Finalist(DEFAULT, None, plan.base, {})}
    for trial in book.find_front() if plan.objective == "pareto" else book.rank():
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
        with Progress(len(missing), len(missing) * WHOLE) as progress, runs.outbox.redirect_lines(progress.note):
            recorder = SearchRecorder(
                runs,
                progress,
                place.work,
                candidate_of=lambda key: missing[key].candidate,
                keep=lambda key, result: write_atomically(_file(folder, key), result.to_json()),
                is_ranked=False,
            )
            tune_jobs = [Job(key, job.candidate.config, (job.replicate,)) for key, job in missing.items()]
            run_candidates(place, book.plan.confirmation, recorder, tune_jobs)
            failed = {key for key, record in recorder.outcomes.items() if record.status == FAILED}
    complete = all(key in failed or _file(folder, key).is_file() for key in jobs)
    return [_collect(finalist, jobs, folder, book.plan.confirmation) for finalist in finalists], complete


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


def _collect(
    finalist: Finalist, jobs: Mapping[str, _Job], folder: Path, replicates: tuple[Replicate, ...]
) -> Confirmed:
    own = {key: job for key, job in jobs.items() if job.finalist == finalist.label}
    results = [
        (replicates[job.replicate], _read(folder, key)) for key, job in own.items() if _file(folder, key).is_file()
    ]
    scores = pd.DataFrame(
        [{"dataset": replicate.dataset, "value": result.value} for replicate, result in results],
        columns=["dataset", "value"],
    )
    by_dataset = scores.groupby("dataset", sort=False)["value"].mean()
    tables = [result.per_gene for _, result in results]
    return Confirmed(
        finalist,
        float(by_dataset.mean()),
        {str(name): float(value) for name, value in by_dataset.items()},
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(),
        len(own) - len(results),
    )


def choose_winner(confirmed: list[Confirmed]) -> Confirmed | None:
    """The best finalist with all its results; None if that is the default, or the default has not all of its own."""
    whole = [row for row in confirmed if not row.n_missing]
    if not any(row.finalist.is_default for row in whole):
        return None
    best = max(whole, key=lambda row: (row.value, row.finalist.is_default))
    return None if best.finalist.is_default else best


def differences(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, Estimate]:
    """Data set -> mean PCC of `one` minus that of `other` over the same seeds, folds and genes, with its interval."""
    return {
        str(name): compare_paired(rows, other[other["dataset"] == name], ["pcc"])["pcc"]
        for name, rows in one.groupby("dataset", sort=False)
    }
