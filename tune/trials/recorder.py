"""What becomes of reports: MLflow runs, by way of the outbox, and lines on the terminal."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.findings.stored import write_per_gene
from cgd.config import Config, says_where
from cgd.data.preprocess import PreparedPair
from cgd.metrics.facts import METRICS, PRIMARY
from tune.store.outbox import Outbox
from tune.store.outbox_files import RUN_ID, Entry, Open
from tune.store.reading import FAILED, FINISHED, KILLED, NOTE, STUDY_TAG, RunRecord
from tune.store.tracking import describe_dataset
from tune.terminal.progress import Progress
from tune.trials.callback import Listener
from tune.trials.failure import Failure
from tune.trials.messages import METRIC, Epoch, TrialResult
from tune.trials.mlflow_notes import write_trial_note
from tune.trials.spec import TrialSpec
from tune.trials.trial import MODEL, Work

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 5.0
# scores of the epoch that was kept; by its own name each is a curve, of which MLflow shows the last point
KEPT = {name: f"kept_{name}" for name in METRIC.values()}


@dataclass
class _OpenRun:
    """A run in progress and its epochs that are not yet on their way to the store."""

    name: str
    last_epoch: int = 0
    pending: list[Mapping[str, float]] = field(default_factory=list)
    flushed: float = field(default_factory=time.monotonic)


class Recorder(Listener):
    """Writes what trials report."""

    def __init__(self, outbox: Outbox, progress: Progress, work: Work) -> None:
        self.outbox, self.progress, self.work = outbox, progress, work
        # how each key ended; without the run's id, which the store alone knows
        self.outcomes: dict[str, RunRecord] = {}
        self._open: dict[str, _OpenRun] = {}

    @abstractmethod
    def describe(self, key: str) -> tuple[str, Entry]:
        """Name of a trial, and what its run begins with."""

    @abstractmethod
    def show_start(self, key: str, name: str) -> None:
        """Tell the terminal that a trial runs."""

    @abstractmethod
    def show_epoch(self, name: str, epoch: Epoch) -> None:
        """Tell the terminal how far it is."""

    @abstractmethod
    def write_result(self, key: str, name: str, result: TrialResult) -> str:
        """Write a result to its run; what the terminal says of it."""

    def start(self, key: str) -> None:
        name, entry = self.describe(key)
        self.outbox.put(key, entry)
        self._open[key] = _OpenRun(name)
        self.show_start(key, name)

    def hear_epoch(self, key: str, epoch: Epoch) -> None:
        run = self._open[key]
        number = int(epoch.metrics["epoch"])
        if number > run.last_epoch:  # once: after its worker died a trial reports its earlier epochs again
            run.pending.append(epoch.metrics)
            run.last_epoch = number
        if time.monotonic() - run.flushed > _FLUSH_SECONDS:
            self._flush(key)
        self.show_epoch(run.name, epoch)

    def finish(self, key: str, result: TrialResult) -> None:
        name = self._flush(key)
        tag_lost_checkpoints(self.outbox, key, name, result.lost)
        for tag, value in result.tags.items():
            self.outbox.tag(key, tag, value)
        text = self.write_result(key, name, result)
        self.outcomes[key] = RunRecord("", FINISHED)
        self.progress.finish(name, text)

    def fail(self, key: str, failure: Failure) -> None:
        name = self._flush(key)
        reason = f"{failure.kind}: {failure.message}"
        self.outbox.fail(key, reason, failure.traceback)
        self.outcomes[key] = RunRecord("", FAILED, reason)
        self.progress.finish(name, f"FAILED: {failure.message}", failed=True)

    def forget(self, key: str) -> None:
        if self.outbox.is_safe(key):
            self.work.forget(key)

    def stop(self, key: str) -> None:
        self.close([key])

    def close(self, unfinished: Iterable[str]) -> None:
        """Keep what unfinished trials reported, and end their runs as KILLED."""
        for key in unfinished:
            self._flush(key)
            self.outbox.end(key, KILLED)

    def _flush(self, key: str) -> str:
        """Hand over the pending epochs of a run; its name."""
        run = self._open[key]
        self.outbox.add_epochs(key, run.pending)
        run.pending, run.flushed = [], time.monotonic()
        return run.name


def tag_lost_checkpoints(outbox: Outbox, key: str, name: str, lost: Mapping[str, float]) -> None:
    """Tag a run with how many checkpoints were damaged or not kept, and why; none of that is a result."""
    for what, count in lost.items():
        outbox.tag(key, f"cgd.{what}", str(int(count)))
        _log.warning("%s: %s %s; training went on", name, int(count), what.replace("_", " "))


def run_params(config: Config) -> dict[str, Any]:
    """MLflow's parameters: not where it runs, which may differ from one attempt to the next."""
    return {path: value for path, value in config.flatten_used().items() if not says_where(path)}


