"""The only look a search takes at the test genes: each winner against the default, as a study of two configurations.

It runs through the ordinary planner and runner, so that the store, the floors, the report and the continuation of an
interrupted one are those of every study.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ablations.study.study import Study
from tune.search.book import DEFAULT, SearchBook
from tune.search.confirm import Won
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
    """A winner and the default on the test genes."""

    run_id: str  # the study's parent run
    report: Path | None  # its page
    winner: pd.DataFrame  # per gene: a row per data set, seed, fold and test gene
    default: pd.DataFrame  # the same
    failed: tuple[tuple[str, str], ...] = ()  # trials that failed, with their errors
    missing: tuple[str, ...] = ()  # trials that did not run


def make_study(plan: SearchPlan, won: Won) -> Study:
    """The comparison as a study: two configurations, and every field in which they differ.

    Where a search has several outcomes its name ends with those that the winner is the best by.
    """
    before, values = plan.base.flatten(), dict(won.confirmed.finalist.values)
    several = len(plan.space.outcomes) > 1
    ending = "".join(f"_{outcome.name}" for outcome in won.outcomes) if several else ""
    by = f" by {' and '.join(outcome.label for outcome in won.outcomes)}" if several else ""
    return Study.from_dict(
        {
            "name": f"search_{re.sub(r'[^a-z0-9]+', '_', plan.name.lower())}{ending}",
            "question": f"Does the winner{by} of the search '{plan.name}' beat the default on genes no search saw?",
            "hypothesis": f"{won.confirmed.finalist.label}, the best{by} of the search on validation genes, is better.",
            "configurations": [
                {"label": DEFAULT, "values": {path: before[path] for path in values}, "is_default": True},
                {"label": WINNER, "values": values},
            ],
        },
        f"the final comparison of '{plan.name}'",
    )


def run_final_tests(
    book: SearchBook,
    winners: Sequence[Won],
    tracking: Tracking,
    make_runner: Callable[[], Runner],
    address: str,
    max_concurrent: int | None,
) -> list[FinalTest]:
    """Run a comparison per winner, or read back what was run: the test genes are looked at once per winner.

    `make_runner` makes what runs the plan of the book's planner, at `address`, so many trials at a time.
    """
    tested: dict[str, str] = book.study.user_attrs.get(TESTED, {})
    names = [won.confirmed.finalist.config.fingerprint() for won in winners]
    planner, plans = book.plan.planner, {}
    for name, won in zip(names, winners, strict=True):
        if name not in tested:
            planner.add(make_study(book.plan, won))
            plans[name] = planner.plan.studies[-1]
    outcomes: dict[str, StudyOutcome] = {}
    if plans:
        runner = make_runner()
        parents, complete = runner.run(False, address, max_concurrent)
        with explain_absence():
            for name, plan in plans.items():
                outcome = runner.conclude(plan, parents[plan.study.name], complete)
                outcomes[name] = outcome
                if not outcome.failed and not outcome.missing:
                    tested = {**tested, name: outcome.parent_run_id}
                    book.study.set_user_attr(TESTED, tested)
    with explain_absence():
        return [
            _read(tracking, outcomes[name].parent_run_id if name in outcomes else tested[name], outcomes.get(name))
            for name in names
        ]


def _read(tracking: Tracking, run_id: str, outcome: StudyOutcome | None = None) -> FinalTest:
    per_gene = load_results(tracking.uri, run_id).per_gene
    winner, default = (per_gene[per_gene["level"] == level].drop(columns="level") for level in (WINNER, DEFAULT))
    if outcome is None:
        return FinalTest(run_id, None, winner, default)
    return FinalTest(run_id, outcome.report, winner, default, outcome.failed, outcome.missing)
