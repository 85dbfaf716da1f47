"""A finished (or unfinished) study, read back from the tracking store and from nowhere else."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.findings.store_uri import without_password
from ablations.findings.study_json import OLDER, read_header
from ablations.study.comparison import PROTOCOLS, name_comparison
from ablations.study.study import Study
from cgd.errors import TrackingError, closest

METRICS = ("pcc", "ssim", "rmse", "js", "spearman")
HIDDEN_METRICS = tuple(f"hidden_{metric}" for metric in METRICS)
PUBLISHED_COLUMNS = (*HIDDEN_METRICS, "copied_share")
_TRIAL_KEYS = ("fingerprint", "run_id", "dataset", "level", "seed", "fold", "status", "error")
_COSTS = ("train_seconds", "wall_seconds", "peak_memory_mb", "n_parameters", "n_scored")
_CLOCK = ("started", "ended", "n_threads", "n_workers")
# columns of the trials too: of intervals of 90 % their coverage, that of the draws alone, widths in standard deviations
INTERVALS = (
    "coverage_90",
    "coverage_90_raw",
    "interval_width_90",
    "interval_width_90_constant",
    "calibration_genes",
)


@dataclass(frozen=True)
class StudyResults:
    """What the tracking store holds of one invocation of a study.

    Attributes
    ----------
    run_id
        The parent run.
    study, protocol, config, versions
        What was asked, under which protocol, with which other values (dotted path -> value) and software.
    datasets
        Name -> n_spots, n_cells, n_genes, n_test, paper_name, sha256.
    per_gene
        One row per finished trial and gene: dataset, level, seed, fold, gene and the metrics (NaN: unscorable).
    floors
        One row per data set, fold, method and gene, with the same metrics.
    trials
        One row per trial: what it is, its `status` (FINISHED, FAILED or anything else for not finished), its error,
        train_seconds, wall_seconds, peak_memory_mb, n_parameters, n_scored, started and ended (epoch seconds),
        n_threads (of each worker; NaN where not recorded), n_workers and device ("cpu", "cuda" or None).
    floor_runs
        run_id, dataset and fold of the runs that hold the floors.
    code_version
        Of the code that ran the trials; empty where not recorded.
    older
        Finished runs of the same trials by another code version: dataset, level, seed, fold, code_version, run_id,
        pcc, when (ISO date).
    forecast
        What was expected before the trials ran: wall_seconds on n_concurrent slots, disk_mb, trials (a list of
        fingerprint, seconds, memory_mb) and made (ISO date); None without one.
    """

    run_id: str
    study: Study
    protocol: str
    config: dict[str, Any]
    datasets: dict[str, dict[str, Any]]
    per_gene: pd.DataFrame
    floors: pd.DataFrame
    trials: pd.DataFrame
    floor_runs: list[dict[str, Any]]
    versions: dict[str, Any]
    code_version: str = ""
    older: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(OLDER)))
    forecast: dict[str, Any] | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The per-gene columns this protocol has."""
        return METRICS + (PUBLISHED_COLUMNS if self.protocol == "published" else ())


def load_results(tracking_uri: str, parent_run_id: str) -> StudyResults:
    """Read one invocation of a study.

    Raises
    ------
    TrackingError
        The store or a run or artifact is missing, or is not what a study writes; says which and what to do.
    """
    store = _Store(tracking_uri)
    found = store.run(parent_run_id).data.tags.get("cgd.kind")
    if found != "study":
        raise TrackingError(f"run {parent_run_id} is not a study (cgd.kind is {found!r}); pass the study's parent run")
    content = store.json(parent_run_id, "study.json")
    header = read_header(content, parent_run_id)
    columns = METRICS + (PUBLISHED_COLUMNS if header["protocol"] == "published" else ())
    trials, per_gene = _read_trials(store, content["trials"], columns)
    for key, known in (("level", header["study"].labels), ("dataset", header["datasets"])):
        for name in sorted(set(trials[key]) - set(known)):
            raise TrackingError(f"run {parent_run_id}: a trial has an unknown {key} '{name}'; {closest(name, known)}")
    floors = _read_floors(store, content["floors"], columns)
    return StudyResults(
        **header, run_id=parent_run_id, per_gene=per_gene, floors=floors, trials=trials, floor_runs=content["floors"]
    )


def find_comparisons(tracking_uri: str) -> list[str]:
    """Parent runs of the newest comparison of each protocol that is over and left its `study.json`.

    Raises
    ------
    TrackingError
        There is none, or the store cannot be read.
    """
    store = _Store(tracking_uri)
    over = (store.newest(name_comparison(protocol)) for protocol in PROTOCOLS)
    found = [run_id for run_id in over if run_id is not None]
    if not found:
        raise TrackingError(f"no comparison in {store.shown}; run one first, or name another store")
    return found


def _when(run: Any) -> tuple[int, str]:
    return run.info.end_time or run.info.start_time, run.info.run_id


