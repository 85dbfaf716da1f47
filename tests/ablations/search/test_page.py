"""The report of a search, from a made-up record."""

import csv
import json
from io import StringIO

import pytest

from ablations.report.figures.drawing import to_svg
from ablations.search.aim import AIMS
from ablations.search.figure import draw_history
from ablations.search.report import render_search, summary_text, tidy_samples, write_search_report
from ablations.search.results import SearchResults
from ablations.search.space import load_space
from ablations.search.wording import find_role, write_opening
from cgd.config import Config
from cgd.errors import TrackingError

EVIL = "<script>alert('x')</script>"


def sample(number, pcc, crps=None, **changed):
    row = {
        "sample": number, "trial": number, "origin": "sampled", "state": "finished", "percent": 100,
        "scores": {"pcc": pcc} | ({"crps": crps} if crps else {}), "by_dataset": {}, "seconds": 10.0 + number,
        "peak_memory_mb": 500.0, "n_parameters": 1e4, "fits_memory": True, "on_front": number == 3, "reason": None,
        "run_id": f"run{number}",
        "params": {"ar.decay": 0.6 + 0.05 * number, "model.dropout": 0.1, "train.batch_size": 4 if number % 2 else 8},
        "values": {"ar.decay": 0.6 + 0.05 * number, "train.batch_size": 4 if number % 2 else 8},
    }  # fmt: skip
    return row | changed


def estimate(mean, low, high):
    return {"mean": mean, "low": low, "high": high, "n_genes": 40}


def gains_of(**gaps):
    """Outcome -> gain on one data set, from (mean, low, high)."""
    return {name: {"mean": gap[0], "by_dataset": {"tissue": estimate(*gap)}} for name, gap in gaps.items()}


def finalist(label, pcc, crps=None, **changed):
    scores = {"pcc": pcc} | ({"crps": crps} if crps else {})
    row = {"label": label, "sample": None, "is_default": label == "default", "scores": scores, "n_missing": 0}
    by_dataset = {name: {"tissue": value} for name, value in scores.items()}
    return row | {"by_dataset": by_dataset, "minus_default": {}, "values": {}} | changed


def on_test_genes(run_id="r1", **gaps):
    means = {name: {"winner": {"tissue": 0.411}, "default": {"tissue": 0.415}} for name in gaps}
    return {"run_id": run_id, "gains": gains_of(**gaps), "means": means}


def winner(label, outcomes, validation, test, values=()):
    found = {"label": label, "outcomes": outcomes, "values": dict(values)}
    return found | {"validation": gains_of(**validation), "test": test}


def one_winner(test):
    return {"winners": [winner("sample 3", ["pcc"], {"pcc": (0.02, 0.01, 0.03)}, test, {"ar.decay": 0.75})]}


def made_up(**changed):
    gap = {"pcc": {"tissue": estimate(0.02, 0.01, 0.03)}}
    finalists = [finalist("default", 0.40), finalist("sample 3", 0.42, minus_default=gap, values={"ar.decay": 0.75})]
    samples = [sample(0, 0.40, origin="default"), sample(1, 0.38), sample(2, 0.39), sample(3, 0.431)]
    samples += [sample(4, 0.31, state="stopped early", percent=20)]
    samples += [sample(5, None, state="failed", reason=f"diverged {EVIL}", percent=None)]
    facts = {"n_spots": 9, "n_cells": 9, "n_genes": 100, "n_val": 20, "n_test": 10, "sha256": "abc"}
    record = {
        "format": 2, "name": "mine", "uid": "u", "space": load_space("training").model_dump(mode="json"),
        "sampler": {"name": "TPE"}, "max_memory_mb": None, "n_samples": 6, "n_interrupted": 0,
        "seed": 0, "search_folds": 1, "datasets": {"tissue": facts}, "config": Config().flatten(), "samples": samples,
        "importances": {"pcc": {"ar.decay": 0.7, "train.batch_size": 0.3}}, "finalists": finalists,
        **one_winner(on_test_genes(pcc=(-0.004, -0.02, 0.012))), "n_tests": 1, "versions": {"python": "3"},
    }  # fmt: skip
    return SearchResults.from_json(json.dumps(record | changed), "search.json", "search again")


