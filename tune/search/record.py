"""Everything a search found, in the form its report is drawn from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from ablations.search.aim import SECONDS, Aim
from ablations.search.results import FinalistRow, Gain, HeldOut, Sample, SearchResults, Winner
from ablations.statistics.paired import Estimate
from cgd.version import environment
from tune.search.book import (
    MEMORY,
    ORIGIN,
    PARAMETERS,
    REASON,
    SAMPLE,
    SAMPLER,
    SCORES,
    VALUES,
    SearchBook,
    read_value,
)
from tune.search.confirm import Confirmed, Won, compare
from tune.search.drawing import candidate_key
from tune.search.engine import describe_state
from tune.search.final import TESTED, FinalTest
from tune.search.runs import SearchRuns
from tune.trials.messages import average_score

FEW_SAMPLES = 10  # below, importances would be read out of noise


def make_results(
    book: SearchBook,
    runs: SearchRuns,
    confirmed: list[Confirmed],
    winners: Sequence[tuple[Won, FinalTest | None]],
    arguments: Mapping[str, Any],
) -> SearchResults:
    """What `search.json` holds."""
    plan, front = book.plan, {trial.number for trial in book.find_front()}
    return SearchResults(
        name=plan.name,
        uid=book.uid,
        space=plan.space,
        sampler=book.study.user_attrs[SAMPLER],
        max_memory_mb=plan.max_memory_mb,
        n_samples=plan.n_samples,
        n_interrupted=len(book.study.get_trials(deepcopy=False)) - len(book.list_trials()),
        seed=plan.base.seed,
        search_folds=plan.settings["search_folds"],
        datasets=_describe_datasets(book),
        config=plan.base.flatten(),
        samples=tuple(_make_sample(book, runs, trial, trial.number in front) for trial in book.list_trials()),
        importances={aim.name: measure_importances(book, aim) for aim in plan.space.outcomes},
        finalists=tuple(_make_finalist(row, confirmed, plan.space.outcomes) for row in confirmed),
        winners=tuple(_make_winner(won, test, confirmed, plan.space.outcomes) for won, test in winners),
        n_tests=len(book.study.user_attrs.get(TESTED, {})),
        versions=environment(),
        arguments=dict(arguments),
    )


def summary_metrics(results: SearchResults) -> dict[str, float]:
    """What a search found, in numbers to sort searches by: the best samples, and each winner minus the default."""
    found = {"n_samples": float(results.n_ended)}
    for outcome in results.outcomes:
        name, best, winner = outcome.name, results.find_best(outcome), results.find_winner(outcome)
        if best is not None:
            found[f"best_val_{name}"] = best.find_value(outcome)
        if winner is not None and winner.validation[name].by_dataset:
            found[f"validation_{name}_gain"] = winner.validation[name].mean
        if winner is not None and winner.whole_test is not None and name in winner.whole_test.gains:
            found[f"test_{name}_gain"] = winner.whole_test.gains[name].mean
    return found


def measure_importances(book: SearchBook, aim: Aim) -> dict[str, float]:
    """Share of each parameter in what sets the best samples by an aim apart (PED-ANOVA); empty with too few samples.

    Parameters that were searched in part of the samples only are judged there, and weigh by how many those are.
    """
    complete = [trial for trial in book.list_trials() if trial.state == TrialState.COMPLETE]
    if len(complete) < FEW_SAMPLES:
        return {}
    best_share = min(0.5, max(0.1, 5 / len(complete)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # that a condition was met by few samples
        found = optuna.importance.get_param_importances(
            book.study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=best_share),
            target=lambda trial: -aim.weigh(read_value(trial, aim)),  # the evaluator takes the lowest for the best
        )
    return {name: float(value) for name, value in found.items()}


def _describe_datasets(book: SearchBook) -> dict[str, dict[str, Any]]:
    found = {}
    for name, key in book.plan.dataset_keys.items():
        prepared = book.plan.planner.plan.datasets[key]
        split = next(r.split for r in book.plan.candidates if r.dataset == name)
        found[name] = {
            "n_spots": prepared.n_spots,
            "n_cells": prepared.n_cells,
            "n_genes": len(prepared.panel),
            "n_val": len(split.val),
            "n_test": len(split.test),
            "sha256": prepared.sha256,
        }
    return found


def _make_sample(book: SearchBook, runs: SearchRuns, trial: FrozenTrial, on_front: bool) -> Sample:
    attributes, is_complete = trial.user_attrs, trial.state == TrialState.COMPLETE
    run = runs.known.get(candidate_key(book.uid, attributes[SAMPLE]))
    percent, last = max(trial.intermediate_values.items(), default=(math.nan, math.nan))
    by_dataset = attributes.get(SCORES, {}) if is_complete else {}
    scores = {outcome: average_score(by_dataset, outcome) for outcome in by_dataset}
    return Sample(
        sample=attributes[SAMPLE],
        trial=trial.number,
        origin=attributes[ORIGIN],
        state=describe_state(trial),
        scores=scores if is_complete else {book.plan.space.aims[0].name: last},
        percent=100.0 if is_complete else percent,
        by_dataset=by_dataset,
        seconds=attributes.get(SECONDS, math.nan),
        peak_memory_mb=attributes.get(MEMORY, math.nan),
        n_parameters=attributes.get(PARAMETERS, math.nan),
        fits_memory=not is_complete or book.fits_memory(trial),
        on_front=on_front,
        params=trial.params,
        values=attributes.get(VALUES, {}),
        reason=attributes.get(REASON),
        run_id=run.run_id if run else None,
    )


def _make_finalist(row: Confirmed, confirmed: list[Confirmed], outcomes: Sequence[Aim]) -> FinalistRow:
    default = next((other for other in confirmed if other.finalist.is_default), None)
    is_compared = default is not None and row is not default and len(row.per_gene) and len(default.per_gene)
    return FinalistRow(
        label=row.finalist.label,
        sample=row.finalist.sample,
        is_default=row.finalist.is_default,
        scores={outcome: row.find_score(outcome) for outcome in row.scores},
        by_dataset=row.scores,
        n_missing=row.n_missing,
        minus_default=compare(row.per_gene, default.per_gene, outcomes) if default is not None and is_compared else {},
        values=dict(row.finalist.values),
    )


def _make_winner(won: Won, test: FinalTest | None, confirmed: list[Confirmed], outcomes: Sequence[Aim]) -> Winner:
    """A winner with its difference from the default by every outcome, those it did not win by included."""
    default = next(row for row in confirmed if row.finalist.is_default)
    return Winner(
        label=won.confirmed.finalist.label,
        outcomes=tuple(outcome.name for outcome in won.outcomes),
        values=dict(won.confirmed.finalist.values),
        validation=_find_gains(won.confirmed.per_gene, default.per_gene, outcomes),
        test=_make_test(test, outcomes) if test is not None else None,
    )


def _make_test(test: FinalTest, outcomes: Sequence[Aim]) -> HeldOut:
    tables = {"winner": test.winner, "default": test.default}
    is_compared = all(len(table) for table in tables.values())
    means = {
        outcome.name: {
            label: {str(name): float(rows[outcome.name].mean()) for name, rows in table.groupby("dataset", sort=False)}
            for label, table in tables.items()
        }
        for outcome in outcomes
        if all(outcome.name in table for table in tables.values())
    }
    gains = _find_gains(test.winner, test.default, outcomes) if is_compared else {}
    return HeldOut(run_id=test.run_id, gains=gains, means=means, failed=test.failed, missing=test.missing)


def _find_gains(one: pd.DataFrame, other: pd.DataFrame, outcomes: Sequence[Aim]) -> dict[str, Gain]:
    found = compare(one, other, outcomes)
    return {outcome: Gain(mean=_mean(gaps), by_dataset=gaps) for outcome, gaps in found.items()}


def _mean(gaps: Mapping[str, Estimate]) -> float:
    return sum(gap.mean for gap in gaps.values()) / len(gaps) if gaps else math.nan
