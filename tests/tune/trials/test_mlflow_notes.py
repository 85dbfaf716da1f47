"""Names of metrics that MLflow takes, and descriptions that say what was found and let nothing through."""

import math
from types import SimpleNamespace

import pytest
from mlflow.utils.validation import _validate_metric_name

from ablations.findings.rows import DatasetTable, Row
from ablations.statistics.paired import Estimate
from ablations.study.study import load_study
from cgd.config import Config
from tune.trials.mlflow_notes import (
    clean_metric_part,
    list_study_metrics,
    make_study_view,
    name_view,
    write_parent_note,
    write_trial_note,
)


def row(kind, title, pcc, *difference, is_default=False):
    differences = {"pcc": Estimate(*difference, 9)} if difference else {}
    return Row(kind, title, title, {"pcc": Estimate(pcc, math.nan, math.nan, 9)}, differences, is_default=is_default)


def table(name, *rows):
    return DatasetTable(name, {}, rows, ())


def note(study=None, answer="", tables=(), opening="", **more):
    content = SimpleNamespace(tables=tables, verdicts=[(one.name, answer) for one in tables], headline=opening)
    return write_parent_note(study or load_study("ar_decay"), "1", "abc", content, **more)


FOUND = table(
    "mouse",
    row("floor", "kernel ridge", 0.38),
    row("level", "0.8", 0.40, is_default=True),
    row("level", "0.7", 0.45, 0.05, 0.01, 0.09),
    row("level", "1.0", math.nan, math.nan, math.nan, math.nan),
    row("ceiling", "ceiling", 0.6),
)


def test_a_studys_metrics_are_levels_floor_ceiling_differences():
    assert list_study_metrics([FOUND]) == {
        "pcc/mouse/0.8": 0.40,
        "pcc/mouse/0.7": 0.45,
        "pcc/mouse/floor": 0.38,
        "pcc/mouse/ceiling": 0.6,
        "pcc_minus_default/mouse/0.7": 0.05,
        "pcc_minus_default/mouse/0.7 low": 0.01,
        "pcc_minus_default/mouse/0.7 high": 0.09,
    }


@pytest.mark.parametrize("label", ["a/b", "..", ".", "x, y=2", "10 %", " spaced  out ", "été", "l" * 300, "(a|b)", "/"])
def test_any_label_becomes_a_name_that_mlflow_takes(label):
    found = list_study_metrics([table(label, row("level", label, 0.5), row("level", "other", 0.4))])
    assert sorted(found.values()) == [0.4, 0.5]
    for name in found:
        _validate_metric_name(name)


def test_labels_that_would_share_a_name_do_not():
    labels = ("a=1", "a/1", "a-1", "floor")
    levels = [row("level", label, float(i)) for i, label in enumerate(labels)]
    found = list_study_metrics([table("d", row("floor", "f", 9.0), *levels)])
    assert sorted(found.values()) == [0.0, 1.0, 2.0, 3.0, 9.0]
    assert found["pcc/d/floor"] == 9.0
    assert clean_metric_part("a=1") == clean_metric_part("a/1") == "a-1"


def test_a_study_says_its_answer_first_and_links_the_rest():
    study = load_study("ar_decay")
    text = note(study, "0.7 is best.", [FOUND], "Too small.", report="ar_decay.html")
    order = [study.question, "Too small.", study.hypothesis, "0.7 is best.", "| level |", "the report"]
    assert sorted(order, key=text.index) == order
    assert "| 0.7 | 0.450 | +0.050 [+0.010, +0.090] |" in text
    assert "| 0.8 (default) | 0.400 |  |" in text
    assert "| 1.0 | – |  |" in text
    assert "floor: kernel ridge | 0.380" in text
    assert "](#/experiments/1/runs/abc/artifacts/report/ar_decay.html)" in text
    assert f"viewStateShareKey={name_view('ar_decay')}" in text
    unanswered = write_parent_note(study, "1", "abc")
    assert "| level |" not in unanswered
    assert "artifacts" not in unanswered


def test_the_view_of_a_study_groups_its_trials_by_level():
    state = make_study_view("depth", by_dataset=True)
    assert state["searchFilter"] == "tags.`cgd.study.depth` LIKE '%'"
    assert [key["groupByData"] for key in state["groupBy"]["groupByKeys"]] == ["cgd.study.depth", "cgd.dataset"]
    alone = make_study_view("depth", by_dataset=False)
    assert [key["groupByData"] for key in alone["groupBy"]["groupByKeys"]] == ["cgd.study.depth"]


def test_text_from_outside_is_text():
    hostile = "<img src=x onerror=alert(1)> [a](javascript:b) | x\n# y `z`"
    study = load_study("ar_decay").model_copy(update={"question": hostile, "hypothesis": hostile})
    text = note(study, hostile, [table(hostile, row("level", hostile, 0.1))], hostile)
    assert "<img" not in text.replace(r"\<img", "")
    assert "](java" not in text.replace(r"\](java", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert rows[2].replace(r"\|", "").count("|") == 4


def test_a_trial_says_what_it_is_and_how_to_use_its_model():
    config = Config().with_values({"ar.decay": 0.7})
    note = write_trial_note("ar_decay=0.7 · mouse", {"ar_decay": "0.7", "depth": "3"}, config, "abc", has_model=True)
    assert "**ar_decay** (level 0.7), **depth** (level 3)" in note
    assert "`ar.decay` = 0.7;" in note
    assert 'load_model("runs:/abc/model")' in note
    assert "load_model" not in write_trial_note("x", {}, config, "abc", has_model=False)
    assert "Differs from the defaults in nothing;" in write_trial_note("x", {}, Config(), "abc", has_model=False)
