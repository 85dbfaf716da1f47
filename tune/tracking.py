"""The only writer of MLflow: one run per fingerprint, for ever.

All writing happens on the driver. A run is found again by its tag `cgd.fingerprint`, so a study run twice, killed or
resumed neither loses nor duplicates one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from ablations.store_uri import without_password
from cgd.data.preprocess import PreparedPair
from cgd.errors import TrackingError
from tune.tracked_model import write_model


def sqlite_file(uri: str) -> Path | None:
    """The file of a `sqlite:///PATH` store; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


EXPERIMENT = "causalged"
FINISHED, FAILED, RUNNING, KILLED = "FINISHED", "FAILED", "RUNNING", "KILLED"
_NOT_METRICS = {"epoch", "time_ms"}
_NOTE = "mlflow.note.content"
STUDY_TAG = "cgd.study."  # followed by a study's name: the level that a trial is there


@dataclass(frozen=True)
class RunRecord:
    """A run as found in the store; `studies` are its tags `cgd.study.NAME`."""

    run_id: str
    status: str
    error: str | None = None
    studies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OlderRun:
    """A finished trial of another code version; `pcc` is None where it recorded none."""

    run_id: str
    trial_key: str
    code_version: str
    pcc: float | None
    when: date


@contextmanager
def _readable_errors(uri: str, doing: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrackingError(
            f"cannot {doing} in the tracking store {without_password(uri)}: {without_password(reason)}. Give a "
            "database such as sqlite:///PATH/mlflow.db or the address of an MLflow server with --tracking-uri or "
            "MLFLOW_TRACKING_URI"
        ) from None


class Tracking:
    """Runs of one tracking store.

    Parameters
    ----------
    uri
        Tracking URI.
    artifact_root
        Folder of the artifacts of a local database; a server decides for itself.

    Raises
    ------
    TrackingError
        The store cannot be opened.
    """

    def __init__(self, uri: str, artifact_root: Path) -> None:
        self.uri = uri
        with _readable_errors(uri, "open the experiment"):
            self.client = MlflowClient(uri)
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                location = artifact_root.resolve().as_uri() if uri.startswith("sqlite") else None
                tags = {"mlflow.experimentKind": "custom_model_development"}
                self.experiment_id = self.client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags)
            else:
                self.experiment_id = experiment.experiment_id

    # ---- finding ----------------------------------------------------------------------------------------------------

    def runs(self, kind: str, key: str = "cgd.fingerprint") -> dict[str, RunRecord]:
        """Every run of a kind (`trial`, `floors`, `study`) by its `key` tag; the newest of a key first found."""
        found: dict[str, RunRecord] = {}
        for run in self._search(f"tags.`cgd.kind` = '{kind}'"):
            tags = run.data.tags
            if key in tags:
                studies = {name: value for name, value in tags.items() if name.startswith(STUDY_TAG)}
                record = RunRecord(run.info.run_id, run.info.status, tags.get("cgd.error"), studies)
                found.setdefault(tags[key], record)
        return found

    def finished(self, kind: str) -> Iterator[tuple[dict[str, str], dict[str, str], dict[str, float]]]:
        """Tags, parameters and metrics of every finished run of a kind."""
        for run in self._search(f"tags.`cgd.kind` = '{kind}' AND attributes.status = '{FINISHED}'"):
            yield run.data.tags, run.data.params, run.data.metrics

    def statuses(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Status and tags of every run, the newest first."""
        for run in self._search(""):
            yield run.info.status, run.data.tags

    def trials_of_other_code(self, code_versions: Iterable[str]) -> list[OlderRun]:
        """Every finished trial of none of these code versions, in one query; the newest first."""
        query = "tags.`cgd.kind` = 'trial' and attributes.status = 'FINISHED' and tags.`cgd.trial_key` != ''"
        query += "".join(f" and tags.`cgd.code_version` != '{version}'" for version in sorted(code_versions))
        return [
            OlderRun(
                run.info.run_id,
                run.data.tags["cgd.trial_key"],
                run.data.tags["cgd.code_version"],
                run.data.metrics.get("test_pcc"),
                datetime.fromtimestamp(run.info.end_time / 1000, UTC).date(),
            )
            for run in self._search(query)
        ]

    def _search(self, query: str) -> Iterator[Run]:
        token = None
        while True:
            with _readable_errors(self.uri, "look for runs"):
                page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def mark_killed(self) -> int:
        """End runs that a killed driver left running; returns how many. Only the sole user of a store may call it."""
        stale = [run.info.run_id for run in self._search("attributes.status = 'RUNNING'")]
        for run_id in stale:
            self.client.set_terminated(run_id, KILLED)
        return len(stale)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def open_run(self, kind: str, key: str, name: str, tags: Mapping[str, str], run_id: str | None = None) -> str:
        """Create a run, or re-open the one given; either way it is RUNNING afterwards."""
        with _readable_errors(self.uri, "start a run"):
            all_tags = {"cgd.kind": kind, "cgd.fingerprint": key, **tags}
            if run_id is None:  # another command on the same server may have made it since this one started
                made = next(self._search(f"tags.`cgd.fingerprint` = '{key}'"), None)
                run_id = made.info.run_id if made else None
            if run_id is None:
                return self.client.create_run(self.experiment_id, run_name=name, tags=all_tags).info.run_id
            self.client.update_run(run_id, status=RUNNING)
            known = self.client.get_run(run_id).data.tags
            if "cgd.error" in known:
                self.client.delete_tag(run_id, "cgd.error")
            kept = {"mlflow.parentRunId"} & known.keys()  # a run stays below the study that first asked for it
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in all_tags.items() if k not in kept])
            return run_id

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        with _readable_errors(self.uri, "log parameters"):
            self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Artifacts by file name."""
        for name, text in texts.items():
            with _readable_errors(self.uri, f"write {name}"):
                self.client.log_text(run_id, text, name)

    def log_dataset(self, run_id: str, prepared: PreparedPair) -> None:
        """Log the data set as input of a run, by its own hash rather than one over a copy of the matrix."""
        shape = {"n_spots": prepared.n_spots, "n_cells": prepared.n_cells, "n_genes": len(prepared.panel)}
        source = json.dumps({"name": prepared.name, "sha256": prepared.sha256})
        dataset = Dataset(prepared.name, _digest(prepared), "local", source, profile=json.dumps(shape))
        with _readable_errors(self.uri, "log the data set"):
            self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def last_epoch(self, run_id: str) -> int:
        """Last epoch a run has metrics of; 0 for none."""
        with _readable_errors(self.uri, "read metrics"):
            return max((m.step for m in self.client.get_metric_history(run_id, "train_loss")), default=0)

    def log_epochs(self, run_id: str, epochs: list[Mapping[str, float]]) -> None:
        """Metrics of several epochs in one write; the step is `epoch`, the time `time_ms` where it is given."""
        now = time.time() * 1000
        metrics = [
            Metric(key, float(value), int(epoch.get("time_ms", now)), int(epoch["epoch"]))
            for epoch in epochs
            for key, value in epoch.items()
            if key not in _NOT_METRICS and math.isfinite(value)
        ]
        with _readable_errors(self.uri, "log metrics"):
            for start in range(0, len(metrics), 1000):
                self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def log_model(self, run_id: str, folder: Path, tags: Mapping[str, str]) -> str:
        """Attach the model saved in `folder`; it loads as `runs:/RUN_ID/model`. Returns its id."""
        with _readable_errors(self.uri, "log a model"):
            return write_model(self.client, self.experiment_id, run_id, folder, tags)

    def finish(
        self,
        run_id: str,
        summary: Mapping[str, float],
        per_gene: pd.DataFrame,
        model_id: str | None = None,
        prepared: PreparedPair | None = None,
    ) -> None:
        """Write final metrics and the per-gene table, then end the run: a FINISHED run is a whole one.

        With a model, the metrics are its metrics too, on the data set given.
        """
        now = int(time.time() * 1000)
        link: dict[str, str] = {}
        if model_id and prepared:
            link = {"model_id": model_id, "dataset_name": prepared.name, "dataset_digest": _digest(prepared)}
        final = [Metric(key, float(value), now, 0, **link) for key, value in summary.items() if math.isfinite(value)]
        with _readable_errors(self.uri, "log results"):
            self.client.log_batch(run_id, metrics=final)
            self.client.log_text(run_id, per_gene.to_json(orient="split", index=False), "per_gene.json")
            self.client.set_terminated(run_id, FINISHED)

    def summarise_study(self, run_id: str, metrics: Mapping[str, float], note: str) -> None:
        """Write what a study found to its parent run: metrics and a description in Markdown."""
        now = int(time.time() * 1000)
        found = [Metric(key, float(value), now, 0) for key, value in metrics.items() if math.isfinite(value)]
        with _readable_errors(self.uri, "summarise a study"):
            for start in range(0, len(found), 1000):
                self.client.log_batch(run_id, metrics=found[start : start + 1000])
        self.describe(run_id, note)

    def share_view(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep a view of the run page, which opens with `viewStateShareKey=KEY` in the address."""
        with _readable_errors(self.uri, "keep a view"):
            self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{key}", json.dumps(state))

    def describe(self, run_id: str, note: str) -> None:
        """The run's description, in Markdown."""
        self.set_tag(run_id, _NOTE, note)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        with _readable_errors(self.uri, "set a tag"):
            self.client.set_tag(run_id, key, value[:5000])

    def add_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags beside those a run has."""
        with _readable_errors(self.uri, "set tags"):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def curve(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric of a run, in order."""
        with _readable_errors(self.uri, "read metrics"):
            history = self.client.get_metric_history(run_id, key)
        return sorted((m.step, m.value) for m in history if m.step > 0)  # step 0 is the value at the end

    def fail(self, run_id: str, message: str, detail: str) -> None:
        with _readable_errors(self.uri, "log a failure"):
            self.client.set_tag(run_id, "cgd.error", message[:5000])
            self.client.log_text(run_id, detail, "error.txt")
            self.client.set_terminated(run_id, FAILED)

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        with _readable_errors(self.uri, f"attach {folder}"):
            self.client.log_artifacts(run_id, str(folder), name)

    def end(self, run_id: str, status: str) -> None:
        with _readable_errors(self.uri, "end a run"):
            self.client.set_terminated(run_id, status)


def _digest(prepared: PreparedPair) -> str:
    return prepared.sha256[:16]