class StudyRecorder(Recorder):
    """Writes the trials of studies."""

    def __init__(
        self,
        outbox: Outbox,
        progress: Progress,
        work: Work,  # where checkpoints and models of the trials lie, and whether the models are kept
        specs: Mapping[str, TrialSpec],  # by fingerprint, as the next two
        parents: Mapping[str, str],  # parent run
        tags: Mapping[str, dict[str, str]],  # extra tags of the trial's run
        datasets: Mapping[str, PreparedPair],  # prepared pairs, to log as inputs
    ) -> None:
        super().__init__(outbox, progress, work)
        self.specs, self.parents, self.tags, self.datasets = specs, parents, tags, datasets

    def describe(self, key: str) -> tuple[str, Entry]:
        spec = self.specs[key]
        tags = {
            "mlflow.parentRunId": self.parents[key],
            "cgd.dataset": spec.dataset,
            "cgd.seed": str(spec.seed),
            "cgd.fold": str(spec.fold),
            "cgd.protocol": spec.config.evaluation.protocol,
            "cgd.code_version": spec.code_version,
            # where it runs may differ from one attempt to the next, and MLflow's parameters cannot change
            **{f"cgd.{path}": str(value) for path, value in spec.config.flatten().items() if says_where(path)},
            **self.tags[key],
            "cgd.method": spec.config.method,
        }
        if spec.brought:
            tags["cgd.prediction_sha256"] = spec.brought.sha256
        entry = Open(
            kind="trial",
            name=spec.name,
            tags=tags,
            note=write_trial_note(spec.name, _levels(tags), spec.config, RUN_ID, self._keeps_model(spec)),
            params=run_params(spec.config),
            texts={"config.yaml": spec.config.to_yaml(), "split.json": spec.split.to_json()},
            datasets=[describe_dataset(self.datasets[spec.prepared])],
        )
        return spec.name, entry

    def show_start(self, key: str, name: str) -> None:
        spec = self.specs[key]
        self.progress.start(name, spec.n_epochs, spec.dataset, spec.has_epochs)

    def show_epoch(self, name: str, epoch: Epoch) -> None:
        self.progress.report_epoch(name, int(epoch.metrics["epoch"]), epoch.metrics)

    def write_result(self, key: str, name: str, result: TrialResult) -> str:
        spec, summary = self.specs[key], {KEPT.get(name, name): value for name, value in result.summary.items()}
        model = self._model(spec, result.has_model) if self._keeps_model(spec) else None
        self.outbox.finish(key, summary, write_per_gene(result.per_gene), model)
        self.forget(key)
        return (
            f"{METRICS[PRIMARY].label} {summary.get('test_pcc', float('nan')):.3f} in {summary['wall_seconds']:.0f} s"
        )

    def _keeps_model(self, spec: TrialSpec) -> bool:
        return self.work.log_models and spec.has_epochs

    def _model(self, spec: TrialSpec, has_model: bool) -> tuple[Path, dict[str, str], dict[str, str]] | None:
        """Folder, tags and data set of the model of a trial; a tag of its run says why there is none."""
        if not has_model:
            reason = "the prediction of this trial under the other protocol was scored; the model is with that run"
            self.outbox.tag(spec.fingerprint, "cgd.no_model", reason)
            return None
        folder = self.work.checkpoints / spec.fingerprint / MODEL
        if self.work.mirror and not folder.is_dir():
            self.work.mirror.try_to_fetch(folder)
        if folder.is_dir():
            tags = {"cgd.dataset": spec.dataset, "cgd.seed": str(spec.seed), "cgd.fold": str(spec.fold)}
            tags |= self.tags[spec.fingerprint]
            note = write_trial_note(spec.name, _levels(tags), spec.config, RUN_ID, has_model=True)
            return folder, {**tags, NOTE: note}, describe_dataset(self.datasets[spec.prepared])
        # the trial saved it or would have failed: it ran on a machine that does not share the output folder
        mend = "give all machines of the cluster the same --output folder, or a --checkpoint-storage"
        reason = f"the driver sees no {folder}; {mend}"
        self.outbox.tag(spec.fingerprint, "cgd.no_model", reason)
        return None


def _levels(tags: Mapping[str, str]) -> dict[str, str]:
    """Study -> level, from a trial's tags."""
    return {key.removeprefix(STUDY_TAG): value for key, value in tags.items() if key.startswith(STUDY_TAG)}
