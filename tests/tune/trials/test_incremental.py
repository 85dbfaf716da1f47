"""What a grown study still has to run, and what another code version left: planner and store, nothing trained."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ablations.findings.stored import write_per_gene
from ablations.findings.study_json import Forecast, StudyRecord
from ablations.study.study import Study
from cgd.metrics.facts import SCORES
from tune.store.tracking import Tracking
from tune.trials.plan import Planner
from tune.trials.runner import Runner
from tune.trials.study_record import make_study_record

FORECAST = Forecast(n_concurrent=2, trials=(), launch_seconds=12.5, made="2026-01-01T00:00:00+00:00")
LEVELS = ({"value": 0.0}, {"value": 0.1})


@pytest.fixture(autouse=True)
def _different_data(tiny, monkeypatch):
    """Data sets of their own content: the tiny one, with a spot less for each letter of the name after the first."""

    def load(given):
        return replace(tiny.pair, name=given, adata_st=tiny.pair.adata_st[: 61 - len(given)])

    monkeypatch.setattr("tune.trials.plan.load_dataset", load)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def tracking(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path)
    return Tracking(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")


def planned(tiny, datasets=("a",), seeds=(0,), levels=LEVELS, name="dropout", **values):
    text = """
    question: Does dropout help?
    hypothesis: It does not.
    factor: {path: model.dropout, name: Dropout}
    default: 0.0
    """
    planner = Planner(tiny.config(values), list(datasets), list(seeds))
    planner.add(Study.from_dict({**yaml.safe_load(text), "name": name, "levels": levels}))
    return planner.plan


def finish(tracking, plan, output, pcc=0.5):
    """Leave every trial and floor of a plan in the store as finished."""
    runner = Runner(plan, tracking, output, {})
    tags = runner._tags()
    table = pd.DataFrame({"gene": ["x", "y"]} | {metric: [pcc, pcc] for metric in SCORES})
    table["method"] = "kernel_ridge"
    for kind, specs in (("trial", plan.trials), ("floors", plan.floors)):
        for key, spec in specs.items():
            own = tags.get(key, {}) | {"cgd.dataset": spec.dataset}
            run_id = tracking.open_run(kind, key, key, own)
            tracking.finish(run_id, {"test_pcc": pcc} if kind == "trial" else {}, write_per_gene(table))


def remaining(tracking, plan):
    """(data set, seed, dropout) of what is still to run, and how many floors."""
    runner = Runner(plan, tracking, Path(), {})
    trials = {(s.dataset, s.seed, s.config.model.dropout) for s in runner.find_missing().values()}
    return trials, len(runner.find_missing_floors())


def test_a_finished_study_has_nothing_left_to_run(tiny, tracking, tmp_path):
    assert remaining(tracking, planned(tiny)) == ({("a", 0, 0.0), ("a", 0, 0.1)}, 1)
    finish(tracking, planned(tiny), tmp_path)
    assert remaining(tracking, planned(tiny)) == (set(), 0)


@pytest.mark.parametrize(
    ("grown", "new", "n_floors"),
    [
        ({"levels": (*LEVELS, {"value": 0.2})}, {("a", 0, 0.2)}, 0),
        ({"seeds": (0, 1)}, {("a", 1, 0.0), ("a", 1, 0.1)}, 0),
        ({"datasets": ("a", "bb")}, {("bb", 0, 0.0), ("bb", 0, 0.1)}, 1),
        ({"levels": (*LEVELS, {"value": 0.2, "only_on": ["bb"]}), "datasets": ("a", "bb")},
         {("bb", 0, 0.0), ("bb", 0, 0.1), ("bb", 0, 0.2)}, 1),
    ],
    ids=["level", "seed", "data set", "level on one data set"],
)  # fmt: skip
def test_a_grown_study_runs_the_new_cells_only(tiny, tracking, tmp_path, grown, new, n_floors):
    finish(tracking, planned(tiny), tmp_path)
    assert remaining(tracking, planned(tiny, **grown)) == (new, n_floors)


def test_an_earlier_studys_results_are_found_by_this_ones_tag(tiny, tracking, tmp_path):
    finish(tracking, planned(tiny), tmp_path)
    later = Runner(
        planned(tiny, name="again", levels=({"value": 0.0, "label": "none"}, LEVELS[1])), tracking, tmp_path, {}
    )
    parents, complete = later.run(False, "local", None)  # nothing is missing: Ray is not started
    assert complete
    assert list(parents) == ["again"]
    found = {tuple(sorted(record.studies.items())) for record in tracking.find_runs("trial").values()}
    assert found == {
        (("cgd.study.again", "none"), ("cgd.study.dropout", "0.0")),
        (("cgd.study.again", "0.1"), ("cgd.study.dropout", "0.1")),
    }


def other_code(monkeypatch, version):
    for module in ("cgd.evaluation", "tune.trials.plan", "tune.trials.runner", "tune.trials.study_record"):
        monkeypatch.setattr(f"{module}.code_version", lambda *modules: version)


def record_of(tracking, plan):
    """What study.json would say now."""
    runner = Runner(plan, tracking, Path(), {})
    known = (runner.known, runner.known_floors, runner.conclusions.other_code)
    return make_study_record(plan.studies[0], plan, *known, forecast=None, arguments={})


def test_results_of_another_code_version_are_apart_and_named(tiny, tracking, tmp_path, monkeypatch):
    other_code(monkeypatch, "first")
    finish(tracking, planned(tiny, seeds=(0, 1)), tmp_path, pcc=0.25)
    other_code(monkeypatch, "second")
    assert len(remaining(tracking, planned(tiny))[0]) == 2  # they count for nothing now
    record = record_of(tracking, planned(tiny))
    assert record.code_version == "second"
    assert [(row.level, row.seed, row.code_version, row.pcc) for row in record.older] == [
        ("0.0", 0, "first", 0.25), ("0.1", 0, "first", 0.25),
    ]  # fmt: skip
    now = datetime.now(UTC).date()
    assert {row.when for row in record.older} <= {now, now - timedelta(1)}
    assert all(row.status == "MISSING" and row.run_id is None for row in record.trials)
    finish(tracking, planned(tiny), tmp_path, pcc=0.5)
    record = record_of(tracking, planned(tiny))
    assert {row.status for row in record.trials} == {"FINISHED"}
    assert {row.run_id for row in record.older}.isdisjoint(row.run_id for row in record.trials)
    other_code(monkeypatch, "third")
    record = record_of(tracking, planned(tiny))
    assert {(row.code_version, row.pcc) for row in record.older} == {("first", 0.25), ("second", 0.5)}


def test_only_finished_runs_of_the_very_trial_are_older_results(tiny, tracking, tmp_path, monkeypatch):
    other_code(monkeypatch, "first")
    finish(tracking, planned(tiny, **{"model.depth": 2}), tmp_path)  # another trial
    plan = planned(tiny)
    spec = next(iter(plan.trials.values()))
    tags = {"cgd.code_version": "first", "cgd.trial_key": spec.trial_key}
    tracking.fail(tracking.open_run("trial", spec.fingerprint, "failed", tags), "boom", "")
    other_code(monkeypatch, "second")
    assert record_of(tracking, planned(tiny)).older == ()


def test_a_concluded_study_records_older_results_and_forecast(tiny, tracking, tmp_path, monkeypatch):
    other_code(monkeypatch, "first")
    finish(tracking, planned(tiny), tmp_path, pcc=0.25)
    other_code(monkeypatch, "second")
    finish(tracking, planned(tiny), tmp_path, pcc=0.5)
    plan = planned(tiny)
    asked = []
    original = Tracking.find_older_trials
    monkeypatch.setattr(Tracking, "find_older_trials", lambda self, v: asked.append(v) or original(self, v))
    runner = Runner(plan, tracking, tmp_path, {"seeds": 1}, forecast=FORECAST)
    for key in ("study-1", "study-2"):
        parent = tracking.open_run("study", key, "dropout", {})
        outcome = runner.conclude(plan.studies[0], parent, complete=True)
        record = StudyRecord.from_json(tracking.read_artifact(parent, "study.json"), "study.json", "")
        assert not outcome.missing
        assert (record.forecast, record.arguments) == (FORECAST, {"seeds": 1})
        assert [row.pcc for row in record.older] == [0.25, 0.25]
    assert asked == [{"second"}]  # one query for all studies
