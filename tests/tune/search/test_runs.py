"""The driver of a search and what candidates report: runs, lines, lost checkpoints and the room they take."""

import io
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from ablations.search.aim import list_aims
from cgd.config import Config
from cgd.evaluation import Evaluation
from cgd.training.checkpoint import CheckpointFolder
from tune.checkpoints.budget import CheckpointBudget, find_checkpoints
from tune.search import engine
from tune.search.engine import Place
from tune.search.runs import KIND_OF_RUN, Candidate, SearchRecorder, SearchRuns
from tune.terminal.progress import Progress
from tune.terminal.text import make_console
from tune.trials.callback import TrialCallback
from tune.trials.messages import Epoch, TrialResult, to_report
from tune.trials.spec import Replicate
from tune.trials.trial import Work, _Epochs, combine

BEST_GUESS = list_aims("pcc")
COSTS = {"wall_seconds": 1.0, "train_seconds": 1.0, "peak_memory_mb": 1.0, "n_parameters": 1.0, "epochs": 1.0}


class Noted:
    """An outbox, or a terminal, that notes what it is told."""

    def __init__(self):
        self.told = []
        known = SimpleNamespace(status="FINISHED", fingerprint="search-u-0")
        self.tracking = SimpleNamespace(find_runs=lambda kind: {"search-u-0": known} if kind == KIND_OF_RUN else {})

    def __getattr__(self, name):
        return lambda *arguments: self.told.append((name, *arguments))


def candidate_of(key):
    return Candidate(key, f"sample {key[-1]}", Config(), {})


def recorder_of(progress, folder, aims=BEST_GUESS, **named):
    return SearchRecorder(
        SearchRuns(Noted(), "parent", {}), progress, Work("validation", (), {}, folder), aims, candidate_of, **named
    )


@pytest.fixture
def recorder(tmp_path):
    return recorder_of(Noted(), tmp_path / "checkpoints")


def combined(*lost):
    where, table = Replicate("d", 0, 0, None, "d"), pd.DataFrame({"gene": ["a"], "pcc": [0.5]})
    return combine([(where, Evaluation(table, {**COSTS, **one, "val_pcc": 0.5}, None)) for one in lost])


def test_lost_checkpoints_of_any_replicate_are_tags_not_metrics(recorder):
    found = combined({"damaged_checkpoints": 1.0, "unsaved_checkpoints": 2.0}, {}, {"unsaved_checkpoints": 3.0})
    trial, callback = SimpleNamespace(config={"job": {"key": "search-u-1"}}), TrialCallback(recorder)
    callback.on_trial_start(0, [], trial)
    callback.on_trial_result(0, [], trial, to_report(found))
    told = recorder.outbox.told
    tags = {tag: value for name, key, tag, value in (one for one in told if one[0] == "tag")}
    assert tags == {"cgd.damaged_checkpoints": "1", "cgd.unsaved_checkpoints": "5"}
    assert [one[0] for one in told if one[0] in ("tag", "finish")][-1] == "finish"  # nothing comes after the end
    (metrics,) = [one[2] for one in told if one[0] == "finish"]
    assert not [name for name in metrics if "checkpoints" in name]


def test_a_result_that_lost_nothing_has_no_tags_even_if_old():
    assert combined({}).lost == {}
    text = '{"scores": {"pcc": {"d": 0.5}}, "summary": {}, "per_gene": {"gene": ["a"], "pcc": [0.5]}}'
    assert TrialResult.from_json(text).lost == {}


