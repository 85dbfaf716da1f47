"""What is kept of a run, in plain values: how it stands, its data set and its table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pandas as pd

from cgd.data.preprocess import PreparedPair
from tune.store.claims import DRIVER

FINISHED, FAILED, RUNNING, KILLED = "FINISHED", "FAILED", "RUNNING", "KILLED"
NOTE = "mlflow.note.content"
STOPPED = "cgd.stopped_at_percent"
STUDY_TAG = "cgd.study."  # followed by a study's name: the level that a trial is there


@dataclass(frozen=True)
class RunRecord:
    """A run as found in the store.

    Attributes
    ----------
    studies
        Its tags `cgd.study.NAME`.
    driver
        The command that writes to it, where several may; see `Tracking.driver`.
    is_partial
        Whether it was stopped early: finished, but without a result.
    """

    run_id: str
    status: str
    error: str | None = None
    studies: Mapping[str, str] = field(default_factory=dict)
    driver: str | None = None
    is_partial: bool = False

    @classmethod
    def of(cls, run: Any) -> RunRecord:
        """From a run as MLflow returns it."""
        tags = run.data.tags
        studies = {name: value for name, value in tags.items() if name.startswith(STUDY_TAG)}
        error, driver = tags.get("cgd.error"), tags.get(DRIVER)
        return cls(run.info.run_id, run.info.status, error, studies, driver, STOPPED in tags)


@dataclass(frozen=True)
class OlderRun:
    """A finished trial of another code version; `pcc` is None where it recorded none."""

    run_id: str
    trial_key: str
    code_version: str
    pcc: float | None
    when: date


def describe_dataset(prepared: PreparedPair) -> dict[str, str]:
    """A data set as MLflow keeps it, named by its own hash rather than one over a copy of the matrix."""
    shape = {"n_spots": prepared.n_spots, "n_cells": prepared.n_cells, "n_genes": len(prepared.panel)}
    source = json.dumps({"name": prepared.name, "sha256": prepared.sha256})
    return {
        "name": prepared.name,
        "digest": prepared.sha256[:16],
        "source": source,
        "profile": json.dumps(shape),
    }


def table_text(table: pd.DataFrame) -> str:
    """A per-gene table as it is kept with a run."""
    return str(table.to_json(orient="split", index=False))
