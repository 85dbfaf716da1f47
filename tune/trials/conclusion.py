"""What is left of a study when its trials have run: its record, its report from the store, its answer on its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.findings.study_json import STUDY_JSON, Forecast
from ablations.report.content import gather
from ablations.report.figures.curves import COLUMNS, write_curves
from ablations.report.formats.terminal import summarise_report
from ablations.report.pages.write import write_report
from tune.store.reading import FAILED, FINISHED, KILLED, OlderRun, RunRecord, load_results
from tune.store.tracking import Tracking
from tune.trials.mlflow_notes import list_study_metrics, write_parent_note
from tune.trials.plan import Plan, StudyPlan
from tune.trials.study_record import make_study_record

Known = Mapping[str, RunRecord]  # by fingerprint


@dataclass(frozen=True)
class StudyOutcome:
    """How a study ended."""

    study: str
    parent_run_id: str
    report: Path
    summary: str
    failed: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


@dataclass
class Conclusions:
    """Concludes the studies of a plan; `arguments` and `forecast` of the command are stored with each."""

    plan: Plan
    tracking: Tracking
    output: Path
    arguments: dict[str, Any]
    forecast: Forecast | None

    def conclude(self, plan: StudyPlan, parent: str, complete: bool, known: Known, known_floors: Known) -> StudyOutcome:
        """Write the record and the report of a study and end its run `parent`.

        `complete` is False if the user stopped the command; `known` and `known_floors` are runs of trials and floors.
        """
        record = make_study_record(plan, self.plan, known, known_floors, self.other_code, self.forecast, self.arguments)
        self.tracking.log_texts(parent, {STUDY_JSON: record.to_json()})
        results = load_results(self.tracking.uri, parent)
        folder = self.output / "reports" / f"{plan.study.name}-{plan.key}"
        content = gather(results)
        files = write_report(content, folder)
        write_curves(self._read_curves(plan, known), list(results.study.labels), folder)
        self.tracking.log_folder(parent, folder, "report")
        note = write_parent_note(content.results.study, self.tracking.experiment_id, parent, content, files.html.name)
        self.tracking.summarise_study(parent, list_study_metrics(content.tables), note)
        runs = [(spec.name, known.get(spec.fingerprint)) for _, spec in plan.trials]
        failed = [(name, run.error or "unknown error") for name, run in runs if run and run.status == FAILED]
        missing = [name for name, run in runs if not run or run.status not in (FINISHED, FAILED)]
        status = FAILED if failed else FINISHED
        self.tracking.end(parent, status if complete and not missing else KILLED)
        return StudyOutcome(
            plan.study.name, parent, files.html, summarise_report(content), tuple(failed), tuple(missing)
        )

    @cached_property
    def other_code(self) -> dict[str, list[OlderRun]]:
        """Finished trials of other code versions by their key, read once for all studies."""
        found: dict[str, list[OlderRun]] = {}
        for run in self.tracking.find_older_trials({spec.code_version for spec in self.plan.trials.values()}):
            found.setdefault(run.trial_key, []).append(run)
        return found

    def _read_curves(self, plan: StudyPlan, known: Known) -> pd.DataFrame:
        """Validation score by epoch of every trial that has a run."""
        rows = [
            (spec.dataset, level, f"seed {spec.seed}, fold {spec.fold}", epoch, value)
            for level, spec in plan.trials
            if spec.fingerprint in known
            for epoch, value in self.tracking.read_curve(known[spec.fingerprint].run_id, "val_pcc")
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))
