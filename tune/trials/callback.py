"""The driver's side of a running study: trial events become MLflow runs and lines on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cgd.config import says_where
from cgd.data.preprocess import PreparedPair
from cgd.training.checkpoint import LOST, CheckpointFolder
from tune.checkpoints.mirror import CheckpointMirror
from tune.store.outbox import Outbox
from tune.store.outbox_files import RUN_ID, opening
from tune.store.tracking import FAILED, FINISHED, KILLED, NOTE, STUDY_TAG, RunRecord, describe_dataset, table_text
from tune.terminal.progress import Progress
from tune.trials.mlflow_notes import trial_note
from tune.trials.trial import EPOCH, ERROR, HAS_MODEL, MODEL, RESULT, TAGS, TrialSpec
from tune.trials.tuning import OpenRun, RunCallback, message_of_death, remember_error, say_lost_checkpoints


class TrackingCallback(RunCallback):
    """Hands on what trials report; keeps how each fingerprint ended.

    Parameters
    ----------
    outbox
        On the way to the store.
    progress
        The terminal.
    specs
        Trials by fingerprint.
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
        outbox: Outbox,
        progress: Progress,
        specs: dict[str, TrialSpec],
        parents: dict[str, str],
        tags: dict[str, dict[str, str]],
        datasets: dict[str, PreparedPair],
        checkpoints: Path,
        log_models: bool = True,
        mirror: CheckpointMirror | None = None,
    ) -> None:
        self.outbox, self.progress, self.specs = outbox, progress, specs
        self.parents, self.tags, self.datasets = parents, tags, datasets
        self.checkpoints, self.log_models, self.mirror = checkpoints, log_models, mirror
        self.outcomes: dict[str, RunRecord] = {}  # without the run's id, which the store alone knows
        self._open: dict[str, OpenRun] = {}

    @remember_error
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        spec = self.specs[trial.config["trial"]]
        if spec.fingerprint in self._open:
            return  # a restart after its worker died
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
        about = {
            "note": trial_note(spec.name, _levels(tags), spec.config, RUN_ID, self._keeps_model(spec)),
            "params": _without_runtime(spec),
            "texts": {"config.yaml": spec.config.to_yaml(), "split.json": spec.split.to_json()},
            "datasets": [describe_dataset(self.datasets[spec.prepared])],
        }
        self.outbox.put(spec.fingerprint, opening("trial", spec.name, tags, **about))
        self._open[spec.fingerprint] = OpenRun(spec.fingerprint)
        self.progress.start(spec.name, spec.n_epochs, spec.dataset, spec.has_epochs)

    @remember_error
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        spec = self.specs[trial.config["trial"]]
        run = self._open[spec.fingerprint]
        if EPOCH in result:
            metrics = result[EPOCH]
            run.add(metrics, self.outbox)
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
                run.flush(self.outbox)
                self.outbox.end(run.key, KILLED)

    def _finish(self, spec: TrialSpec, run: OpenRun, result: dict[str, Any]) -> None:
        run.flush(self.outbox)
        summary, per_gene = dict(result["summary"]), table_text(pd.DataFrame(result["per_gene"]))
        lost = {what: summary.pop(what) for what in LOST & summary.keys()}
        say_lost_checkpoints(self.outbox, run.key, spec.name, lost)
        if "val_pcc" in summary:  # the curve of the epochs bears that name
            summary["kept_val_pcc"] = summary.pop("val_pcc")
        for key, value in result.get(TAGS, {}).items():
            self.outbox.tag(run.key, key, value)
        has_model = result.get(HAS_MODEL, True)
        model = self._model(spec, has_model) if self._keeps_model(spec) else None
        self.outbox.finish(run.key, summary, per_gene, model)
        self.outcomes[spec.fingerprint] = RunRecord("", FINISHED)
        if self.outbox.is_safe(run.key):
            self._forget_checkpoints(spec.fingerprint)
        text = f"PCC {summary.get('test_pcc', float('nan')):.3f} in {summary['wall_seconds']:.0f} s"
        self.progress.finish(spec.name, text)

    def _forget_checkpoints(self, fingerprint: str) -> None:
        CheckpointFolder(self.checkpoints / fingerprint, fingerprint).clear()
        if self.mirror:
            self.mirror.forget(fingerprint)

    def _keeps_model(self, spec: TrialSpec) -> bool:
        return self.log_models and spec.has_epochs

    def _model(self, spec: TrialSpec, has_model: bool) -> tuple[Path, dict[str, str], dict[str, str]] | None:
        """Folder, tags and data set of the model of a trial; a tag of its run says why there is none."""
        if not has_model:
            reason = "the prediction of this trial under the other protocol was scored; the model is with that run"
            self.outbox.tag(spec.fingerprint, "cgd.no_model", reason)
            return None
        folder = self.checkpoints / spec.fingerprint / MODEL
        if self.mirror and not folder.is_dir():
            self.mirror.try_to_fetch(folder)
        if folder.is_dir():
            tags = {"cgd.dataset": spec.dataset, "cgd.seed": str(spec.seed), "cgd.fold": str(spec.fold)}
            tags |= self.tags[spec.fingerprint]
            note = trial_note(spec.name, _levels(tags), spec.config, RUN_ID, has_model=True)
            return folder, {**tags, NOTE: note}, describe_dataset(self.datasets[spec.prepared])
        # the trial saved it or would have failed: it ran on a machine that does not share the output folder
        mend = "give all machines of the cluster the same --output folder, or a --checkpoint-storage"
        reason = f"the driver sees no {folder}; {mend}"
        self.outbox.tag(spec.fingerprint, "cgd.no_model", reason)
        return None

    def _fail(self, spec: TrialSpec, run: OpenRun, message: str, detail: str, kind: str) -> None:
        run.flush(self.outbox)
        self.outbox.fail(run.key, f"{kind}: {message}", detail)
        self.outcomes[spec.fingerprint] = RunRecord("", FAILED, f"{kind}: {message}")
        self.progress.finish(spec.name, f"FAILED: {message}", failed=True)


def _levels(tags: Mapping[str, str]) -> dict[str, str]:
    """Study -> level, from a trial's tags."""
    return {key.removeprefix(STUDY_TAG): value for key, value in tags.items() if key.startswith(STUDY_TAG)}


def _runtime(spec: TrialSpec) -> dict[str, Any]:
    return {path: value for path, value in spec.config.flatten().items() if says_where(path)}


def _without_runtime(spec: TrialSpec) -> dict[str, Any]:
    return {path: value for path, value in spec.config.flatten_used().items() if not says_where(path)}
