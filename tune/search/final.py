"""The only look a search takes at the test genes: its winner against the default, as a study of two configurations.

It runs through the ordinary planner and runner, so that the store, the floors, the report and the continuation of an
interrupted one are those of every study.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ablations.study.study import Study
from tune.search.book import DEFAULT, SearchBook
from tune.search.confirm import Confirmed
from tune.search.plan import SearchPlan
from tune.store.opening import explain_absence
from tune.store.reading import load_results
from tune.store.tracking import Tracking
from tune.trials.conclusion import StudyOutcome
from tune.trials.runner import Runner

TESTED = "tested"  # user attribute of the study: every comparison on the test genes
WINNER = "winner"


@dataclass(frozen=True)
class FinalTest:
    """The winner and the default on the test genes."""

    run_id: str  # the study's parent run
    report: Path | None  # its page
    winner: pd.DataFrame  # per gene: a row per data set, seed, fold and test gene
    default: pd.DataFrame  # the same
    failed: tuple[tuple[str, str], ...] = ()  # trials that failed, with their errors
    missing: tuple[str, ...] = ()  # trials that did not run


def make_study(plan: SearchPlan, winner: Confirmed) -> Study:
    """The comparison as a study: two configurations, and every field in which they differ."""
    before = plan.base.flatten()
    values = dict(winner.finalist.values)
    return Study.from_dict(
        {
            "name": f"search_{re.sub(r'[^a-z0-9]+', '_', plan.name.lower())}",
            "question": f"Does the winner of the search '{plan.name}' beat the default on genes no search has seen?",
            "hypothesis": f"{winner.finalist.label}, the best of the search on validation genes, is better.",
            "configurations": [
                {"label": DEFAULT, "values": {path: before[path] for path in values}, "is_default": True},
                {"label": WINNER, "values": values},
            ],
        },
        f"the final comparison of '{plan.name}'",
    )


def run_final_test(
    book: SearchBook,
    winner: Confirmed,
    tracking: Tracking,
    make_runner: Callable[[], Runner],
    address: str,
    max_concurrent: int | None,
) -> FinalTest:
    """Run the comparison, or read it back where it was run already: the test genes are looked at once per winner.

    `make_runner` makes what runs the plan of the book's planner, at `address`, so many trials at a time.
    """
    tested: dict[str, str] = book.study.user_attrs.get(TESTED, {})
    name = winner.finalist.config.fingerprint()
    if name in tested:
        with explain_absence():
            return _read(tracking, tested[name])
    planner = book.plan.planner
    planner.add(make_study(book.plan, winner))
    plan = planner.plan.studies[-1]
    runner = make_runner()
    parents, complete = runner.run(False, address, max_concurrent)
    with explain_absence():
        outcome = runner.conclude(plan, parents[plan.study.name], complete)
        if not outcome.failed and not outcome.missing:
            book.study.set_user_attr(TESTED, {**tested, name: outcome.parent_run_id})
        return _read(tracking, outcome.parent_run_id, outcome)


def _read(tracking: Tracking, run_id: str, outcome: StudyOutcome | None = None) -> FinalTest:
    per_gene = load_results(tracking.uri, run_id).per_gene
    winner, default = (per_gene[per_gene["level"] == level].drop(columns="level") for level in (WINNER, DEFAULT))
    if outcome is None:
        return FinalTest(run_id, None, winner, default)
    return FinalTest(run_id, outcome.report, winner, default, outcome.failed, outcome.missing)
