"""Everything that is read from MLflow: runs, their artifacts, and the results of a study put together from them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from ablations.findings.results import StudyResults, TrialRun, assemble_results
from ablations.findings.stored import PER_GENE
from ablations.findings.study_json import STUDY_JSON, StudyRecord
from ablations.study.comparison import PROTOCOLS, name_comparison
from cgd.errors import TrackingError
from cgd.metrics.facts import OUTCOMES
from tune.store.errors import hide_password
from tune.store.mlflow_errors import is_away, translate_errors

EXPERIMENT = "causalged"
FINISHED, FAILED, RUNNING, KILLED = "FINISHED", "FAILED", "RUNNING", "KILLED"
NOTE = "mlflow.note.content"
DRIVER = "cgd.driver"
STOPPED = "cgd.stopped_at_percent"
STUDY_TAG = "cgd.study."  # followed by a study's name: the level that a trial is there


@dataclass(frozen=True)
class RunRecord:
    """A run as found in the store."""

    run_id: str
    status: str
    error: str | None = None
    studies: Mapping[str, str] = field(default_factory=dict)  # its tags `cgd.study.NAME`
    driver: str | None = None  # the command that writes to it, where several may; see `Tracking.driver`
    is_whole: bool = False  # finished, and not stopped early, without a result

    @classmethod
    def from_run(cls, run: Run) -> RunRecord:
        """From a run as MLflow returns it."""
        tags = run.data.tags
        studies = {name: value for name, value in tags.items() if name.startswith(STUDY_TAG)}
        error, driver = tags.get("cgd.error"), tags.get(DRIVER)
        status = run.info.status
        return cls(run.info.run_id, status, error, studies, driver, status == FINISHED and STOPPED not in tags)


@dataclass(frozen=True)
class OlderRun:
    """A finished trial of another code version; `outcomes` are those that it recorded."""

    run_id: str
    trial_key: str
    code_version: str
    outcomes: Mapping[str, float]
    when: date


def find_database(uri: str) -> Path | None:
    """The file of a `sqlite:///PATH` store; None for any other."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


