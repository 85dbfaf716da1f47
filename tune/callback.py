"""The driver's side of a running study: trial events become MLflow runs and lines on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from cgd.config import says_where
from cgd.data.preprocess import PreparedPair
from cgd.errors import TrackingError
from cgd.training.checkpoint import LOST, CheckpointFolder
from tune.checkpoint_mirror import CheckpointMirror
from tune.progress import Progress
from tune.study_summary import trial_note
from tune.tracking import FAILED, FINISHED, KILLED, STUDY_TAG, RunRecord, Tracking
from tune.trial import EPOCH, ERROR, HAS_MODEL, MODEL, RESULT, TAGS, TrialSpec
from tune.tuning import OpenRun, RunCallback, message_of_death, remember_error

_log = logging.getLogger(__name__)


class TrackingCallback(RunCallback):
    """Writes what trials report; keeps the outcome of each fingerprint.

    Parameters
    ----------
    tracking
        The store.
    progress
        The terminal.
    specs
        Trials by fingerprint.
    known
        Runs the store already has, by fingerprint.
    parents
        Parent run of each fingerprint.
    tags
        Extra tags of each fingerprint's run.
    datasets
        Prepared pairs, to log as inputs.
    checkpoints
        Where trials keep their checkpoints and models; those of a finished trial are removed.
    log_models
        Attach the fitted model of each finished trial.
    mirror
        Where they are kept beside that; None for nowhere.
    """

    def __init__(
        self,
        tracking: Tracking,
        progress: Progress,
        specs: dict[str, TrialSpec],
        known: dict[str, RunRecord],
        parents: dict[str, str],
        tags: dict[str, dict[str, str]],
        datasets: dict[str, PreparedPair],
        checkpoints: Path,
        log_models: bool = True,
        mirror: CheckpointMirror | None = None,
    ) -> None:
        self.tracking, self.progress, self.specs = tracking, progress, specs
        self.known, self.parents, self.tags, self.datasets = known, parents, tags, datasets
        self.checkpoints, self.log_models, self.mirror = checkpoints, log_models, mirror
        self.outcomes: dict[str, RunRecord] = {}
        self._open: dict[str, OpenRun] = {}

    @remember_error
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = self.specs[trial.config["trial"]]
        if spec.fingerprint in self._open:
            return  # a restart after its worker died
        record = self.known.get(spec.fingerprint)
        tags = {
            "mlflow.parentRunId": self.parents[spec.fingerprint],
            "cgd.dataset": spec.dataset,
            "cgd.seed": str(spec.seed),
            "cgd.fold": str(spec.fold),
            "cgd.protocol": spec.config.evaluation.protocol,
            "cgd.code_version": spec.code_version,
            # where it runs may differ from one attempt to the next, and MLflow's parameters cannot change
            **{f"cgd.{path}": str(value) for path, value in _runtime(spec).items()},
            **self.tags[spec.fingerprint],
            "cgd.method": spec.config.method,
        }
        if spec.brought:
            tags["cgd.prediction_sha256"] = spec.brought.sha256
        run_id = self.tracking.open_run("trial", spec.fingerprint, spec.name, tags, record.run_id if record else None)
        self.tracking.describe(
            run_id, trial_note(spec.name, _levels(tags), spec.config, run_id, self._keeps_model(spec))
        )
        last = self.tracking.last_epoch(run_id)
        if not last:
            self.tracking.log_params(run_id, _without_runtime(spec))
            self.tracking.log_texts(run_id, {"config.yaml": spec.config.to_yaml(), "split.json": spec.split.to_json()})
            self.tracking.log_dataset(run_id, self.datasets[spec.prepared])
        self._open[spec.fingerprint] = OpenRun(run_id, last)
        self.progress.start(spec.name, spec.n_epochs, spec.dataset, spec.has_epochs)

    @remember_error
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        spec = self.specs[trial.config["trial"]]
        run = self._open[spec.fingerprint]
        if EPOCH in result:
            metrics = result[EPOCH]
            run.add(metrics, self.tracking)
            self.progress.epoch(spec.name, int(metrics["epoch"]), metrics)
        elif RESULT in result:
            self._finish(spec, run, result[RESULT])
        elif ERROR in result:
            self._fail(spec, run, result[ERROR]["message"], result[ERROR]["traceback"], result[ERROR]["type"])

    @remember_error
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = self.specs[trial.config["trial"]]
        run = self._open.get(spec.fingerprint)
        if run is not None and spec.fingerprint not in self.outcomes:
            detail = message_of_death(trial)
            reasons = [line.strip() for line in detail.splitlines() if line.strip()]
            self._fail(spec, run, f"the worker process died: {' '.join(reasons[-3:])[:500]}", detail, "WorkerDied")

    def close(self) -> None:
        """After a stop: keep what unfinished trials reported, and end their runs as KILLED."""
        for fingerprint, run in self._open.items():
            if fingerprint not in self.outcomes:
                with suppress(TrackingError):  # the store may take the end though it did not take the metrics
                    run.flush(self.tracking)
                self.tracking.end(run.run_id, KILLED)

    def _finish(self, spec: TrialSpec, run: OpenRun, result: dict[str, Any]) -> None:
        run.flush(self.tracking)
        summary, per_gene = dict(result["summary"]), pd.DataFrame(result["per_gene"])
        self._say_lost_checkpoints(spec, run, summary)
        if "val_pcc" in summary:  # the curve of the epochs bears that name
            summary["kept_val_pcc"] = summary.pop("val_pcc")
        for key, value in result.get(TAGS, {}).items():
            self.tracking.set_tag(run.run_id, key, value)
        has_model = result.get(HAS_MODEL, True)
        model_id = self._attach_model(spec, run, has_model) if self._keeps_model(spec) else None
        self.tracking.finish(run.run_id, summary, per_gene, model_id, self.datasets[spec.prepared])
        self.outcomes[spec.fingerprint] = RunRecord(run.run_id, FINISHED)
        CheckpointFolder(self.checkpoints / spec.fingerprint, spec.fingerprint).clear()  # the store has it all now
        if self.mirror:
            self.mirror.forget(spec.fingerprint)
        text = f"PCC {summary.get('test_pcc', float('nan')):.3f} in {summary['wall_seconds']:.0f} s"
        self.progress.finish(spec.name, text)

    def _say_lost_checkpoints(self, spec: TrialSpec, run: OpenRun, summary: dict[str, float]) -> None:
        """Tag the run with how many checkpoints were damaged or not kept; none of that is a result."""
        for key in LOST & summary.keys():
            count = int(summary.pop(key))
            self.tracking.set_tag(run.run_id, f"cgd.{key}", str(count))
            _log.warning("%s: %s %s; training went on", spec.name, count, key.replace("_", " "))

    def _keeps_model(self, spec: TrialSpec) -> bool:
        return self.log_models and spec.has_epochs

    def _attach_model(self, spec: TrialSpec, run: OpenRun, has_model: bool) -> str | None:
        if not has_model:
            reason = "the prediction of this trial under the other protocol was scored; the model is with that run"
            self.tracking.set_tag(run.run_id, "cgd.no_model", reason)
            return None
        folder = self.checkpoints / spec.fingerprint / MODEL
        if self.mirror and not folder.is_dir():
            self.mirror.try_to_fetch(folder)
        if folder.is_dir():
            tags = {"cgd.dataset": spec.dataset, "cgd.seed": str(spec.seed), "cgd.fold": str(spec.fold)}
            tags |= self.tags[spec.fingerprint]
            note = trial_note(spec.name, _levels(tags), spec.config, run.run_id, has_model=True)
            return self.tracking.log_model(run.run_id, folder, {**tags, "mlflow.note.content": note})
        # the trial saved it or would have failed: it ran on a machine that does not share the output folder
        mend = "give all machines of the cluster the same --output folder, or a --checkpoint-storage"
        reason = f"the driver sees no {folder}; {mend}"
        self.tracking.set_tag(run.run_id, "cgd.no_model", reason)
        return None

    def _fail(self, spec: TrialSpec, run: OpenRun, message: str, detail: str, kind: str) -> None:
        run.flush(self.tracking)
        self.tracking.fail(run.run_id, f"{kind}: {message}", detail)
        self.outcomes[spec.fingerprint] = RunRecord(run.run_id, FAILED, f"{kind}: {message}")
        self.progress.finish(spec.name, f"FAILED: {message}", failed=True)


def _levels(tags: Mapping[str, str]) -> dict[str, str]:
    """Study -> level, from a trial's tags."""
    return {key.removeprefix(STUDY_TAG): value for key, value in tags.items() if key.startswith(STUDY_TAG)}


def _runtime(spec: TrialSpec) -> dict[str, Any]:
    return {path: value for path, value in spec.config.flatten().items() if says_where(path)}


def _without_runtime(spec: TrialSpec) -> dict[str, Any]:
    return {path: value for path, value in spec.config.flatten_used().items() if not says_where(path)}
