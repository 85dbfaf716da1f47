"""From studies to results: plan the trials, run what the store does not have, write the reports."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import ray
from ray import tune as ray_tune

from ablations.report import summary_text, write_report
from ablations.results import load_results
from ablations.study import Study
from cgd.config import Config
from cgd.data.catalog import PAPER_NAMES, load_dataset
from cgd.data.preprocess import PreparedPair, prepare
from cgd.data.split import GeneSplit, make_splits
from cgd.errors import CGDError
from cgd.evaluation import evaluate_floors, summarise_table, trial_fingerprint
from cgd.version import code_version, environment
from tune.callback import TrackingCallback
from tune.cluster import connected
from tune.progress import Progress
from tune.tracking import FAILED, FINISHED, KILLED, RUNNING, RunRecord, Tracking
from tune.trial import TrialSpec, run_trial


class OutputError(CGDError):
    """The output folder cannot be used."""


@dataclass(frozen=True)
class StudyPlan:
    """A study on its data sets: (level, trial) in order, and the floors it needs."""

    study: Study
    trials: tuple[tuple[str, TrialSpec], ...]
    floors: tuple[FloorSpec, ...]
    key: str


@dataclass(frozen=True)
class FloorSpec:
    """Floors of one data set and fold."""

    fingerprint: str
    dataset: str
    fold: int
    config: Config
    split: GeneSplit
    prepared: str


@dataclass
class Plan:
    """Everything a command will do."""

    base: Config
    datasets: dict[str, PreparedPair] = field(default_factory=dict)  # by prepared key
    dataset_keys: dict[str, str] = field(default_factory=dict)  # data set name -> prepared key under the base config
    studies: list[StudyPlan] = field(default_factory=list)

    @property
    def trials(self) -> dict[str, TrialSpec]:
        """Distinct trials by fingerprint: studies share those they have in common."""
        return {spec.fingerprint: spec for plan in self.studies for _, spec in plan.trials}

    @property
    def floors(self) -> dict[str, FloorSpec]:
        return {spec.fingerprint: spec for plan in self.studies for spec in plan.floors}


class Planner:
    """Turns studies into trials; each data set is read and prepared once."""

    def __init__(self, base: Config, datasets: list[str], seeds: list[int]) -> None:
        self.plan = Plan(base)
        self.seeds = seeds
        self._splits: dict[str, list[GeneSplit]] = {}
        self._pairs = {}
        for name in datasets:
            pair = load_dataset(name)
            if pair.name in self._pairs:
                raise CGDError(f"two data sets are called '{pair.name}'; give each folder its own name")
            self._pairs[pair.name] = pair
            self.plan.dataset_keys[pair.name] = self._prepare(pair.name, base)

    def add(self, study: Study) -> None:
        """Plan one study. Raises StudyError or DataError before anything runs."""
        base, names = self.plan.base, list(self._pairs)
        folds = list(range(base.split.n_folds))
        trials, floors = [], {}
        for trial in study.trials(base, names, self.seeds, folds):
            key = self._prepare(trial.dataset, trial.config)
            split = self._split(key, trial.config)[trial.fold]
            prepared = self.plan.datasets[key]
            name = _trial_name(study, trial.level, trial.dataset, trial.seed, trial.fold, base.split.n_folds)
            fingerprint = trial_fingerprint(trial.config, prepared, split)
            spec = TrialSpec(fingerprint, name, trial.dataset, trial.seed, trial.fold, trial.config, split, key)
            trials.append((trial.level, spec))
            floor = self._floor(trial.dataset, trial.fold)
            floors[floor.fingerprint] = floor
        digest = hashlib.sha256(json.dumps([study.name, [spec.fingerprint for _, spec in trials]]).encode())
        self.plan.studies.append(StudyPlan(study, tuple(trials), tuple(floors.values()), digest.hexdigest()[:16]))

    def _prepare(self, name: str, config: Config) -> str:
        """Key of the prepared pair; trials with the same data section share it."""
        key = f"{name}:{config.fingerprint_of('data')}"
        if key not in self.plan.datasets:
            self.plan.datasets[key] = prepare(self._pairs[name], config.data)
        return key

    def _split(self, key: str, config: Config) -> list[GeneSplit]:
        name = f"{key}:{config.fingerprint_of('split')}"
        if name not in self._splits:
            self._splits[name] = make_splits(self.plan.datasets[key].panel, config.split)
        return self._splits[name]

    def _floor(self, dataset: str, fold: int) -> FloorSpec:
        base, key = self.plan.base, self.plan.dataset_keys[dataset]
        split = self._split(key, base)[fold]
        prepared = self.plan.datasets[key]
        parts = [base.fingerprint_of(section) for section in ("data", "split", "evaluation")]
        parts += [prepared.sha256, split.sha256, code_version(), str(base.model.latent_dim)]
        fingerprint = "floors-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return FloorSpec(fingerprint, dataset, fold, base, split, key)


def _trial_name(study: Study, level: str, dataset: str, seed: int, fold: int, n_folds: int) -> str:
    folds = f" · fold {fold}" if n_folds > 1 else ""
    return f"{study.name}={level} · {dataset} · seed {seed}{folds}"


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Create the output folder and keep other commands out of it. Raises OutputError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("a+")
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror}; choose another folder with --output") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise OutputError(
                f"{output} is in use by process {lock.read() or 'unknown'}; wait for it, or choose another --output"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@dataclass(frozen=True)
class StudyOutcome:
    """How a study ended."""

    study: str
    parent_run_id: str
    report: Path
    summary: str
    failed: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


class Runner:
    """Runs a plan against a tracking store.

    Parameters
    ----------
    plan
        What to run.
    tracking
        The store.
    output
        Folder of checkpoints and reports.
    arguments
        The command's arguments, stored with the study.
    """

    def __init__(self, plan: Plan, tracking: Tracking, output: Path, arguments: dict[str, Any]) -> None:
        self.plan, self.tracking, self.output, self.arguments = plan, tracking, output, arguments
        self.known = tracking.runs("trial")
        self.known_floors = tracking.runs("floors")
        self.resumed: list[str] = []  # studies whose parent run was re-opened

    def missing(self) -> dict[str, TrialSpec]:
        """Trials the store has no finished run of."""
        return {key: spec for key, spec in self.plan.trials.items() if not self._is_finished(key)}

    def _is_finished(self, fingerprint: str) -> bool:
        return fingerprint in self.known and self.known[fingerprint].status == FINISHED

    def open_parents(self, resume: bool) -> dict[str, str]:
        """A parent run for each study: a new one, or with `resume` the one an interrupted command left."""
        parents = {}
        interrupted = self.tracking.runs("study", "cgd.study_key")
        for plan in self.plan.studies:
            record = interrupted.get(plan.key) if resume else None
            run_id = record.run_id if record and record.status in (KILLED, RUNNING) else None
            if run_id:
                self.resumed.append(plan.study.name)
            tags = {
                "cgd.study": plan.study.name,
                "cgd.study_key": plan.key,
                "cgd.protocol": self.plan.base.evaluation.protocol,
                "mlflow.note.content": f"{plan.study.question}\n\n{plan.study.hypothesis}",
            }
            name = f"{plan.study.name} · {', '.join(self.plan.dataset_keys)}"
            key = f"study-{plan.key}-{time.time_ns()}"
            parents[plan.study.name] = self.tracking.open_run("study", key, name, tags, run_id)
        return parents

    def run(self, parents: dict[str, str], address: str, max_concurrent: int | None) -> bool:
        """Compute missing floors, then run missing trials; False if the user stopped it."""
        floors, trials = self.missing_floors(), self.missing()
        if not floors and not trials:
            return True
        try:
            with connected(address) as n_cpus:
                self._run_floors(floors)
                return not trials or self._run_trials(trials, parents, min(max_concurrent or n_cpus, n_cpus))
        except BaseException:  # whatever ends the command, its runs must not stay RUNNING
            for run_id in parents.values():
                self.tracking.end(run_id, KILLED)
            raise

    def missing_floors(self) -> list[FloorSpec]:
        """Floors the store has no finished run of."""
        finished = {key for key, record in self.known_floors.items() if record.status == FINISHED}
        return [spec for key, spec in self.plan.floors.items() if key not in finished]

    def _run_floors(self, missing: list[FloorSpec]) -> None:
        remote = ray.remote(num_cpus=1)(evaluate_floors)
        shared = {spec.prepared: ray.put(self.plan.datasets[spec.prepared]) for spec in missing}
        pending = [(spec, remote.remote(shared[spec.prepared], spec.split, spec.config)) for spec in missing]
        for spec, reference in pending:
            table = ray.get(reference)
            record = self.known_floors.get(spec.fingerprint)
            tags = {"cgd.dataset": spec.dataset, "cgd.fold": str(spec.fold)}
            name = f"floors · {spec.dataset} · fold {spec.fold}"
            run_id = self.tracking.open_run("floors", spec.fingerprint, name, tags, record.run_id if record else None)
            self.tracking.finish(run_id, _floor_metrics(table), table)
            self.known_floors[spec.fingerprint] = RunRecord(run_id, FINISHED)

    def _run_trials(self, missing: dict[str, TrialSpec], parents: dict[str, str], max_concurrent: int) -> bool:
        used = {spec.prepared: self.plan.datasets[spec.prepared] for spec in missing.values()}
        checkpoints = str(self.output / "checkpoints")
        # with_parameters puts each argument into the object store once; trials read it from shared memory
        trainable = ray_tune.with_parameters(run_trial, specs=missing, datasets=used, checkpoints=checkpoints)
        n_epochs = sum(spec.config.train.epochs for spec in missing.values())
        with Progress(len(missing), n_epochs) as progress:
            callback = TrackingCallback(
                self.tracking,
                progress,
                missing,
                self.known,
                self._parents_of(parents),
                self._tags(),
                used,
                Path(checkpoints),
            )
            tuner = ray_tune.Tuner(
                ray_tune.with_resources(trainable, {"CPU": 1}),
                param_space={"trial": ray_tune.grid_search(list(missing))},
                tune_config=ray_tune.TuneConfig(max_concurrent_trials=max_concurrent, reuse_actors=True),
                run_config=ray_tune.RunConfig(
                    name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
                    storage_path=str(self.output / "ray_tune"),
                    verbose=0,
                    callbacks=[callback],
                    failure_config=ray_tune.FailureConfig(max_failures=1),
                ),
            )
            tuner.fit()
            callback.close()
        self.known |= callback.outcomes
        return set(callback.outcomes) == set(missing)

    def _parents_of(self, parents: dict[str, str]) -> dict[str, str]:
        owner: dict[str, str] = {}
        for plan in self.plan.studies:
            for _, spec in plan.trials:
                owner.setdefault(spec.fingerprint, parents[plan.study.name])
        return owner

    def _tags(self) -> dict[str, dict[str, str]]:
        """`cgd.study.NAME = level` for every study a trial belongs to."""
        tags: dict[str, dict[str, str]] = {}
        for plan in self.plan.studies:
            for level, spec in plan.trials:
                tags.setdefault(spec.fingerprint, {})[f"cgd.study.{plan.study.name}"] = level
        return tags

    def conclude(self, plan: StudyPlan, parent: str, complete: bool) -> StudyOutcome:
        """Write the study's record, its report from the store, and end its run."""
        self.tracking.log_texts(parent, {"study.json": json.dumps(self._record(plan), indent=1)})
        results = load_results(self.tracking.uri, parent)
        folder = self.output / "reports" / f"{plan.study.name}-{plan.key}"
        files = write_report(results, folder)
        self.tracking.log_folder(parent, folder, "report")
        failed = [
            (spec.name, self.known[key].error or "unknown error")
            for _, spec in plan.trials
            if (key := spec.fingerprint) in self.known and self.known[key].status == FAILED
        ]
        done = {key for key, record in self.known.items() if record.status in (FINISHED, FAILED)}
        missing = [spec.name for _, spec in plan.trials if spec.fingerprint not in done]
        status = FAILED if failed else FINISHED
        self.tracking.end(parent, status if complete and not missing else KILLED)
        return StudyOutcome(plan.study.name, parent, files.html, summary_text(results), tuple(failed), tuple(missing))

    def _record(self, plan: StudyPlan) -> dict[str, Any]:
        """What the report is written from, besides the runs themselves."""
        rows = []
        for level, spec in plan.trials:
            record = self.known.get(spec.fingerprint)
            row = {"fingerprint": spec.fingerprint, "dataset": spec.dataset, "level": level}
            row |= {"seed": spec.seed, "fold": spec.fold, "run_id": record.run_id if record else None}
            row |= {"status": record.status if record else "MISSING", "error": record.error if record else None}
            rows.append(row)
        floors = [
            {"run_id": self.known_floors[f.fingerprint].run_id, "dataset": f.dataset, "fold": f.fold}
            for f in plan.floors
            if f.fingerprint in self.known_floors
        ]
        return {
            "study": plan.study.model_dump(mode="json"),
            "protocol": self.plan.base.evaluation.protocol,
            "config": self.plan.base.flatten(),
            "datasets": {name: self._describe(name) for name in self.plan.dataset_keys},
            "trials": rows,
            "floors": floors,
            "versions": environment(),
            "arguments": self.arguments,
        }

    def _describe(self, name: str) -> dict[str, Any]:
        key = self.plan.dataset_keys[name]
        prepared = self.plan.datasets[key]
        return {
            "n_spots": prepared.n_spots,
            "n_cells": prepared.n_cells,
            "n_genes": len(prepared.panel),
            "n_test": len(make_splits(prepared.panel, self.plan.base.split)[0].test),
            "paper_name": PAPER_NAMES.get(name),
            "sha256": prepared.sha256,
            "notes": list(prepared.notes),
        }


def _floor_metrics(table: pd.DataFrame) -> dict[str, float]:
    """`METHOD_pcc` and so on, so that floors can be charted beside trials."""
    metrics = {}
    for method, rows in table.groupby("method"):
        values = summarise_table(rows)
        metrics |= {f"{method}_{key}": value for key, value in values.items() if not key.startswith("n_")}
    return metrics
