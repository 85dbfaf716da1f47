"""Makes `study.json`: what a report is written from, besides the runs themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ablations.findings.study_json import FloorRow, Forecast, OlderTrial, StudyRecord, TrialRow
from cgd.data.catalog import PAPER_NAMES
from cgd.data.split import make_splits
from cgd.version import code_version, environment
from tune.store.reading import OlderRun, RunRecord
from tune.trials.plan import Plan, StudyPlan
from tune.trials.spec import TrialSpec


def make_study_record(
    plan: StudyPlan,
    whole: Plan,
    known: Mapping[str, RunRecord],
    known_floors: Mapping[str, RunRecord],
    other_code: Mapping[str, Sequence[OlderRun]],
    forecast: Forecast | None,
    arguments: Mapping[str, Any],
) -> StudyRecord:
    """The record of a study, which is part of the `whole` of a command with that forecast and those arguments.

    `known` and `known_floors` are runs of trials and floors by fingerprint; `other_code` has, by their key, the trials
    that other code versions finished.
    """
    return StudyRecord(
        study=plan.study,
        protocol=plan.base.evaluation.protocol,
        config=plan.base.flatten(),
        datasets={name: _describe(plan, whole, name) for name in plan.dataset_keys},
        trials=tuple(_make_row(level, spec, known.get(spec.fingerprint)) for level, spec in plan.trials),
        floors=tuple(
            FloorRow(run_id=known_floors[spec.fingerprint].run_id, dataset=spec.dataset, fold=spec.fold)
            for spec in plan.floors
            if spec.fingerprint in known_floors
        ),
        code_version=code_version(),
        older=tuple(
            _make_older(level, spec, run) for level, spec in plan.trials for run in other_code.get(spec.trial_key, ())
        ),
        versions=environment(),
        forecast=forecast,
        arguments=dict(arguments),
    )


def _make_row(level: str, spec: TrialSpec, run: RunRecord | None) -> TrialRow:
    return TrialRow(
        fingerprint=spec.fingerprint,
        dataset=spec.dataset,
        level=level,
        seed=spec.seed,
        fold=spec.fold,
        run_id=run.run_id if run else None,
        status=run.status if run else "MISSING",
        error=run.error if run else None,
    )


def _make_older(level: str, spec: TrialSpec, run: OlderRun) -> OlderTrial:
    return OlderTrial(
        dataset=spec.dataset,
        level=level,
        seed=spec.seed,
        fold=spec.fold,
        code_version=run.code_version,
        run_id=run.run_id,
        pcc=run.outcomes.get("pcc", math.nan),
        crps=run.outcomes.get("crps", math.nan),
        when=run.when,
    )


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
