"""Results of a study that never ran, as large as one likes: what the reports are tried on."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ablations.findings.results import StudyResults
from ablations.findings.study_json import FloorRow
from ablations.study.comparison import Compared, make_comparison
from ablations.study.study import Study
from cgd.config import Config
from cgd.metrics.facts import DRAW_SCORES, HIDDEN_SCORES, JOINT_SCORES, METRICS, SCORES

DRAW_FLOORS = {"gaussian_center": 0.45, "counts_ridge": 0.41, "counts_center": 0.39, "replicate": 0.25}
NOISE_CEILINGS = {"noise_ceiling": 0.6, "noise_ceiling_null": 0.05}
FLOORS = {"random": 0.0, "gene_mean": 0.0, "mean_pattern": 0.08, "knn": 0.13, "kernel_ridge": 0.17, "ceiling": 0.78}


def made_up(
    study: Study,
    datasets: dict[str, str | None],
    seeds: Sequence[int] = (0, 1, 2),
    n_genes: int = 40,
    published: bool = False,
    drawing: Collection[str] = (),
) -> StudyResults:
    """Level i of data set k lies at 0.2 + 0.1 k + 0.012 i, plus gene effects and the noise of each seed.

    `datasets`: name -> the paper's abbreviation or None. `drawing`: the levels that make draws; level i then has a CRPS
    of 0.4 - 0.012 i, with gene effects and noise of its own, and the floors of draws and noise ceilings are there.
    """
    base = Config().with_values({"evaluation.protocol": "published" if published else "heldout_genes"})
    rng, noise = np.random.default_rng(7), np.random.default_rng(8)
    genes, trials, floors = [], [], []
    for k, dataset in enumerate(datasets):
        effect = 0.1 * rng.normal(size=n_genes)
        for method, pcc in FLOORS.items():
            table = _genes(min(pcc + 0.1 * k * (pcc > 0.05), 0.95) + effect, published)
            floors.append(table.assign(dataset=dataset, fold=0, method=method))
        bumps = 0.05 * noise.normal(size=n_genes)
        for method, value in (DRAW_FLOORS if drawing else {}).items():
            table = _genes(np.full(n_genes, np.nan), published).assign(**_draw(value + bumps))
            floors.append(table.assign(dataset=dataset, fold=0, method=method))
        for method, pcc in (NOISE_CEILINGS if drawing else {}).items():
            table = _genes(np.full(n_genes, np.nan), published).assign(pcc=pcc + effect / 4)
            floors.append(table.assign(dataset=dataset, fold=0, method=method))
        for i, label in enumerate(study.labels):
            for seed in seeds:
                pcc = 0.2 + 0.1 * k + 0.012 * i + effect + 0.04 * rng.normal(size=n_genes)
                where = {"dataset": dataset, "level": label, "seed": seed, "fold": 0}
                found = _genes(pcc, published)
                if label in drawing:
                    found = found.assign(**_draw(0.4 - 0.012 * i + bumps + 0.004 * noise.normal(size=n_genes)))
                genes.append(found.assign(**where))
                joint = dict.fromkeys(JOINT_SCORES, 0.6 - 0.01 * i if label in drawing else math.nan)
                trials.append(where | _trial(i, seed, f"{k}{i}{seed}") | joint)
    facts = {"n_spots": 1549, "n_cells": 14249, "n_genes": 4 * n_genes, "n_test": n_genes, "sha256": "ab12" * 16}
    return StudyResults(
        run_id="parent0",
        study=study,
        protocol="published" if published else "heldout_genes",
        config=base.flatten(),
        datasets={name: {**facts, "paper_name": paper} for name, paper in datasets.items()},
        per_gene=pd.concat(genes, ignore_index=True).pipe(_add_draws, bool(drawing)),
        floors=pd.concat(floors, ignore_index=True).pipe(_add_draws, bool(drawing)),
        trials=pd.DataFrame(trials),
        floor_runs=tuple(FloorRow(run_id=f"floors-{name}", dataset=name, fold=0) for name in datasets),
        versions={"causalged": "0.1.0"},
    )


def _genes(pcc: np.ndarray, published: bool) -> pd.DataFrame:
    table = pd.DataFrame({"gene": [f"Gene{i}" for i in range(len(pcc))]})
    for offset, metric in enumerate(SCORES):
        sign = -1 if metric in ("rmse", "js") else 1
        table[metric] = (0.0 if sign > 0 else 1.0) + sign * (pcc - 0.01 * offset)
    if published:
        table = table.assign(**{metric: table[metric.removeprefix("hidden_")] / 2 for metric in HIDDEN_SCORES})
        table["copied_share"] = 0.87
    return table


def _add_draws(table: pd.DataFrame, has_draws: bool) -> pd.DataFrame:
    """The table with the columns of draws, where the study has them."""
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *(DRAW_SCORES if has_draws else ())])))


def _draw(crps: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of draws that follow the CRPS; the first gene has no spatial pattern to be wrong about."""
    found = {metric: crps.copy() for metric in DRAW_SCORES}
    for metric in DRAW_SCORES:
        if METRICS[metric].direction is None and "coverage" in metric:
            found[metric] = 0.9 - crps / 10
    found["moran_error"][0] = math.nan
    return found


def _trial(i: int, seed: int, name: str) -> dict[str, Any]:
    return {
        "fingerprint": f"print{name}",
        "run_id": f"run{name}",
        "status": "FINISHED",
        "error": None,
        "train_seconds": 20.0 + 10 * i + seed,
        "wall_seconds": 30.0 + 10 * i + seed,
        "coverage_90": 0.9,
        "calibration_genes": 6.0,
        "peak_memory_mb": 800.0 + 25 * i,
        "n_parameters": 120_000.0 * (i + 1),
        "n_scored": 40.0,
        "started": 1000.0,
        "ended": 1030.0 + 10 * i + seed,
        "n_threads": 2.0,
        "n_workers": 1.0,
        "device": "cpu",
    }


# ---- a comparison of methods

METHODS = (Compared("a", "Alpha"), Compared("b", "Beta", "Reduced to half its epochs."), Compared("c", "Gamma"))
DATASETS = {"tissue": None, "other": "MVC"}


def results_of(protocol="heldout_genes", methods=METHODS, datasets=DATASETS, drawing=()):
    """Each method lies 0.012 above the one before; CausalGeD, the first, is the last."""
    study = make_comparison(methods, protocol)
    return made_up(study, datasets, published=protocol == "published", drawing=drawing)


def without(results, dataset, label):
    """The results as if every trial of a method on a data set had failed."""
    genes, trials = results.per_gene, results.trials.copy()
    here = (trials["dataset"] == dataset) & (trials["level"] == label)
    trials.loc[here, ["status", "error"]] = ["FAILED", "DataError: nonsense"]
    trials.loc[here, ["train_seconds", "wall_seconds", "peak_memory_mb"]] = math.nan
    kept = genes[~((genes["dataset"] == dataset) & (genes["level"] == label))]
    return replace(results, per_gene=kept, trials=trials)


def places(found, dataset):
    return {place.row.name: place for one in found.data_sets if one.table.name == dataset for place in one.places}
