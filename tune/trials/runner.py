"""Run a plan: compute what the store does not have."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import ray

from ablations.findings.stored import write_per_gene
from ablations.findings.study_json import Forecast
from cgd.errors import TrackingError
from cgd.evaluation import evaluate_floors
from cgd.kept_prediction import PREDICTIONS
from cgd.metrics.summary import summarise_table
from cgd.version import code_version
from tune.checkpoints.budget import CheckpointBudget
from tune.checkpoints.options import CHECKPOINTS, DEFAULT_OPTIONS, CheckpointOptions
from tune.cluster.connection import connect_for
from tune.cluster.resources import NO_SHARE, Share
from tune.store.opening import explain_absence
from tune.store.outbox import Outbox
from tune.store.outbox_files import Open
from tune.store.reading import FAILED, FINISHED, KILLED, RUNNING, STUDY_TAG
from tune.store.tracking import Tracking
from tune.terminal.progress import Progress
from tune.trials.conclusion import Conclusions, StudyOutcome
from tune.trials.mlflow_notes import make_study_view, name_view, write_parent_note
from tune.trials.plan import FloorSpec, Plan, StudyPlan
from tune.trials.preflight import check_nodes, guard_tasks
from tune.trials.recorder import StudyRecorder
from tune.trials.spec import Job, TrialSpec
from tune.trials.trial import Work
from tune.trials.tuning import run_tune


@dataclass
class Runner:
    """Runs a plan against a tracking store."""

    plan: Plan
    tracking: Tracking
    output: Path  # folder of checkpoints and reports
    arguments: dict[str, Any]  # the command's, stored with each study
    forecast: Forecast | None = None  # of what it costs, stored with each study
    log_models: bool = True  # attach the fitted model to each trial's run
    share: Share = NO_SHARE  # what the command gives to each trial
    keeping: CheckpointOptions = DEFAULT_OPTIONS  # how checkpoints are kept

    def __post_init__(self) -> None:
        self.conclusions = Conclusions(self.plan, self.tracking, self.output, self.arguments, self.forecast)
        self.known = self.tracking.find_runs("trial")
        self.known_floors = self.tracking.find_runs("floors")
        self._ended: set[str] = set()  # trials that this command ran to an end

    def find_missing(self) -> dict[str, TrialSpec]:
        """Trials the store has no finished run of."""
        return {key: spec for key, spec in self.plan.trials.items() if not self._is_finished(key)}

    def _is_finished(self, fingerprint: str) -> bool:
        return fingerprint in self.known and self.known[fingerprint].status == FINISHED

    def _open_parents(self, resume: bool) -> dict[str, str]:
        """The parent run of each study: exactly these trials have one forever, which is opened again."""
        parents, interrupted = {}, False
        known = self.tracking.find_runs("study", "cgd.study_key")
        for plan in self.plan.studies:
            record = known.get(plan.key)
            interrupted |= record is not None and record.status in (KILLED, RUNNING)
            tags = {
                "cgd.study": plan.study.name,
                "cgd.study_key": plan.key,
                "cgd.protocol": plan.base.evaluation.protocol,
                "cgd.code_version": code_version(),
            }
            name = f"{plan.study.name} · {', '.join(plan.dataset_keys)}"
            run_id = record.run_id if record else None
            parent = parents[plan.study.name] = self.tracking.open_run("study", f"study-{plan.key}", name, tags, run_id)
            self.tracking.describe(parent, write_parent_note(plan.study, self.tracking.experiment_id, parent))
            view = make_study_view(plan.study.name, by_dataset=len(plan.dataset_keys) > 1)
            self.tracking.share_view(name_view(plan.study.name), view)
        if resume and not interrupted:
            print("nothing to resume: no interrupted command ran exactly these trials")
        return parents

    def run(self, resume: bool, address: str, max_concurrent: int | None) -> tuple[dict[str, str], bool]:
        """Compute missing floors, then run missing trials.

        Returns
        -------
        parents, complete
            Parent run of each study, and False if the user stopped it.

        Raises
        ------
        ResourceError
            A trial asks for more than there is.
        UndeliveredError
            Everything ran, but the store is away.
        """
        floors, trials = self.find_missing_floors(), self.find_missing()
        self._adopt()
        if not floors and not trials:
            return self._open_parents(resume), True
        requests = [self.share.request(spec.config) for spec in trials.values()]
        parents: dict[str, str] = {}
        try:
            with (
                connect_for(requests, address, max_concurrent) as limit,
                Outbox(self.tracking, self.output) as outbox,
            ):
                shared = self._share(floors, trials)
                parents = self._open_parents(resume)
                self._run_floors(floors, shared, outbox, _list_brought(trials))
                complete = not trials or self._run_trials(trials, shared, parents, limit, outbox)
                outbox.settle()
        except BaseException:  # whatever ends the command, its runs must not stay RUNNING
            with suppress(TrackingError):  # it may be the store itself that failed
                for run_id in parents.values():
                    self.tracking.end(run_id, KILLED)
            raise
        with explain_absence():
            self._read_back(floors)
        return parents, complete

    def _share(self, floors: list[FloorSpec], trials: dict[str, TrialSpec]) -> dict[str, ray.ObjectRef]:
        """Each pair, put into the object store once and read from there by floors and trials; nodes that could not are
        refused."""
        needed = {spec.prepared for spec in floors} | {spec.prepared for spec in trials.values()}
        shared = {key: ray.put(self.plan.datasets[key]) for key in needed}
        check_nodes(self.output, list(shared.values()), _list_brought(trials), self.keeping.storage)
        return shared

    def _read_back(self, floors: list[FloorSpec]) -> None:
        """The runs of what ended, as the store has them: another command on it may have finished some first."""
        trials = self.tracking.find_runs("trial")
        self.known |= {key: trials[key] for key in self._ended if key in trials}
        found = self.tracking.find_runs("floors")
        self.known_floors |= {spec.fingerprint: found[spec.fingerprint] for spec in floors if spec.fingerprint in found}

    def _adopt(self) -> None:
        """Tag what an earlier command finished with the studies of this one, which it belongs to as well."""
        for key, tags in self._tags().items():
            if self._is_finished(key):
                record = self.known[key]
                new = {k: v for k, v in tags.items() if k.startswith(STUDY_TAG) and record.studies.get(k) != v}
                if new:
                    self.tracking.add_tags(record.run_id, new)

    def find_missing_floors(self) -> list[FloorSpec]:
        """Floors the store has no finished run of."""
        finished = {key for key, record in self.known_floors.items() if record.status == FINISHED}
        return [spec for key, spec in self.plan.floors.items() if key not in finished]

    def _run_floors(
        self, missing: list[FloorSpec], shared: dict[str, ray.ObjectRef], outbox: Outbox, files: list[Path]
    ) -> None:
        # the files are the trials': a node without them is refused before the floors have taken their time
        with guard_tasks(evaluate_floors, self.output, files, self.keeping.storage) as evaluate:
            remote = ray.remote(num_cpus=1)(evaluate)
            pending = [(spec, remote.remote(shared[spec.prepared], spec.split, spec.config)) for spec in missing]
            for spec, reference in pending:
                table = ray.get(reference)
                tags = {"cgd.dataset": spec.dataset, "cgd.fold": str(spec.fold)}
                name = f"floors · {spec.dataset} · fold {spec.fold}"
                outbox.put(spec.fingerprint, Open(kind="floors", name=name, tags=tags))
                outbox.finish(spec.fingerprint, _floor_metrics(table), write_per_gene(table))

    def _run_trials(
        self,
        missing: dict[str, TrialSpec],
        shared: dict[str, ray.ObjectRef],
        parents: dict[str, str],
        max_concurrent: int | None,
        outbox: Outbox,
    ) -> bool:
        checkpoints = self.output / CHECKPOINTS
        mirror = self.keeping.open_mirror(checkpoints)
        replicates = [spec.replicate for spec in missing.values()]
        work = Work("test", replicates, shared, checkpoints, self.share, log_models=self.log_models, mirror=mirror)
        jobs = [Job(key, spec.config, (i,)) for i, (key, spec) in enumerate(missing.items())]
        n_epochs = sum(spec.n_epochs for spec in missing.values())
        with Progress(len(missing), n_epochs) as progress, outbox.redirect_lines(progress.note):
            # the first of the studies that share a trial owns it
            studies = reversed(self.plan.studies)
            owner = {spec.fingerprint: parents[plan.study.name] for plan in studies for _, spec in plan.trials}
            recorder = StudyRecorder(outbox, progress, work, missing, owner, self._tags(), self.plan.datasets)

            def has_ended(fingerprint: str) -> bool:
                """Whether it is finished or has failed, in this command or, where it does not run again, before."""
                record = (recorder.outcomes if fingerprint in missing else self.known).get(fingerprint)
                return record is not None and record.status in (FINISHED, FAILED)

            run_tune(
                work,
                jobs,
                recorder,
                self.output,
                max_concurrent=max_concurrent,
                callbacks=[CheckpointBudget(checkpoints, self.keeping.budget, has_ended)],
                files=_list_brought(missing),
                storage=self.keeping.storage,
            )
        self._ended = set(recorder.outcomes)
        complete = self._ended == set(missing)
        if complete:  # every protocol that was asked for has scored them
            shutil.rmtree(checkpoints / PREDICTIONS, ignore_errors=True)
        return complete

    def _tags(self) -> dict[str, dict[str, str]]:
        """`cgd.study.NAME = level` for every study a trial belongs to, and what it is in any code version."""
        tags: dict[str, dict[str, str]] = {}
        for plan in self.plan.studies:
            for level, spec in plan.trials:
                same = {"cgd.code_version": spec.code_version, "cgd.trial_key": spec.trial_key}
                tags.setdefault(spec.fingerprint, same)[f"{STUDY_TAG}{plan.study.name}"] = level
        return tags

    def conclude(self, plan: StudyPlan, parent: str, complete: bool) -> StudyOutcome:
        """Write the study's record, its report from the store, and end its run."""
        return self.conclusions.conclude(plan, parent, complete, self.known, self.known_floors)


def _list_brought(trials: dict[str, TrialSpec]) -> list[Path]:
    """Files of predictions that the trials score."""
    return [spec.brought.path for spec in trials.values() if spec.brought]


def _floor_metrics(table: pd.DataFrame) -> dict[str, float]:
    """`METHOD_pcc` and so on, so that floors can be charted beside trials; what a floor has no score of is left out."""
    metrics: dict[str, float] = {}
    for method, rows in table.groupby("method"):
        values = summarise_table(rows)
        metrics |= {
            f"{method}_{key}": value for key, value in values.items() if math.isfinite(value) and key[:2] != "n_"
        }
    return metrics
