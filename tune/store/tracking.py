"""The only writer of MLflow: one run per fingerprint, for ever.

All writing happens on the driver. A run is found again by its tag `cgd.fingerprint`, so a study run twice, killed or
resumed neither loses nor duplicates one.
"""

from __future__ import annotations

import hashlib
import json
import math
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from cgd.data.preprocess import PreparedPair
from tune.store.claims import DRIVER, Claims
from tune.store.mlflow_errors import readable_errors
from tune.store.model import write_model

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


__all__ = ["FAILED", "FINISHED", "KILLED", "RUNNING", "STUDY_TAG", "OlderRun", "RunRecord", "Tracking", "sqlite_file"]


def sqlite_file(uri: str) -> Path | None:
    """The file of a `sqlite:///PATH` store; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


EXPERIMENT = "causalged"
_NOT_METRICS = {"epoch", "time_ms"}
_BATCH = 1000  # metrics that a server takes at once


class Tracking:
    """Runs of one tracking store.

    Parameters
    ----------
    uri
        Tracking URI.
    artifact_root
        Folder of the artifacts of a local database; a server decides for itself.

    Attributes
    ----------
    driver
        Names the output folder on its machine: the same for the same command run again.
    is_shared
        Whether commands on other output folders may write at the same time; files are locked for one.

    Raises
    ------
    TrackingError
        The store cannot be opened.
    """

    def __init__(self, uri: str, artifact_root: Path) -> None:
        self.uri, self.is_shared = uri, not uri.startswith("sqlite")
        place = f"{socket.gethostname()}:{artifact_root.resolve()}"
        self.driver = hashlib.sha256(place.encode()).hexdigest()[:12]
        with readable_errors(uri, "open the experiment"):
            self.client = MlflowClient(uri)
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                location = artifact_root.resolve().as_uri() if uri.startswith("sqlite") else None
                self.experiment_id = self._create_experiment(location)
            else:
                self.experiment_id = experiment.experiment_id

    def _create_experiment(self, location: str | None) -> str:
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(self.client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags))
        except MlflowException:  # another command on the same server may have made it in between
            made = self.client.get_experiment_by_name(EXPERIMENT)
            if made is None:
                raise
            return str(made.experiment_id)

    # ---- finding ----------------------------------------------------------------------------------------------------

    def runs(self, kind: str, key: str = "cgd.fingerprint") -> dict[str, RunRecord]:
        """Every run of a kind (`trial`, `floors`, `study`) by its `key` tag; the newest of a key first found."""
        found: dict[str, RunRecord] = {}
        for run in self._search(f"tags.`cgd.kind` = '{kind}'"):
            if key in run.data.tags:
                found.setdefault(run.data.tags[key], RunRecord.of(run))
        return found

    def find(self, fingerprint: str) -> RunRecord | None:
        """The run of a fingerprint; of several, which only older versions made, the first."""
        runs = self._search(f"tags.`cgd.fingerprint` = '{fingerprint}'")
        first = min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
        return RunRecord.of(first) if first else None

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
            with readable_errors(self.uri, "look for runs"):
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

    def open_run(
        self, kind: str, key: str, name: str, tags: Mapping[str, str], run_id: str | None = None, at: int | None = None
    ) -> str:
        """Create a run, or re-open the one given or found; either way it is RUNNING afterwards.

        Parameters
        ----------
        kind, key
            What it is a record of, and its fingerprint, by which it is found.
        at
            When it began, in milliseconds; now if omitted.
        """
        all_tags = {"cgd.kind": kind, "cgd.fingerprint": key, **tags}
        if self.is_shared:
            all_tags[DRIVER] = self.driver
        with readable_errors(self.uri, "start a run"):
            if run_id is None:  # another command on the same server may have made it since this one started
                made = self.find(key)
                run_id = made.run_id if made else None
            if run_id is None:
                return self._create(key, name, all_tags, at)
            self._reopen(run_id, all_tags)
            return run_id

    def _create(self, key: str, name: str, tags: dict[str, str], at: int | None) -> str:
        if not self.is_shared:
            return self.client.create_run(self.experiment_id, at, tags, run_name=name).info.run_id
        claims = Claims(self.client, self.experiment_id, self.driver, self._run_id, self.add_tags)
        return claims.run_of(key, name, tags, at)

    def _run_id(self, key: str) -> str | None:
        found = self.find(key)
        return found.run_id if found else None

    def _reopen(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.update_run(run_id, status=RUNNING)
        known = self.client.get_run(run_id).data.tags
        for outdated in {"cgd.error", STOPPED} & known.keys():
            self.client.delete_tag(run_id, outdated)
        kept = {"mlflow.parentRunId"} & known.keys()  # a run stays below the study that first asked for it
        self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items() if k not in kept])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        with readable_errors(self.uri, "log parameters"):
            self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Artifacts by file name."""
        for name, text in texts.items():
            with readable_errors(self.uri, f"write {name}"):
                self.client.log_text(run_id, text, name)

    def log_dataset(self, run_id: str, dataset: Mapping[str, str]) -> None:
        """Log a data set, as `describe_dataset` has it, as input of a run."""
        with readable_errors(self.uri, "log the data set"):
            context = [InputTag("mlflow.data.context", "training")]
            self.client.log_inputs(run_id, [DatasetInput(Dataset(source_type="local", **dataset), context)])

    def last_epoch(self, run_id: str) -> int:
        """Last epoch a run has metrics of; 0 for none."""
        with readable_errors(self.uri, "read metrics"):
            return max((m.step for m in self.client.get_metric_history(run_id, "train_loss")), default=0)

    def log_epochs(self, run_id: str, epochs: list[Mapping[str, float]]) -> None:
        """Metrics of several epochs in one write; the step is `epoch`, the time `time_ms` where it is given."""
        now = time.time() * 1000
        batch: list[Metric] = []
        with readable_errors(self.uri, "log metrics"):
            for epoch in epochs:  # an epoch is written whole: its last tells what a run has
                when, step = int(epoch.get("time_ms", now)), int(epoch["epoch"])
                finite = {k: float(v) for k, v in epoch.items() if k not in _NOT_METRICS and math.isfinite(v)}
                if len(batch) + len(finite) > _BATCH:
                    self.client.log_batch(run_id, metrics=batch)
                    batch = []
                batch += [Metric(key, value, when, step) for key, value in finite.items()]
            if batch:
                self.client.log_batch(run_id, metrics=batch)

    def log_model(self, run_id: str, folder: Path, tags: Mapping[str, str]) -> str:
        """Attach the model saved in `folder`; it loads as `runs:/RUN_ID/model`. Returns its id."""
        with readable_errors(self.uri, "log a model"):
            return write_model(self.client, self.experiment_id, run_id, folder, tags)

    def finish(
        self,
        run_id: str,
        summary: Mapping[str, float],
        per_gene: str,
        model: Mapping[str, str] | None = None,
        at: int | None = None,
    ) -> None:
        """Write final metrics and the per-gene table, then end the run: a FINISHED run is a whole one.

        Parameters
        ----------
        per_gene
            The table as `table_text` has it.
        model
            `model_id`, `dataset_name` and `dataset_digest`: the metrics are the model's too, on that data set.
        at
            When it ended, in milliseconds; now if omitted.
        """
        when = at or int(time.time() * 1000)
        link = dict(model or {})
        final = [Metric(key, float(value), when, 0, **link) for key, value in summary.items() if math.isfinite(value)]
        with readable_errors(self.uri, "log results"):
            self.client.log_batch(run_id, metrics=final)
            self.client.log_text(run_id, per_gene, "per_gene.json")
            self.client.set_terminated(run_id, FINISHED, at)

    def summarise_study(self, run_id: str, metrics: Mapping[str, float], note: str) -> None:
        """Write what a study found to its parent run: metrics and a description in Markdown."""
        now = int(time.time() * 1000)
        found = [Metric(key, float(value), now, 0) for key, value in metrics.items() if math.isfinite(value)]
        with readable_errors(self.uri, "summarise a study"):
            for start in range(0, len(found), _BATCH):
                self.client.log_batch(run_id, metrics=found[start : start + _BATCH])
        self.describe(run_id, note)

    def share_view(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep a view of the run page, which opens with `viewStateShareKey=KEY` in the address."""
        with readable_errors(self.uri, "keep a view"):
            self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{key}", json.dumps(state))

    def describe(self, run_id: str, note: str) -> None:
        """The run's description, in Markdown."""
        self.set_tag(run_id, NOTE, note)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        with readable_errors(self.uri, "set a tag"):
            self.client.set_tag(run_id, key, value[:5000])

    def add_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags beside those a run has."""
        with readable_errors(self.uri, "set tags"):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def curve(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric of a run, in order."""
        with readable_errors(self.uri, "read metrics"):
            history = self.client.get_metric_history(run_id, key)
        return sorted((m.step, m.value) for m in history if m.step > 0)  # step 0 is the value at the end

    def fail(self, run_id: str, message: str, detail: str, at: int | None = None) -> None:
        with readable_errors(self.uri, "log a failure"):
            self.client.set_tag(run_id, "cgd.error", message[:5000])
            self.client.log_text(run_id, detail, "error.txt")
            self.client.set_terminated(run_id, FAILED, at)

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        with readable_errors(self.uri, f"attach {folder}"):
            self.client.log_artifacts(run_id, str(folder), name)

    def end(self, run_id: str, status: str, at: int | None = None) -> None:
        with readable_errors(self.uri, "end a run"):
            self.client.set_terminated(run_id, status, at)