def _read_trials(
    store: _Store, entries: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, tables = [], []
    for entry in entries:
        row: dict[str, Any] = {key: entry.get(key) for key in _TRIAL_KEYS}
        run = store.run(row["run_id"]) if row["run_id"] else None
        if run is not None:  # the run knows better than the study's list, which may be older
            row["status"] = run.info.status
            row |= {key: run.data.metrics.get(key) for key in (*_COSTS, *INTERVALS)} | _circumstances(run)
        if run is not None and row["status"] == "FINISHED":
            where = {key: row[key] for key in ("dataset", "level", "seed", "fold")}
            tables.append(store.table(row["run_id"], ["gene"], columns).assign(**where))
        rows.append(row)
    trials = pd.DataFrame(rows, columns=[*_TRIAL_KEYS, *_COSTS, *INTERVALS, *_CLOCK, "device"])
    numeric = [*_COSTS, *INTERVALS, *_CLOCK]
    trials[numeric] = trials[numeric].astype(float)
    return trials, _stack(tables, ["dataset", "level", "seed", "fold", "gene", *columns])


def _circumstances(run: Any) -> dict[str, Any]:
    """When a trial ran and on what; None where the store does not say."""
    threads, workers = (run.data.tags.get(f"cgd.{path}") for path in ("runtime.n_threads", "train.n_workers"))
    clock = {"started": run.info.start_time, "ended": run.info.end_time}  # milliseconds
    seconds = {key: value / 1000 if value is not None else None for key, value in clock.items()}
    number = float(threads) if threads and threads.isdecimal() else None
    n_workers = float(workers) if workers and workers.isdecimal() else 1.0  # older runs do not say so
    return {**seconds, "n_threads": number, "n_workers": n_workers, "device": run.data.tags.get("cgd.runtime.device")}


def _read_floors(store: _Store, entries: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    tables = [
        store.table(entry["run_id"], ["method", "gene"], columns).assign(dataset=entry["dataset"], fold=entry["fold"])
        for entry in entries
    ]
    return _stack(tables, ["dataset", "fold", "method", "gene", *columns])


def _stack(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


class _Store:
    """The questions asked of MLflow, with its errors turned into ours, which show no password."""

    def __init__(self, tracking_uri: str) -> None:
        database = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
        if tracking_uri.startswith("sqlite:///") and not database.is_file():  # MLflow would create an empty one
            raise TrackingError(f"no tracking store at {database}", "run a study first, or pass the store it wrote to")
        self.shown = without_password(tracking_uri)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # two bars per trial otherwise
        from mlflow import MlflowClient

        with self._readable("open"):
            self._client = MlflowClient(tracking_uri)

    @contextmanager
    def _readable(self, doing: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
            reason = without_password((str(error).strip() or type(error).__name__).splitlines()[0])
            message = f"cannot {doing} the tracking store {self.shown}: {reason}"
            raise TrackingError(message, "pass the store a study wrote to") from None

    def run(self, run_id: str) -> Any:
        with self._readable(f"read run {run_id} from"):
            return self._client.get_run(run_id)

    def newest(self, study: str) -> str | None:
        """The newest parent run of a study that is not running and has its `study.json`; None without one."""
        query = f"tags.`cgd.kind` = 'study' and tags.`cgd.study` = '{study}'"
        with self._readable("look for studies in"):
            places = [experiment.experiment_id for experiment in self._client.search_experiments()]
            runs = sorted(self._client.search_runs(places, query, max_results=1000), key=_when, reverse=True)
            return next((run.info.run_id for run in runs if self._is_over(run)), None)

    def _is_over(self, run: Any) -> bool:
        if run.info.status == "RUNNING":
            return False
        return any(file.path == "study.json" for file in self._client.list_artifacts(run.info.run_id))

    def json(self, run_id: str, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder:
            try:
                return json.loads(Path(self._client.download_artifacts(run_id, name, folder)).read_text("utf-8"))
            except (MlflowException, OSError, ValueError) as error:
                reason = without_password(str(error))
                what = f"run {run_id} has no readable artifact '{name}'"
                raise TrackingError(f"{what} ({reason}); run the study again to rewrite it") from None

    def table(self, run_id: str, keys: list[str], columns: Sequence[str]) -> pd.DataFrame:
        """`per_gene.json` with its `keys` and numeric `columns`; null and infinite entries become NaN."""
        content = self.json(run_id, "per_gene.json")
        try:
            table = pd.DataFrame(content["data"], columns=content["columns"])
            numbers = table[list(columns)].apply(pd.to_numeric).astype(float)
            result = table[keys].join(numbers.where(np.isfinite(numbers)))
        except (KeyError, TypeError, ValueError) as error:
            raise TrackingError(f"run {run_id}: per_gene.json is not the expected table: {error}") from None
        if (repeated := result.duplicated(keys)).any():
            gene = result.loc[repeated, "gene"].iloc[0]
            raise TrackingError(f"run {run_id}: per_gene.json lists gene '{gene}' twice; it was logged more than once")
        return result