def made_up_front(**changed):
    """A search for both outcomes: sample 3 is the best by the guess, sample 1 by the draws, 2 lies between."""
    samples = [sample(0, 0.40, 0.30, origin="default"), sample(1, 0.38, 0.22), sample(2, 0.41, 0.25)]
    samples += [sample(3, 0.431, 0.29), sample(4, 0.2, 0.4)]
    for row in samples:
        row["on_front"] = row["sample"] in (1, 2, 3)
    gaps = {
        "sample 3": {"pcc": (0.02, 0.01, 0.03), "crps": (0.01, -0.01, 0.02)},
        "sample 1": {"pcc": (-0.03, -0.05, -0.01), "crps": (-0.08, -0.1, -0.06)},
    }
    minus = {label: {o: {"tissue": estimate(*gap)} for o, gap in found.items()} for label, found in gaps.items()}
    finalists = [
        finalist("default", 0.40, 0.30),
        finalist("sample 3", 0.42, 0.31, sample=3, minus_default=minus["sample 3"]),
        finalist("sample 1", 0.37, 0.22, sample=1, minus_default=minus["sample 1"]),
    ]
    on_test = {"pcc": (0.004, -0.02, 0.012), "crps": (-0.05, -0.07, -0.03)}
    winners = [
        winner("sample 3", ["pcc"], gaps["sample 3"], on_test_genes("r1", **on_test), {"ar.decay": 0.75}),
        winner("sample 1", ["crps"], gaps["sample 1"], on_test_genes("r2", **on_test), {"ar.decay": 0.65}),
    ]
    found = {
        "space": load_space("training").aim_at("both").model_dump(mode="json"),
        "samples": samples,
        "n_samples": 5,
        "finalists": finalists,
        "winners": winners,
        "n_tests": 2,
        "importances": {"pcc": {"ar.decay": 0.7, "train.batch_size": 0.3}, "crps": {"train.batch_size": 0.9}},
    }
    return made_up(**(found | changed))


def test_the_opening_says_by_how_much_whatever_the_sign():
    assert write_opening(made_up()) == (
        "By PCC sample 3 beats the default by +0.0200 [+0.0100, +0.0300] on validation genes; on the test genes, "
        "which the search never saw, the difference is −0.0040 [−0.0200, +0.0120]: not to be told from none."
    )
    held = one_winner(on_test_genes(pcc=(0.01, 0.002, 0.02)))
    assert write_opening(made_up(**held)).endswith("+0.0100 [+0.0020, +0.0200]: the gain holds.")
    lost = one_winner(on_test_genes(pcc=(-0.01, -0.02, -0.002)))
    assert write_opening(made_up(**lost)).endswith("[−0.0200, −0.0020]: it lost there.")


def test_the_opening_has_a_sentence_per_outcome():
    assert write_opening(made_up_front()) == (
        "By PCC sample 3 beats the default by +0.0200 [+0.0100, +0.0300] on validation genes; on the test genes, "
        "which the search never saw, the difference is +0.0040 [−0.0200, +0.0120]: not to be told from none. "
        "By CRPS (lower is better) sample 1 beats the default by −0.0800 [−0.1000, −0.0600] on validation genes; on "
        "the test genes, which the search never saw, the difference is −0.0500 [−0.0700, −0.0300]: the gain holds."
    )
    one = made_up_front().winners[1].model_dump()
    assert write_opening(made_up_front(winners=[one])).startswith(
        "By PCC the default is the best: none of the 2 confirmed beat it. By CRPS (lower is better) sample 1 beats"
    )
    assert "none of the 2 best of 5 configurations beat it by PCC or CRPS" in write_opening(made_up_front(winners=[]))


def test_the_front_is_a_table_and_a_figure_and_says_who_won(tmp_path):
    found = made_up_front()
    assert [(s.sample, find_role(s, found)) for s in found.front] == [
        (3, "best PCC, winner by PCC"),
        (2, "not confirmed"),
        (1, "best CRPS, winner by CRPS"),
    ]
    page = write_search_report(found, tmp_path).read_text()
    for text in ("<h2>The Pareto front</h2>", "winner by CRPS", "best_crps.yaml", "the rest of the front is neither"):
        assert text in page
    assert page.count("<h2>Test genes") == 2
    names = {path.stem for path in tmp_path.glob("*.svg")}
    twice = {f"{name}_{outcome}" for name in ("history", "importances", "slices") for outcome in ("pcc", "crps")}
    assert names == {"front", "parallel"} | twice
    assert "Pareto front" in (tmp_path / "front.svg").read_text()
    text = summary_text(found)
    assert "best sample by CRPS: 1, validation CRPS 0.2200" in text
    assert "     3  0.4310  0.2900  best PCC, winner by PCC" in text
    assert "the winner by CRPS, sample 1, changes:" in text
    assert list(csv.DictReader(StringIO(tidy_samples(found).to_csv(index=False))))[1]["crps"] == "0.22"


def test_a_test_without_the_outcome_is_not_called_unfinished():
    found = one_winner(on_test_genes())
    found["winners"][0]["test"]["gains"] = gains_of(crps=(0.1, 0.0, 0.2))
    assert write_opening(made_up(**found)).endswith("the comparison on the test genes has no PCC.")