def test_a_search_holds_the_checkpoint_budget(recorder, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(engine, "run_tune", lambda *arguments, **named: given.update(named))
    engine.run_candidates(Place(recorder.work, tmp_path, tmp_path / "s", 1, budget=15_000), (), recorder)
    for key, epochs in [("search-u-0/a", (1,)), ("search-u-1/a", (1, 2))]:  # the first has its result
        for epoch in epochs:
            CheckpointFolder(tmp_path / "checkpoints" / key, "a").save(epoch, {"a": torch.zeros(2500)}, {})
    (over,) = [one for one in given["callbacks"] if isinstance(one, CheckpointBudget)]
    over.on_trial_complete(0, [], None)
    assert [(one.trial, one.epoch) for one in find_checkpoints(tmp_path / "checkpoints")] == [("search-u-1", 2)]


def result(pcc, crps=0.1):
    table = pd.DataFrame({"gene": ["a"], "pcc": [pcc]})
    return TrialResult({"pcc": {"d": pcc}, "crps": {"d": crps}}, {"seconds": 10.0}, table)


def lines_of(bar):
    return [line.partition(";")[0] for line in bar.console.file.getvalue().splitlines()]


def test_only_a_whole_sample_that_fits_is_the_best_so_far(tmp_path):
    with Progress(5, 500, make_console(io.StringIO())) as bar:
        best, fits = {"pcc": (0.2, "sample 0")}, lambda found: found.find_score("pcc") != 0.8
        recorder = recorder_of(bar, tmp_path, best=best, is_eligible=fits)
        assert bar.board.best == {"validation PCC": (0.2, "sample 0")}
        for key in ("s1", "s2", "s3", "s4"):
            recorder.start(key)
            recorder.hear_epoch(key, Epoch({"epoch": 1}, {"pcc": 0.9}, 50))
        recorder.stop("s1")
        recorder.finish("s2", result(0.8))
        assert bar.board.best == {"validation PCC": (0.2, "sample 0")}
        recorder.finish("s3", result(0.3))
        recorder.finish("s4", result(0.25))
        assert bar.board.best == {"validation PCC": (0.3, "sample 3")}
    assert lines_of(bar) == [
        "[1/5] sample 1: stopped at 50 % with validation PCC 0.9000",
        "[2/5] sample 2: validation PCC 0.8000 in 10 s, over the memory asked for",
        "[3/5] sample 3: validation PCC 0.3000 in 10 s, the best so far",
        "[4/5] sample 4: validation PCC 0.2500 in 10 s (best 0.3000, sample 3)",
    ]


def test_a_line_names_both_outcomes_and_the_best_by_each(tmp_path):
    with Progress(4, 400, make_console(io.StringIO()), outcomes=("pcc", "crps")) as bar:
        recorder = recorder_of(bar, tmp_path, list_aims("both"))
        for key, found in {"s1": (0.3, 0.2), "s2": (0.2, 0.1), "s3": (0.1, 0.3)}.items():
            recorder.start(key)
            recorder.finish(key, result(*found))
    assert lines_of(bar) == [
        "[1/4] sample 1: validation PCC 0.3000, CRPS 0.2000 in 10 s, the best PCC and CRPS so far",
        "[2/4] sample 2: validation PCC 0.2000, CRPS 0.1000 in 10 s, the best CRPS so far",
        "[3/4] sample 3: validation PCC 0.1000, CRPS 0.3000 in 10 s (best 0.3000, sample 1 and 0.1000, sample 2)",
    ]
    assert bar.board.best == {"validation PCC": (0.3, "sample 1"), "validation CRPS": (0.1, "sample 2")}
    (metrics,) = [one[2] for one in recorder.outbox.told if one[0] == "finish" and one[1] == "s2"]
    assert (metrics["kept_val_pcc"], metrics["kept_val_crps"]) == (0.2, 0.1)


def test_runs_of_a_confirmation_have_no_best(tmp_path):
    with Progress(1, 100, make_console(io.StringIO())) as bar:
        recorder = recorder_of(bar, tmp_path, is_ranked=False)
        recorder.start("s0")
        recorder.hear_epoch("s0", Epoch({"epoch": 1}, {"pcc": 0.9}, 100))
        recorder.finish("s0", result(0.9))
    assert not bar.board.best
    assert "best" not in bar.console.file.getvalue()


def test_epochs_report_the_best_so_far_of_what_they_score():
    heard = []
    epochs = _Epochs(2, 2, heard.append)
    for epoch, metrics in ((1, {"val_pcc": 0.3, "val_crps": 0.5}), (2, {"val_pcc": 0.2, "val_crps": 0.6})):
        epochs({**metrics, "epoch": epoch})
    epochs.end_replicate({"val_pcc": 0.3, "val_crps": 0.5})
    epochs({"val_pcc": 0.5, "val_crps": 0.3, "epoch": 1})
    assert [one.scores["pcc"] for one in heard] == pytest.approx([0.3, 0.3, 0.4])
    assert [one.scores["crps"] for one in heard] == pytest.approx([0.5, 0.5, 0.4])
    assert [one.percent for one in heard] == [25, 50, 75]
    only = []
    _Epochs(1, 1, only.append)({"val_pcc": 0.3, "epoch": 1})
    assert only[0].scores == {"pcc": 0.3}
