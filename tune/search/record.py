"""Everything a search found, in the form its report is drawn from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from ablations.search.results import Comparison, FinalistRow, Sample, SearchResults
from ablations.statistics.paired import Estimate
from cgd.version import environment
from tune.search.book import (
    BY_DATASET,
    MEMORY,
    ORIGIN,
    PARAMETERS,
    REASON,
    SAMPLE,
    SAMPLER,
    SECONDS,
    VALUES,
    SearchBook,
)
from tune.search.confirm import Confirmed, differences
from tune.search.drawing import candidate_key
from tune.search.engine import describe_state
from tune.search.final import TESTED, FinalTest
from tune.search.runs import SearchRuns

FEW_SAMPLES = 10  # below, importances would be read out of noise


def make_results(
    book: SearchBook,
    runs: SearchRuns,
    confirmed: list[Confirmed],
    winner: Confirmed | None,
    test: FinalTest | None,
    arguments: Mapping[str, Any],
) -> SearchResults:
    """What `search.json` holds."""
    plan, front = book.plan, {trial.number for trial in book.find_front()}
    return SearchResults(
        name=plan.name,
        uid=book.uid,
        space=plan.space,
        sampler=book.study.user_attrs[SAMPLER],
        objective=plan.objective,
        max_memory_mb=plan.max_memory_mb,
        n_samples=plan.n_samples,
        n_interrupted=len(book.study.get_trials(deepcopy=False)) - len(book.list_trials()),
        seed=plan.base.seed,
        search_folds=plan.settings["search_folds"],
        datasets=_describe_datasets(book),
        config=plan.base.flatten(),
        samples=tuple(_make_sample(book, runs, trial, trial.number in front) for trial in book.list_trials()),
        importances=importances(book),
        finalists=tuple(_make_finalist(row, confirmed) for row in confirmed),
        winner=winner.finalist.label if winner else None,
        winner_values=dict(winner.finalist.values) if winner else {},
        validation=_compare(winner, confirmed),
        test=_compare_tested(test),
        n_tests=len(book.study.user_attrs.get(TESTED, {})),
        versions=environment(),
        arguments=dict(arguments),
    )


def summary_metrics(results: SearchResults) -> dict[str, float]:
    """What a search found, in numbers to sort searches by: the best sample, and the winner minus the default."""
    found = {"n_samples": float(results.n_ended)}
    if results.best is not None:
        found["best_val_pcc"] = results.best.value
    for name, comparison in (("validation", results.validation), ("test", results.test)):
        if comparison is not None and comparison.is_whole:
            found[f"{name}_pcc_gain"] = comparison.mean
    return found


def importances(book: SearchBook) -> dict[str, float]:
    """Share of each parameter in what sets the best samples apart (PED-ANOVA); empty with too few samples.

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
            target=lambda trial: -trial.values[0],  # the evaluator takes the lowest for the best
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
    last_percent, last_value = max(trial.intermediate_values.items(), default=(math.nan, math.nan))
    return Sample(
        sample=attributes[SAMPLE],
        trial=trial.number,
        origin=attributes[ORIGIN],
        state=describe_state(trial),
        value=trial.values[0] if is_complete else math.nan,
        last_percent=last_percent,
        last_value=last_value,
        by_dataset=attributes.get(BY_DATASET, {}),
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


def _make_finalist(row: Confirmed, confirmed: list[Confirmed]) -> FinalistRow:
    default = next((other for other in confirmed if other.finalist.is_default), None)
    is_compared = default is not None and row is not default and len(row.per_gene) and len(default.per_gene)
    return FinalistRow(
        label=row.finalist.label,
        sample=row.finalist.sample,
        is_default=row.finalist.is_default,
        value=row.value,
        by_dataset=row.by_dataset,
        n_missing=row.n_missing,
        minus_default=differences(row.per_gene, default.per_gene) if default is not None and is_compared else {},
        values=dict(row.finalist.values),
    )


def _compare(winner: Confirmed | None, confirmed: list[Confirmed]) -> Comparison | None:
    """By how much the winner beats the default on validation genes, per data set."""
    if winner is None:
        return None
    default = next(row for row in confirmed if row.finalist.is_default)
    gaps = differences(winner.per_gene, default.per_gene)
    return Comparison(mean=_mean(gaps), by_dataset=gaps)


def _compare_tested(test: FinalTest | None) -> Comparison | None:
    """The same on the test genes."""
    if test is None:
        return None
    gaps = differences(test.winner, test.default) if len(test.winner) and len(test.default) else {}
    means = {
        label: {str(name): float(rows["pcc"].mean()) for name, rows in table.groupby("dataset", sort=False)}
        for label, table in (("winner", test.winner), ("default", test.default))
    }
    return Comparison(
        mean=_mean(gaps),
        by_dataset=gaps,
        run_id=test.run_id,
        means=means,
        failed=test.failed,
        missing=test.missing,
    )


def _mean(gaps: Mapping[str, Estimate]) -> float:
    return sum(gap.mean for gap in gaps.values()) / len(gaps) if gaps else math.nan
