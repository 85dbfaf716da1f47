"""The only writer of MLflow: one run per fingerprint, forever.

All writing happens on the driver. A run is found again by its tag `cgd.fingerprint`, so a study run twice, killed or
resumed neither loses nor duplicates one.
"""

from __future__ import annotations

import hashlib
import json
import math
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from ablations.findings.stored import PER_GENE
from cgd.data.preprocess import PreparedPair
from tune.store.claims import Claims
from tune.store.mlflow_errors import translate_errors
from tune.store.model import write_model
from tune.store.reading import DRIVER, EXPERIMENT, FAILED, FINISHED, KILLED, NOTE, RUNNING, STOPPED, Reader

_NOT_METRICS = {"epoch", "time_ms"}
_BATCH = 1000  # metrics that a server takes at once


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


class Tracking(Reader):
    """Writes runs to one tracking store; makes the store where there is none.

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
        super().__init__(uri)
        self.is_shared = not uri.startswith("sqlite")
        place = f"{socket.gethostname()}:{artifact_root.resolve()}"
        self.driver = hashlib.sha256(place.encode()).hexdigest()[:12]
        if not self.experiment_id:
            location = None if self.is_shared else artifact_root.resolve().as_uri()
            with translate_errors(uri, "make the experiment"):
                self.experiment_id = self._create_experiment(location)

    def _create_experiment(self, location: str | None) -> str:
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(self.client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags))
        except MlflowException:  # another command on the same server may have made it in between
            if made := self._find_experiment():
                return made
            raise

    def mark_killed(self) -> int:
        """End runs that a killed driver left running; returns how many. Only the sole user of a store may call it."""
        stale = [run.info.run_id for run in self._search("attributes.status = 'RUNNING'")]
        for run_id in stale:
            self.end(run_id, KILLED)
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
        with translate_errors(self.uri, "start a run"):
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
        return Claims(self, self.driver, self.add_tags).claim_run(key, name, tags, at)

    def _reopen(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.update_run(run_id, status=RUNNING)
        known = self.client.get_run(run_id).data.tags
        for outdated in {"cgd.error", STOPPED} & known.keys():
            self.client.delete_tag(run_id, outdated)
        kept = {"mlflow.parentRunId"} & known.keys()  # a run stays below the study that first asked for it
        self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items() if k not in kept])

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        with translate_errors(self.uri, "log parameters"):
            self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_texts(self, run_id: str, texts: Mapping[str, str]) -> None:
        """Artifacts by file name."""
        for name, text in texts.items():
            with translate_errors(self.uri, f"write {name}"):
                self.client.log_text(run_id, text, name)

    def log_dataset(self, run_id: str, dataset: Mapping[str, str]) -> None:
        """Log a data set, as `describe_dataset` has it, as input of a run."""
        with translate_errors(self.uri, "log the data set"):
            context = [InputTag("mlflow.data.context", "training")]
            self.client.log_inputs(run_id, [DatasetInput(Dataset(source_type="local", **dataset), context)])

    def log_epochs(self, run_id: str, epochs: Sequence[Mapping[str, float]]) -> None:
        """Metrics of several epochs in one write; the step is `epoch`, the time `time_ms` where it is given."""
        now = time.time() * 1000
        batch: list[Metric] = []
        with translate_errors(self.uri, "log metrics"):
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
        with translate_errors(self.uri, "log a model"):
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
            The table as `write_per_gene` has it.
        model
            `model_id`, `dataset_name` and `dataset_digest`: the metrics are the model's too, on that data set.
        at
            When it ended, in milliseconds; now if omitted.
        """
        when = at or int(time.time() * 1000)
        link = dict(model or {})
        final = [Metric(key, float(value), when, 0, **link) for key, value in summary.items() if math.isfinite(value)]
        with translate_errors(self.uri, "log results"):
            self.client.log_batch(run_id, metrics=final)
            self.client.log_text(run_id, per_gene, PER_GENE)
            self.client.set_terminated(run_id, FINISHED, at)

    def summarise_study(self, run_id: str, metrics: Mapping[str, float], note: str) -> None:
        """Write what a study found to its parent run: metrics and a description in Markdown."""
        now = int(time.time() * 1000)
        found = [Metric(key, float(value), now, 0) for key, value in metrics.items() if math.isfinite(value)]
        with translate_errors(self.uri, "summarise a study"):
            for start in range(0, len(found), _BATCH):
                self.client.log_batch(run_id, metrics=found[start : start + _BATCH])
        self.describe(run_id, note)

    def share_view(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep a view of the run page, which opens with `viewStateShareKey=KEY` in the address."""
        with translate_errors(self.uri, "keep a view"):
            self.client.set_experiment_tag(self.experiment_id, f"mlflow.sharedViewState.{key}", json.dumps(state))

    def describe(self, run_id: str, note: str) -> None:
        """The run's description, in Markdown."""
        self.set_tag(run_id, NOTE, note)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        with translate_errors(self.uri, "set a tag"):
            self.client.set_tag(run_id, key, value[:5000])

    def add_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags beside those a run has."""
        with translate_errors(self.uri, "set tags"):
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def fail(self, run_id: str, message: str, detail: str, at: int | None = None) -> None:
        with translate_errors(self.uri, "log a failure"):
            self.client.set_tag(run_id, "cgd.error", message[:5000])
            self.client.log_text(run_id, detail, "error.txt")
            self.client.set_terminated(run_id, FAILED, at)

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        with translate_errors(self.uri, f"attach {folder}"):
            self.client.log_artifacts(run_id, str(folder), name)

    def end(self, run_id: str, status: str, at: int | None = None) -> None:
        with translate_errors(self.uri, "end a run"):
            self.client.set_terminated(run_id, status, at)
