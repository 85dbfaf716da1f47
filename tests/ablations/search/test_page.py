"""The report of a search, from a made-up record."""

import csv
import json
from io import StringIO

import pytest

from ablations.report.figures.drawing import to_svg
from ablations.search.figure import draw_history
from ablations.search.report import render_search, summary_text, tidy_samples, write_search_report
from ablations.search.results import SearchResults
from ablations.search.space import load_space
from ablations.search.wording import write_opening
from cgd.config import Config
from cgd.errors import TrackingError

EVIL = "<script>alert('x')</script>"


def sample(number, value, **changed):
    row = {
        "sample": number, "trial": number, "origin": "sampled", "state": "finished", "value": value,
        "last_percent": 100, "last_value": value, "by_dataset": {}, "seconds": 10.0 + number, "peak_memory_mb": 500.0,
        "n_parameters": 1e4, "fits_memory": True, "on_front": number == 3, "reason": None, "run_id": f"run{number}",
        "params": {"ar.decay": 0.6 + 0.05 * number, "model.dropout": 0.1, "train.batch_size": 4 if number % 2 else 8},
        "values": {"ar.decay": 0.6 + 0.05 * number, "train.batch_size": 4 if number % 2 else 8},
    }  # fmt: skip
    return row | changed


def estimate(mean, low, high):
    return {"mean": mean, "low": low, "high": high, "n_genes": 40}


def finalist(label, value, **changed):
    row = {"label": label, "sample": None, "is_default": label == "default", "value": value, "n_missing": 0}
    return row | {"by_dataset": {"tissue": value}, "minus_default": {}, "values": {}} | changed


def made_up(**changed):
    gap = {"tissue": estimate(0.02, 0.01, 0.03)}
    finalists = [finalist("default", 0.40), finalist("sample 3", 0.42, minus_default=gap, values={"ar.decay": 0.75})]
    samples = [sample(0, 0.40, origin="default"), sample(1, 0.38), sample(2, 0.39), sample(3, 0.431)]
    samples += [sample(4, None, state="stopped early", last_percent=20, last_value=0.31)]
    samples += [sample(5, None, state="failed", reason=f"diverged {EVIL}", last_percent=None, last_value=None)]
    facts = {"n_spots": 9, "n_cells": 9, "n_genes": 100, "n_val": 20, "n_test": 10, "sha256": "abc"}
    record = {
        "format": 1, "name": "mine", "uid": "u", "space": load_space("training").model_dump(mode="json"),
        "sampler": {"name": "TPE"}, "objective": "accuracy", "max_memory_mb": None, "n_samples": 6, "n_interrupted": 0,
        "seed": 0, "search_folds": 1, "datasets": {"tissue": facts}, "config": Config().flatten(), "samples": samples,
        "importances": {"ar.decay": 0.7, "train.batch_size": 0.3}, "finalists": finalists, "winner": "sample 3",
        "winner_values": {"ar.decay": 0.75}, "validation": {"mean": 0.02, "by_dataset": gap},
        "test": {"mean": -0.004, "by_dataset": {"tissue": estimate(-0.004, -0.02, 0.012)}, "run_id": "r1",
                 "means": {"winner": {"tissue": 0.411}, "default": {"tissue": 0.415}}, "failed": [], "missing": []},
        "n_tests": 1, "versions": {"python": "3"}, "arguments": {},
    }  # fmt: skip
    return SearchResults.from_json(json.dumps(record | changed), "search.json", "search again")


def test_the_opening_says_by_how_much_whatever_the_sign():
    assert write_opening(made_up()) == (
        "Sample 3 beats the default by +0.0200 [+0.0100, +0.0300] on validation genes; on the test genes, which the "
        "search never saw, the difference is −0.0040 [−0.0200, +0.0120]: not to be told from none."
    )
    held = {"mean": 0.01, "by_dataset": {"tissue": estimate(0.01, 0.002, 0.02)}, "run_id": "r"}
    assert write_opening(made_up(test=held)).endswith("+0.0100 [+0.0020, +0.0200]: the gain holds.")
    lost = {"mean": -0.01, "by_dataset": {"tissue": estimate(-0.01, -0.02, -0.002)}, "run_id": "r"}
    assert write_opening(made_up(test=lost)).endswith("[−0.0200, −0.0020]: it lost there.")


