"""The results of a finished (or unfinished) study, put together from what the tracking store keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ablations.findings.stored import read_per_gene
from ablations.findings.study_json import FloorRow, Forecast, OlderTrial, StudyRecord
from ablations.study.study import Study
from cgd.errors import TrackingError, closest
from cgd.metrics.facts import DRAW_SCORES, INTERVALS, JOINT_SCORES, OUTCOMES, PUBLISHED_COLUMNS, SCORES

_WHERE = ["dataset", "level", "seed", "fold"]
_COSTS = ("train_seconds", "wall_seconds", "peak_memory_mb", "n_parameters", "n_scored")
_CLOCK = ("started", "ended", "n_threads", "n_workers")
_OLDER = list(OlderTrial.model_fields)


@dataclass(frozen=True)
class StudyResults:
    """What the tracking store holds of one invocation of a study.

    Attributes
    ----------
    run_id
        The parent run.
    floor_runs
        The runs that hold the floors.
    study, protocol, config, datasets, versions, code_version, forecast
        As in its `StudyRecord`.
    per_gene
        One row per finished trial and gene: dataset, level, seed, fold, gene and the metrics (NaN: unscorable). Those
        of draws are columns only where a trial or a floor has them.
    floors
        One row per data set, fold, method and gene, with the same metrics; NaN in those that a method has not.
    trials
        One row per trial: what it is, its `status` (FINISHED, FAILED or anything else for not finished), its error,
        train_seconds, wall_seconds, peak_memory_mb, n_parameters, n_scored, what is said of its intervals, the scores
        of its draws over the genes together, started and ended (epoch seconds), n_threads (of each worker; NaN where
        not recorded), n_workers and device ("cpu", "cuda" or None).
    older
        Finished runs of the same trials by another code version: dataset, level, seed, fold, code_version, run_id,
        the outcomes, when (ISO date).
    """

    run_id: str
    study: Study
    protocol: str
    config: dict[str, Any]
    datasets: dict[str, dict[str, Any]]
    per_gene: pd.DataFrame
    floors: pd.DataFrame
    trials: pd.DataFrame
    floor_runs: tuple[FloorRow, ...]
    versions: dict[str, Any]
    code_version: str = ""
    older: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_OLDER))
    forecast: Forecast | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The per-gene columns: those that this protocol has, then those of draws where there are any."""
        return (*_list_metrics(self.protocol), *(name for name in DRAW_SCORES if name in self.per_gene))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes that some trial has a value of; the best guess is one in any case."""
        has_draws = [name for name in OUTCOMES if name in DRAW_SCORES and name in self.per_gene]
        known = {name for name in has_draws if self.per_gene[name].notna().any()}
        return tuple(name for name in OUTCOMES if name in known or name not in DRAW_SCORES)


@dataclass(frozen=True)
class TrialRun:
    """The run of a trial, as the store has it; `started` and `ended` are in milliseconds."""

    status: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    started: int | None
    ended: int | None


def assemble_results(
    run_id: str, record: StudyRecord, runs: Mapping[str, TrialRun], tables: Mapping[str, str]
) -> StudyResults:
    """Put the results of a study together.

    Parameters
    ----------
    run_id, record
        The parent run and its `study.json`.
    runs
        The runs of its trials, by id.
    tables
        `per_gene.json` of the floors and of every finished trial, by run id.

    Raises
    ------
    TrackingError
        A trial is of an unknown level or data set, or a table is not what a trial leaves.
    """
    for key, known in (("level", record.study.labels), ("dataset", record.datasets)):
        for name in sorted({getattr(row, key) for row in record.trials} - set(known)):
            reason = f"run {run_id}: a trial has an unknown {key} '{name}'; {closest(name, known)}"
            raise TrackingError(reason, "run the study again to rewrite it")
    columns = _list_metrics(record.protocol)
    genes = [
        read_per_gene(tables[row.run_id], row.run_id, ["gene"], columns, DRAW_SCORES).assign(
            **row.model_dump(include=set(_WHERE))
        )
        for row in record.trials
        if row.run_id and runs[row.run_id].status == "FINISHED"
    ]
    floors = [
        read_per_gene(
            tables[row.run_id], row.run_id, ["method", "gene"], columns, (*DRAW_SCORES, *JOINT_SCORES)
        ).assign(dataset=row.dataset, fold=row.fold)
        for row in record.floors
    ]
    columns += tuple(name for name in DRAW_SCORES if any(name in table for table in (*genes, *floors)))
    joint = [name for name in JOINT_SCORES if any(name in table for table in floors)]
    older = pd.DataFrame([row.model_dump(mode="json") for row in record.older], columns=_OLDER)
    return StudyResults(
        run_id=run_id,
        study=record.study,
        protocol=record.protocol,
        config=record.config,
        datasets=record.datasets,
        per_gene=_stack(genes, [*_WHERE, "gene", *columns]),
        floors=_stack(floors, ["dataset", "fold", "method", "gene", *columns, *joint]),
        trials=_make_trials(record, runs),
        floor_runs=record.floors,
        versions=record.versions,
        code_version=record.code_version,
        older=older.assign(**{name: pd.to_numeric(older[name]).astype(float) for name in OUTCOMES}),
        forecast=record.forecast,
    )


def _list_metrics(protocol: str) -> tuple[str, ...]:
    return SCORES + (PUBLISHED_COLUMNS if protocol == "published" else ())


def _make_trials(record: StudyRecord, runs: Mapping[str, TrialRun]) -> pd.DataFrame:
    rows = []
    for trial in record.trials:
        row = trial.model_dump()
        if trial.run_id:  # the run knows better than the study's list, which may be older
            run = runs[trial.run_id]
            row |= {"status": run.status} | {key: run.metrics.get(key) for key in (*_COSTS, *INTERVALS)}
            row |= {key: run.metrics.get(f"test_{key}") for key in JOINT_SCORES}
            row |= _read_circumstances(run)
        rows.append(row)
    numeric = [*_COSTS, *INTERVALS, *JOINT_SCORES, *_CLOCK]
    order = ["fingerprint", "run_id", *_WHERE, "status", "error", *numeric, "device"]
    return pd.DataFrame(rows, columns=order).astype(dict.fromkeys(numeric, float))


def _read_circumstances(run: TrialRun) -> dict[str, Any]:
    """When a trial ran and on what; None where the store does not say."""
    threads, workers = (run.tags.get(f"cgd.{path}") for path in ("runtime.n_threads", "train.n_workers"))
    clock = {"started": run.started, "ended": run.ended}
    seconds = {key: value / 1000 if value is not None else None for key, value in clock.items()}
    number = float(threads) if threads and threads.isdecimal() else None
    n_workers = float(workers) if workers and workers.isdecimal() else 1.0  # older runs do not say so
    return {**seconds, "n_threads": number, "n_workers": n_workers, "device": run.tags.get("cgd.runtime.device")}


def _stack(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """One under the other; of a column that a table lacks, its rows have NaN."""
    return pd.concat(tables, ignore_index=True).reindex(columns=columns) if tables else pd.DataFrame(columns=columns)
