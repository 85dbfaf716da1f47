"""study.json: what a report is written from, besides the runs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgd.data.catalog import PAPER_NAMES
from cgd.data.split import make_splits
from cgd.version import code_version, environment
from tune.store.tracking import OlderRun, RunRecord
from tune.trials.plan import Plan, StudyPlan


def study_record(
    plan: StudyPlan,
    whole: Plan,
    known: Mapping[str, RunRecord],
    known_floors: Mapping[str, RunRecord],
    other_code: Mapping[str, Sequence[OlderRun]],
) -> dict[str, Any]:
    """Content of study.json, as `ablations.findings.results` reads it.

    Parameters
    ----------
    plan, whole
        The study, and the plan of the command it is part of.
    known, known_floors
        Runs of trials and floors by fingerprint.
    other_code
        Trial key -> the same trial as finished by other code versions.
    """
    return {
        "study": plan.study.model_dump(mode="json"),
        "protocol": plan.base.evaluation.protocol,
        "config": plan.base.flatten(),
        "datasets": {name: _describe(plan, whole, name) for name in plan.dataset_keys},
        "trials": _trials(plan, known),
        "floors": [
            {"run_id": known_floors[spec.fingerprint].run_id, "dataset": spec.dataset, "fold": spec.fold}
            for spec in plan.floors
            if spec.fingerprint in known_floors
        ],
        "code_version": code_version(),
        "older": _older(plan, other_code),
        "versions": environment(),
    }


def _trials(plan: StudyPlan, known: Mapping[str, RunRecord]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for level, spec in plan.trials:
        record = known.get(spec.fingerprint)
        row: dict[str, Any] = {"fingerprint": spec.fingerprint, "dataset": spec.dataset, "level": level}
        row |= {"seed": spec.seed, "fold": spec.fold, "run_id": record.run_id if record else None}
        row |= {"status": record.status if record else "MISSING", "error": record.error if record else None}
        rows.append(row)
    return rows


def _older(plan: StudyPlan, other_code: Mapping[str, Sequence[OlderRun]]) -> list[dict[str, Any]]:
    """The same trials as finished by other code versions: shown beside the results and never mixed with them."""
    rows: list[dict[str, Any]] = []
    for level, spec in plan.trials:
        for run in other_code.get(spec.trial_key, ()):
            row: dict[str, Any] = {"dataset": spec.dataset, "level": level, "seed": spec.seed, "fold": spec.fold}
            row |= {"code_version": run.code_version, "run_id": run.run_id, "pcc": run.pcc}
            rows.append({**row, "when": run.when.isoformat()})
    return rows


def _describe(plan: StudyPlan, whole: Plan, name: str) -> dict[str, Any]:
    prepared = whole.datasets[plan.dataset_keys[name]]
    return {
        "n_spots": prepared.n_spots,
        "n_cells": prepared.n_cells,
        "n_genes": len(prepared.panel),
        "n_test": len(make_splits(prepared.panel, plan.base.split)[0].test),
        "paper_name": PAPER_NAMES.get(name),
        "sha256": prepared.sha256,
        "notes": whole.notes.get(name, []),
    }
