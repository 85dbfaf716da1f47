"""What is kept of a study is one format: read as it was written, by this version and by the one before."""

import json
import math

import pytest

from ablations.findings.study_json import Forecast, OlderTrial, StudyRecord, TrialForecast, TrialRow, schedule
from ablations.study.study import load_study
from cgd.errors import TrackingError

PLACE = {"dataset": "tissue", "level": "frozen", "seed": 0, "fold": 1}


def record(**changed):
    values = {
        "study": load_study("decoder_training"),
        "protocol": "heldout_genes",
        "config": {"ar.decay": 0.8, "data.keep": None},
        "datasets": {"tissue": {"n_spots": 9, "notes": ["é"]}},
        "trials": (TrialRow(**PLACE, fingerprint="f", run_id=None, status="MISSING", error=None),),
        "floors": (),
        "versions": {"python": "3"},
    }
    return StudyRecord(**values | changed)


def read(text):
    return StudyRecord.from_json(text, "study.json", "run the study again")


def test_a_record_comes_back_as_it_was_kept():
    older = OlderTrial(**PLACE, code_version="1", run_id="r", pcc=math.nan, when="2026-01-02")
    forecast = Forecast(trials=(TrialForecast("f", 2.0, 3.0),), n_concurrent=1, made="2026-01-02", launch_seconds=1.5)
    kept = record(older=(older,), forecast=forecast, code_version="2", arguments={"seeds": [0]})
    assert read(kept.to_json()).to_json() == kept.to_json()
    assert json.loads(kept.to_json())["older"][0]["pcc"] is None
    assert read(kept.to_json()).forecast.wall_seconds == 3.5


def test_what_came_later_is_absent_in_older_records():
    content = json.loads(record().to_json())
    for key in ("code_version", "older", "forecast", "arguments"):
        del content[key]
    found = read(json.dumps(content | {"unknown to this version": 1}))
    assert (found.code_version, found.older, found.forecast, found.arguments) == ("", (), None, {})
    assert found.study == load_study("decoder_training")


def test_a_forecast_of_the_version_before_is_read():
    trial = {"fingerprint": "f", "seconds": 5.0, "memory_mb": 2.0, "checkpoints_mb": 3.0, "kept_mb": 4.0}
    costs = {"wall_seconds": 11.0, "launch_seconds": 1.0, "memory_mb": 4.0, "disk_mb": 14.0}
    content = {**costs, "n_concurrent": 2, "trials": [trial, trial, trial], "made": "2026-01-02"}
    found = Forecast.from_json(json.dumps(content), "forecast", "")
    assert (found.wall_seconds, found.memory_mb, found.checkpoints_mb + found.kept_mb) == (11.0, 4.0, 18.0)


def test_a_record_that_does_not_fit_says_where_and_what_helps():
    with pytest.raises(TrackingError) as refused:
        read("{")
    assert refused.value.advice == "run the study again"
    with pytest.raises(TrackingError, match=r"^study\.json lacks study, protocol, .*; run the study again$"):
        read("{}")


@pytest.mark.parametrize(
    ("seconds", "n_slots", "wall"),
    [([], 2, 0), ([3, 1, 1, 4], 1, 9), ([3, 1, 1, 4], 2, 6), ([3, 1, 1, 4], 4, 4), ([3, 1], 8, 3), ([1, 1, 9], 2, 10)],
)
def test_a_job_starts_where_a_slot_is_free_first(seconds, n_slots, wall):
    assert schedule(seconds, n_slots) == wall