def test_no_winner_is_invented():
    none = made_up(winner=None, winner_values={}, validation=None, test=None, n_tests=0)
    assert write_opening(none).startswith("The default is the best: none of the 1 best of 6 configurations beat it")
    assert "winner changes" not in summary_text(none)
    assert write_opening(none).endswith("There is no winner, and the test genes were not looked at.")
    nothing = {"winner": None, "winner_values": {}, "validation": None, "test": None}
    assert write_opening(made_up(**nothing, n_tests=1)).endswith("There is no winner.")  # an earlier one was tested
    alone = made_up(**nothing, finalists=[finalist("default", 0.4)], max_memory_mb=10.0)
    assert write_opening(alone).endswith("no other configuration ran to its end within the memory asked for.")
    assert write_opening(made_up(n_samples=9)) == "Not finished: 6 of 9 samples are done."
    assert "not confirmed yet" in write_opening(made_up(finalists=[], winner=None))


def test_part_of_a_comparison_is_not_told():
    part = {
        "mean": 0.3,
        "by_dataset": {"tissue": estimate(0.3, 0.2, 0.4)},
        "run_id": "r",
        "missing": ["winner, seed 3"],
    }
    found = made_up(test=part)
    assert write_opening(found).endswith("on validation genes; the comparison on the test genes is not finished.")
    assert "<h2>Test genes</h2>" not in render_search(found, {})
    assert "<h2>Test genes</h2>" in render_search(made_up(), {})


def test_a_finalist_with_missing_runs_does_not_hide_the_winner():
    finalists = [finalist("default", 0.40), finalist("sample 3", 0.42), finalist("sample 1", 0.41, n_missing=2)]
    found = made_up(finalists=finalists)
    assert write_opening(found).startswith("Sample 3 beats the default")
    assert "Runs of the confirmation are missing, and so could not win: sample 1." in summary_text(found)
    assert "not confirmed yet" in write_opening(made_up(finalists=finalists, winner=None))


def test_the_page_needs_no_other_file_and_escapes_foreign_text(tmp_path):
    page = write_search_report(made_up(name=EVIL), tmp_path).read_text()
    assert "<script>" not in page
    assert "diverged &lt;script&gt;" in page
    assert page.count("<svg") == 5
    body = page.split("</style>")[1].replace("http://www.w3.org", "")
    assert "http" not in body
    assert "src=" not in body
    for text in ("0.4310", "+0.0200 [+0.0100, +0.0300]", "stopped early", "ar.decay", "70 %"):
        assert text in page
    names = {path.name for path in tmp_path.iterdir()}
    figures = ("history", "importances", "front", "parallel", "slices")
    assert names == {"search.html", "samples.csv", *(f"{f}.{e}" for f in figures for e in ("svg", "pdf", "png"))}
    assert to_svg(draw_history(made_up())) == (tmp_path / "history.svg").read_text()  # no dates, no random names


def test_every_sample_is_in_the_table():
    rows = list(csv.DictReader(StringIO(tidy_samples(made_up()).to_csv(index=False))))
    assert [row["state"] for row in rows] == ["finished"] * 4 + ["stopped early", "failed"]
    assert [row["value"] for row in rows][3:] == ["0.431", "0.31", ""]
    assert float(rows[2]["ar.decay"]) == pytest.approx(0.7)
    assert rows[0]["sampling.guidance"] == ""  # searched under a condition that none of these meets


def test_the_terminal_says_the_same():
    text = summary_text(made_up())
    assert write_opening(made_up()) in text
    assert "6 samples: 4 finished, 1 stopped early, 1 failed" in text
    assert "best sample: 3, validation PCC 0.4310" in text
    assert "ar.decay: 0.8 -> 0.75" in text


def test_a_search_without_a_result_still_has_a_page(tmp_path):
    nothing = made_up(
        samples=[], finalists=[], winner=None, winner_values={}, validation=None, test=None, importances={}
    )
    assert "Not finished: 0 of 6" in write_search_report(nothing, tmp_path).read_text()


def test_what_is_no_record_of_a_search_is_refused():
    for text, message in (('{"format": 1}', "search.json lacks name, uid"), ("{", "search.json does not fit: .*JSON")):
        with pytest.raises(TrackingError, match=f"{message}.*; search again"):
            SearchResults.from_json(text, "search.json", "search again")
    for changed, message in (({"format": 2}, "at format: .*found 2"), ({"space": {}}, "its space: .*parameters")):
        with pytest.raises(TrackingError, match=message):
            made_up(**changed)


def test_a_search_comes_back_as_it_was_kept():
    kept = made_up()
    assert SearchResults.from_json(kept.to_json(), "search.json", "").to_json() == kept.to_json()
    assert json.loads(kept.to_json())["samples"][4]["value"] is None  # stopped early