def test_a_page_of_one_aim_has_no_table_of_a_front():
    page = render_search(made_up(), [])
    assert "The Pareto front" not in page
    assert "mean validation PCC (higher is better), every data set weighing the same" in page


def test_the_best_by_the_draws_is_the_lowest():
    space = load_space("training").aim_at("crps").model_dump(mode="json")
    found = made_up_front(space=space)
    assert found.find_best(AIMS["crps"]).sample == 1
    assert write_opening(found).startswith("By CRPS (lower is better) sample 1 beats the default by −0.0800")
    svg = to_svg(draw_history(found, AIMS["crps"]))
    assert "mean validation CRPS" in svg


def test_no_winner_is_invented():
    none = made_up(winners=[], n_tests=0)
    assert write_opening(none).startswith("The default is the best: none of the 1 best of 6 configurations beat it")
    assert "winner changes" not in summary_text(none)
    assert write_opening(none).endswith("There is no winner, and the test genes were not looked at.")
    assert write_opening(made_up(winners=[], n_tests=1)).endswith("There is no winner.")  # an earlier one was tested
    alone = made_up(winners=[], finalists=[finalist("default", 0.4)], max_memory_mb=10.0)
    assert write_opening(alone).endswith("no other configuration ran to its end within the memory asked for.")
    assert write_opening(made_up(n_samples=9)) == "Not finished: 6 of 9 samples are done."
    assert "not confirmed yet" in write_opening(made_up(finalists=[], winners=[]))


def test_part_of_a_comparison_is_not_told():
    part = on_test_genes(pcc=(0.3, 0.2, 0.4)) | {"missing": ["winner, seed 3"]}
    found = made_up(**one_winner(part))
    assert write_opening(found).endswith("on validation genes; the comparison on the test genes is not finished.")
    assert "<h2>Test genes</h2>" not in render_search(found, [])
    assert "<h2>Test genes</h2>" in render_search(made_up(), [])


def test_a_finalist_with_missing_runs_does_not_hide_the_winner():
    finalists = [finalist("default", 0.40), finalist("sample 3", 0.42), finalist("sample 1", 0.41, n_missing=2)]
    found = made_up(finalists=finalists)
    assert write_opening(found).startswith("By PCC sample 3 beats the default")
    assert "Runs of the confirmation are missing, and so could not win: sample 1." in summary_text(found)
    assert "not confirmed yet" in write_opening(made_up(finalists=finalists, winners=[]))


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
    again = to_svg(draw_history(made_up(), AIMS["pcc"]))
    assert again == (tmp_path / "history.svg").read_text()  # no dates, no random names


def test_every_sample_is_in_the_table():
    rows = list(csv.DictReader(StringIO(tidy_samples(made_up()).to_csv(index=False))))
    assert [row["state"] for row in rows] == ["finished"] * 4 + ["stopped early", "failed"]
    assert [row["pcc"] for row in rows][3:] == ["0.431", "0.31", ""]
    assert float(rows[2]["ar.decay"]) == pytest.approx(0.7)
    assert rows[0]["sampling.guidance"] == ""  # searched under a condition that none of these meets


def test_the_terminal_says_the_same():
    text = summary_text(made_up())
    assert write_opening(made_up()) in text
    assert "6 samples: 4 finished, 1 stopped early, 1 failed" in text
    assert "best sample: 3, validation PCC 0.4310" in text
    assert "ar.decay: 0.8 -> 0.75" in text


def test_a_search_without_a_result_still_has_a_page(tmp_path):
    nothing = made_up(samples=[], finalists=[], winners=[], importances={})
    assert "Not finished: 0 of 6" in write_search_report(nothing, tmp_path).read_text()


def test_what_is_no_record_of_a_search_is_refused():
    for text, message in (('{"format": 2}', "search.json lacks name, uid"), ("{", "search.json does not fit: .*JSON")):
        with pytest.raises(TrackingError, match=f"{message}.*; search again"):
            SearchResults.from_json(text, "search.json", "search again")
    for changed, message in (({"format": 1}, "at format: .*found 1"), ({"space": {}}, "its space: .*parameters")):
        with pytest.raises(TrackingError, match=message):
            made_up(**changed)


def test_a_search_comes_back_as_it_was_kept():
    kept = made_up()
    assert SearchResults.from_json(kept.to_json(), "search.json", "").to_json() == kept.to_json()
    assert json.loads(kept.to_json())["samples"][5]["scores"] == {"pcc": None}  # failed
    front = made_up_front()
    assert SearchResults.from_json(front.to_json(), "search.json", "").to_json() == front.to_json()
