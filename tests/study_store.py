"""A small tracking store as a study leaves it: real MLflow, made-up numbers, one trial that failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablations.findings.results import StudyResults
from ablations.study.study import Study, Trial, load_study
from cgd.config import Config
from cgd.metrics.facts import HIDDEN_SCORES, SCORES
from tune.store.reading import load_results

HOSTILE = "boom <script>alert('x')</script> & $\\frac{1}{0}$"
UNSCORABLE = "Gene0"
N_GENES = 12
FLOOR_PCC = {
    "random": 0.0,
    "gene_mean": 0.02,
    "mean_pattern": 0.1,
    "depth": 0.05,
    "knn": 0.15,
    "kernel_ridge": 0.2,
    "ceiling": 0.9,
}
FILL_PCC = {"zero_fill": 0.7, "visible_mean_fill": 0.97}
LEVEL_PCC = {"frozen": 0.30, "joint": 0.25}
INTERVALS: dict[str, dict[str, float]] = {
    "tissue_a": {
        "coverage_90": 0.912, "coverage_90_raw": 0.55, "interval_width_90": 2.5, "interval_width_90_constant": 2.875,
        "calibration_genes": 18.0,
    },
    "tissue_b": {},
}  # fmt: skip


@dataclass(frozen=True)
class FakeStore:
    """Where the store is, and the parent run of the same study under each protocol."""

    uri: str
    heldout: str
    published: str
    trial: str


def gene_table(pcc: float, seed: int, published: bool) -> pd.DataFrame:
    """Genes around `pcc`; the gene effects are the same for every `pcc`, so that differences are sharp."""
    effect = np.linspace(-0.05, 0.05, N_GENES) + 0.002 * np.random.default_rng(seed).normal(size=N_GENES)
    table = pd.DataFrame({"gene": [f"Gene{i}" for i in range(N_GENES)]})
    for offset, metric in enumerate(SCORES):
        table[metric] = pcc + effect - 0.01 * offset
    if published:
        for metric in SCORES:
            table[f"hidden_{metric}"] = table[metric] / 10
        table["copied_share"] = 0.87
    scores = [*SCORES, *(HIDDEN_SCORES if published else ())]
    table.loc[table["gene"] == UNSCORABLE, scores] = np.nan
    return table


class Writer:
    """Writes what a study writes."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client = MlflowClient(self.uri)
        self.experiment = self.client.create_experiment("causalged", artifact_location=f"file://{folder}/artifacts")

    def run(self, kind: str, status: str, **tags: str) -> str:
        run = self.client.create_run(self.experiment, tags={"cgd.kind": kind, **tags})
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    def trial(self, trial: Trial, status: str, published: bool) -> dict[str, Any]:
        fingerprint = trial.config.fingerprint(trial.dataset, str(trial.fold))
        tags = {"cgd.fingerprint": fingerprint, "cgd.dataset": trial.dataset}
        tags |= {"cgd.runtime.device": "cpu", "cgd.runtime.n_threads": "2", "cgd.train.n_workers": "3"}
        run_id = self.run("trial", status, **tags)
        if status == "FINISHED":
            self.client.log_table(run_id, gene_table(LEVEL_PCC[trial.level], trial.seed, published), "per_gene.json")
            costs = {"wall_seconds": 10.0 + trial.seed, "peak_memory_mb": 512.0}
            for name, value in (costs | INTERVALS[trial.dataset]).items():
                self.client.log_metric(run_id, name, value)
        where = {"dataset": trial.dataset, "level": trial.level, "seed": trial.seed, "fold": trial.fold}
        error = HOSTILE if status == "FAILED" else None
        return {"fingerprint": fingerprint, "run_id": run_id, **where, "status": status, "error": error}

    def floors(self, dataset: str, published: bool) -> dict[str, Any]:
        methods = FLOOR_PCC | (FILL_PCC if published else {})
        tables = [gene_table(pcc, 0, published).assign(method=method) for method, pcc in methods.items()]
        run_id = self.run("floors", "FINISHED", **{"cgd.dataset": dataset})
        self.client.log_table(run_id, pd.concat(tables, ignore_index=True), "per_gene.json")
        return {"run_id": run_id, "dataset": dataset, "fold": 0}

    def study(self, study: Study, protocol: str) -> tuple[str, str]:
        """The parent run and the run of the last trial; the trial of level joint, seed 1 on tissue_b failed."""
        published = protocol == "published"
        base = Config().with_values({"evaluation.protocol": protocol})
        entries = []
        for trial in study.trials(base, ["tissue_a", "tissue_b"], [0, 1], [0]):
            broken = (trial.dataset, trial.level, trial.seed) == ("tissue_b", "joint", 1)
            entries.append(self.trial(trial, "FAILED" if broken else "FINISHED", published))
        facts = {"n_spots": 1549, "n_cells": 14249, "n_genes": 120, "n_test": N_GENES, "sha256": "ab12" * 16}
        content = {
            "study": study.model_dump(mode="json"),
            "protocol": protocol,
            "config": base.flatten(),
            "datasets": {"tissue_a": {**facts, "paper_name": "MVC"}, "tissue_b": {**facts, "paper_name": None}},
            "trials": entries,
            "floors": [self.floors(name, published) for name in ("tissue_a", "tissue_b")],
            "versions": {"causalged": "0.1.0", "torch": "2.13.0"},
        }
        parent = self.run("study", "FINISHED", **{"cgd.study": study.name})
        self.client.log_dict(parent, content, "study.json")
        return parent, entries[0]["run_id"]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        writer = Writer(tmp_path_factory.mktemp("store"))
        study = load_study("decoder_training")
        heldout, trial = writer.study(study, "heldout_genes")
        published, _ = writer.study(study, "published")
        yield FakeStore(writer.uri, heldout, published, trial)


@pytest.fixture(scope="session")
def heldout(store: FakeStore) -> StudyResults:
    return load_results(store.uri, store.heldout)


@pytest.fixture(scope="session")
def published(store: FakeStore) -> StudyResults:
    return load_results(store.uri, store.published)
