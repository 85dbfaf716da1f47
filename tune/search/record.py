"""`search.json`: everything a search found, in the form its report is drawn from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from ablations.search.results import SearchResults
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
from tune.search.engine import state_of
from tune.search.final import TESTED, FinalTest
from tune.search.runs import SearchRuns
from tune.search.searcher import candidate_key

FORMAT = 1
FEW_SAMPLES = 10  # below, importances would be read out of noise


def make_record(
    book: SearchBook,
    runs: SearchRuns,
    confirmed: list[Confirmed],
    winner: Confirmed | None,
    test: FinalTest | None,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """The search as JSON can hold it; numbers that are not finite are null."""
    plan, front = book.plan, {trial.number for trial in book.front()}
    record = {
        "format": FORMAT,
        "name": plan.name,
        "uid": book.uid,
        "space": plan.space.model_dump(mode="json"),
        "sampler": book.study.user_attrs[SAMPLER],
        "objective": plan.objective,
        "max_memory_mb": plan.max_memory_mb,
        "n_samples": plan.n_samples,
        "n_interrupted": _n_interrupted(book),
        "seed": plan.base.seed,
        "search_folds": plan.settings["search_folds"],
        "datasets": _datasets(book),
        "config": plan.base.flatten(),
        "samples": [_sample(book, runs, trial, trial.number in front) for trial in book.trials()],
        "importances": importances(book),
        "finalists": [_finalist(row, confirmed) for row in confirmed],
        "winner": winner.finalist.label if winner else None,
        "winner_values": dict(winner.finalist.values) if winner else {},
        "validation": _compare(winner, confirmed),
        "test": _test(test),
        "n_tests": len(book.study.user_attrs.get(TESTED, {})),
        "versions": environment(),
        "arguments": dict(arguments),
    }
    return _finite(record)


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
    complete = [trial for trial in book.trials() if trial.state == TrialState.COMPLETE]
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


def _n_interrupted(book: SearchBook) -> int:
    return len(book.study.get_trials(deepcopy=False)) - len(book.trials())


def _datasets(book: SearchBook) -> dict[str, dict[str, Any]]:
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


def _sample(book: SearchBook, runs: SearchRuns, trial: FrozenTrial, on_front: bool) -> dict[str, Any]:
    attributes = trial.user_attrs
    run = runs.known.get(candidate_key(book.uid, attributes[SAMPLE]))
    steps = sorted(trial.intermediate_values.items())
    return {
        "sample": attributes[SAMPLE],
        "trial": trial.number,
        "origin": attributes[ORIGIN],
        "state": state_of(trial),
        "value": trial.values[0] if trial.state == TrialState.COMPLETE else None,
        "last_percent": steps[-1][0] if steps else None,
        "last_value": steps[-1][1] if steps else None,
        "by_dataset": attributes.get(BY_DATASET, {}),
        "seconds": attributes.get(SECONDS),
        "peak_memory_mb": attributes.get(MEMORY),
        "n_parameters": attributes.get(PARAMETERS),
        "fits_memory": trial.state != TrialState.COMPLETE or book.fits_memory(trial),
        "on_front": on_front,
        "params": trial.params,
        "values": attributes.get(VALUES, {}),
        "reason": attributes.get(REASON),
        "run_id": run.run_id if run else None,
    }


def _finalist(row: Confirmed, confirmed: list[Confirmed]) -> dict[str, Any]:
    default = next((other for other in confirmed if other.finalist.is_default), None)
    compared = default is not None and row is not default and len(row.per_gene) and len(default.per_gene)
    gaps = differences(row.per_gene, default.per_gene) if default is not None and compared else {}
    return {
        "label": row.finalist.label,
        "sample": row.finalist.sample,
        "is_default": row.finalist.is_default,
        "value": row.value,
        "by_dataset": row.by_dataset,
        "n_missing": row.n_missing,
        "minus_default": {name: _estimate(found) for name, found in gaps.items()},
        "values": dict(row.finalist.values),
    }


def _compare(winner: Confirmed | None, confirmed: list[Confirmed]) -> dict[str, Any] | None:
    """By how much the winner beats the default on validation genes, per data set."""
    if winner is None:
        return None
    default = next(row for row in confirmed if row.finalist.is_default)
    return _differences(differences(winner.per_gene, default.per_gene))


def _test(test: FinalTest | None) -> dict[str, Any] | None:
    """The same on the test genes."""
    if test is None:
        return None
    both = len(test.winner) and len(test.default)
    found = _differences(differences(test.winner, test.default)) if both else _differences({})
    means = {
        label: {str(name): float(rows["pcc"].mean()) for name, rows in table.groupby("dataset", sort=False)}
        for label, table in (("winner", test.winner), ("default", test.default))
    }
    unfinished = {"failed": [list(pair) for pair in test.failed], "missing": list(test.missing)}
    return found | {"run_id": test.run_id, "means": means} | unfinished


def _differences(found: Mapping[str, Estimate]) -> dict[str, Any]:
    values = [estimate.mean for estimate in found.values()]
    mean = sum(values) / len(values) if values else math.nan
    return {"mean": mean, "by_dataset": {name: _estimate(estimate) for name, estimate in found.items()}}


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n_genes": found.n_genes}


def _finite(value: Any) -> Any:
    """NaN and infinities, which JSON has not, as None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
