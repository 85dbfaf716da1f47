"""What the driver of a search does with what candidates report: counts of lost checkpoints, and the room they take."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from cgd.config import Config
from cgd.training.checkpoint import CheckpointFolder
from tune.checkpoints.budget import BudgetCallback, stored_checkpoints
from tune.cluster.resources import Request
from tune.search import engine
from tune.search.callback import KIND_OF_RUN, Candidate, SearchCallback, SearchRuns
from tune.search.engine import Workplace
from tune.search.trial import IS_RESULT, KIND, PAYLOAD, VALUE, CandidateResult, _combine

COSTS = {"wall_seconds": 1.0, "train_seconds": 1.0, "peak_memory_mb": 1.0, "n_parameters": 1.0, "epochs": 1.0}


class Noted:
    """An outbox, or a terminal, that notes what it is told."""

    def __init__(self):
        self.told = []
        known = SimpleNamespace(status="FINISHED", fingerprint="search-u-0")
        self.tracking = SimpleNamespace(runs=lambda kind: {"search-u-0": known} if kind == KIND_OF_RUN else {})

    def __getattr__(self, name):
        return lambda *arguments: self.told.append((name, *arguments))


class OneCandidate(SearchCallback):
    """A search of one candidate."""

    def candidate_of(self, trial):
        return Candidate("search-u-1", "sample 1", Config(), {})


@pytest.fixture
def callback(tmp_path):
    outbox = Noted()
    return OneCandidate(SearchRuns(outbox, "parent", {}), Noted(), tmp_path / "checkpoints")


def combined(*lost):
    rows = [{**COSTS, **one, "val_pcc": 0.5, "dataset": "d"} for one in lost]
    return _combine(pd.DataFrame(rows), pd.DataFrame({"gene": ["a"], "pcc": [0.5]}))


def test_checkpoints_lost_in_any_replicate_are_tags_of_the_run_and_no_metrics(callback):
    found = combined({"damaged_checkpoints": 1.0, "unsaved_checkpoints": 2.0}, {}, {"unsaved_checkpoints": 3.0})
    trial = SimpleNamespace(trial_id="t")
    callback.on_trial_start(0, [], trial)
    callback.on_trial_result(0, [], trial, {KIND: IS_RESULT, VALUE: found.value, PAYLOAD: found.to_json()})
    told = callback.runs.outbox.told
    tags = {tag: value for name, key, tag, value in (one for one in told if one[0] == "tag")}
    assert tags == {"cgd.damaged_checkpoints": "1", "cgd.unsaved_checkpoints": "5"}
    assert [one[0] for one in told if one[0] in ("tag", "finish")][-1] == "finish"  # nothing comes after the end
    (metrics,) = [one[2] for one in told if one[0] == "finish"]
    assert not [name for name in metrics if "checkpoints" in name]


def test_a_result_that_lost_nothing_has_no_such_tags_and_one_of_an_earlier_version_is_read():
    assert combined({}).lost == {}
    text = '{"value": 0.5, "by_dataset": {}, "summary": {}, "per_gene": {"gene": ["a"], "pcc": [0.5]}}'
    assert CandidateResult.from_json(text).lost == {}


def test_a_search_holds_the_checkpoint_budget(callback, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(engine, "run_tune", lambda *arguments, **named: given.update(named))
    place = Workplace({}, tmp_path, tmp_path / "s", 1, Request(1, 1), budget=15_000)
    engine.fit(place, (), callback)
    for key, epochs in [("search-u-0/a", (1,)), ("search-u-1/a", (1, 2))]:  # the first has its result
        for epoch in epochs:
            CheckpointFolder(tmp_path / "checkpoints" / key, "a").save(epoch, {"a": torch.zeros(2500)}, {})
    (over,) = [one for one in given["also"] if isinstance(one, BudgetCallback)]
    over.on_trial_complete(0, [], None)
    assert [(one.trial, one.epoch) for one in stored_checkpoints(tmp_path / "checkpoints")] == [("search-u-1", 2)]