class Reader:
    """Runs of one tracking store.

    Parameters
    ----------
    uri
        Tracking URI. MLflow creates a database that is not there.

    Raises
    ------
    TrackingError
        The store cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # two bars per trial otherwise
        with translate_errors(uri, "open the experiment"):
            self.client = MlflowClient(uri)
            self.experiment_id = self._find_experiment()

    def _find_experiment(self) -> str:
        """Its id; empty where there is none yet."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        return str(found.experiment_id) if found else ""

    # ---- finding ----------------------------------------------------------------------------------------------------

    def find_runs(self, kind: str, key: str = "cgd.fingerprint") -> dict[str, RunRecord]:
        """Every run of a kind (`trial`, `floors`, `study`) by its `key` tag; the newest of a key first found."""
        found: dict[str, RunRecord] = {}
        for run in self._search(f"tags.`cgd.kind` = '{kind}'"):
            if key in run.data.tags:
                found.setdefault(run.data.tags[key], RunRecord.from_run(run))
        return found

    def find(self, fingerprint: str) -> RunRecord | None:
        """The run of a fingerprint; of several, which only older versions made, the first."""
        runs = self._search(f"tags.`cgd.fingerprint` = '{fingerprint}'")
        first = min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
        return RunRecord.from_run(first) if first else None

    def find_finished(self, kind: str) -> Iterator[tuple[dict[str, str], dict[str, str], dict[str, float]]]:
        """Tags, parameters and metrics of every finished run of a kind."""
        for run in self._search(f"tags.`cgd.kind` = '{kind}' AND attributes.status = '{FINISHED}'"):
            yield run.data.tags, run.data.params, run.data.metrics

    def list_statuses(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Status and tags of every run, the newest first."""
        for run in self._search(""):
            yield run.info.status, run.data.tags

    def find_older_trials(self, code_versions: Iterable[str]) -> list[OlderRun]:
        """Every finished trial of none of these code versions, in one query; the newest first."""
        query = f"tags.`cgd.kind` = 'trial' and attributes.status = '{FINISHED}' and tags.`cgd.trial_key` != ''"
        query += "".join(f" and tags.`cgd.code_version` != '{version}'" for version in sorted(code_versions))
        return [
            OlderRun(
                run.info.run_id,
                run.data.tags["cgd.trial_key"],
                run.data.tags["cgd.code_version"],
                {name: run.data.metrics[key] for name in OUTCOMES if (key := f"test_{name}") in run.data.metrics},
                datetime.fromtimestamp(run.info.end_time / 1000, UTC).date(),
            )
            for run in self._search(query)
        ]

    def find_newest_study(self, name: str) -> str | None:
        """The newest parent run of a study that is not running and has its `study.json`; None without one."""
        runs = list(self._search(f"tags.`cgd.kind` = 'study' and tags.`cgd.study` = '{name}'"))
        runs.sort(key=lambda run: (run.info.end_time or run.info.start_time, run.info.run_id), reverse=True)
        for run in runs:
            if run.info.status != RUNNING:
                with translate_errors(self.uri, f"list the artifacts of run {run.info.run_id}"):
                    if any(file.path == STUDY_JSON for file in self.client.list_artifacts(run.info.run_id)):
                        return str(run.info.run_id)
        return None

    def _search(self, query: str) -> Iterator[Run]:
        token, is_over = None, not self.experiment_id
        while not is_over:
            with translate_errors(self.uri, "look for runs"):
                page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            is_over = not token

    # ---- one run ----------------------------------------------------------------------------------------------------

    def read_run(self, run_id: str) -> TrialRun:
        """Status, metrics, tags and times of a run."""
        with translate_errors(self.uri, f"read run {run_id}"):
            run = self.client.get_run(run_id)
        return TrialRun(run.info.status, run.data.metrics, run.data.tags, run.info.start_time, run.info.end_time)

    def read_artifact(self, run_id: str, name: str) -> str:
        """Text of an artifact. Raises TrackingError, also where the store is there and the artifact is not."""
        with translate_errors(self.uri, f"read {name} of run {run_id}"), tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self.client.download_artifacts(run_id, name, folder)).read_text("utf-8")
            except (MlflowException, OSError, ValueError) as error:
                if isinstance(error, MlflowException | RequestException) and is_away(error):
                    raise
                reason = f"run {run_id} has no readable artifact '{name}' ({hide_password(str(error))})"
                raise TrackingError(reason, "run the study again to rewrite it") from None

    def read_last_epoch(self, run_id: str) -> int:
        """Last epoch a run has metrics of; 0 for none."""
        with translate_errors(self.uri, "read metrics"):
            return max((m.step for m in self.client.get_metric_history(run_id, "train_loss")), default=0)

    def read_curve(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric of a run, in order."""
        with translate_errors(self.uri, "read metrics"):
            history = self.client.get_metric_history(run_id, key)
        return sorted((m.step, m.value) for m in history if m.step > 0)  # step 0 is the value at the end


# ---- the results of a study -----------------------------------------------------------------------------------------


def load_results(uri: str, run_id: str) -> StudyResults:
    """Read one invocation of a study.

    Raises
    ------
    TrackingError
        The store or a run or artifact is missing, or is not what a study writes; says which and what to do.
    """
    reader = _require_reader(uri)
    kind = reader.read_run(run_id).tags.get("cgd.kind")
    if kind != "study":
        raise TrackingError(f"run {run_id} is not a study (cgd.kind is {kind!r})", "pass the study's parent run")
    text = reader.read_artifact(run_id, STUDY_JSON)
    record = StudyRecord.from_json(text, f"{STUDY_JSON} of run {run_id}", "run the study again to rewrite it")
    runs = {row.run_id: reader.read_run(row.run_id) for row in record.trials if row.run_id}
    finished = [trial for trial, run in runs.items() if run.status == FINISHED]
    tables = {run: reader.read_artifact(run, PER_GENE) for run in (*finished, *(row.run_id for row in record.floors))}
    return assemble_results(run_id, record, runs, tables)


def find_comparisons(uri: str) -> list[str]:
    """Parent runs of the newest comparison of each protocol that is over and left its `study.json`.

    Raises
    ------
    TrackingError
        There is none, or the store cannot be read.
    """
    reader = _require_reader(uri)
    newest = [reader.find_newest_study(name_comparison(protocol)) for protocol in PROTOCOLS]
    found = [run_id for run_id in newest if run_id is not None]
    if not found:
        raise TrackingError(f"no comparison in {hide_password(uri)}", "run one first, or name another store")
    return found


def open_reader(uri: str) -> Reader | None:
    """A store to read from; None where there is none yet, which MLflow would create. Raises TrackingError."""
    database = find_database(uri)
    return Reader(uri) if database is None or database.is_file() else None


def _require_reader(uri: str) -> Reader:
    reader = open_reader(uri)
    if reader is None:
        advice = "run a study first, or pass the store it wrote to"
        raise TrackingError(f"no tracking store at {find_database(uri)}", advice)
    return reader
