"""What the one callback makes of Ray Tune's events: each trial starts once and ends once, whatever Tune tells."""

from types import SimpleNamespace

import pandas as pd
import pytest

from cgd.errors import DiskError, TrackingError
from tune.trials.callback import Listener, TrialCallback
from tune.trials.failure import Failure
from tune.trials.messages import Epoch, TrialResult, to_report

RESULT = TrialResult({"pcc": {"d": 0.5}}, {"seconds": 1.0}, pd.DataFrame())
EPOCH = Epoch({"epoch": 1}, {"pcc": 0.4}, 50)


class Noted(Listener):
    """Notes what it hears; `refuse` names what raises an error instead."""

    def __init__(self, refuse=None, error=None):
        self.told, self.refuse, self.error = [], refuse, error

    def __getattribute__(self, name):
        if name not in ("start", "hear_epoch", "finish", "fail", "forget", "stop", "close"):
            return super().__getattribute__(name)

        def hear(key, *rest):
            if name == self.refuse:
                raise self.error
            self.told.append((name, key))

        return hear


@pytest.fixture
def trial(tmp_path):
    return SimpleNamespace(config={"job": {"key": "k"}}, local_path=str(tmp_path))


def play(callback, trial, *events):
    for event in events:
        if event in ("start", "complete", "error"):
            getattr(callback, f"on_trial_{event}")(0, [], trial)
        else:
            callback.on_trial_result(0, [], trial, to_report(event))
    callback.close()
    return callback.listener.told


def test_a_trial_starts_and_ends_once(trial):
    told = play(TrialCallback(Noted()), trial, "start", EPOCH, "start", EPOCH, RESULT, "complete")
    assert told == [("start", "k"), ("hear_epoch", "k"), ("hear_epoch", "k"), ("finish", "k"), ("close", [])]


def test_a_second_result_after_a_restart_is_cleaned_up(trial):
    told = play(TrialCallback(Noted()), trial, "start", RESULT, "start", EPOCH, RESULT, "complete")
    assert told == [("start", "k"), ("finish", "k"), ("forget", "k"), ("close", [])]


def test_a_process_that_never_started_is_a_failed_trial(trial):
    assert play(TrialCallback(Noted()), trial, "error") == [("start", "k"), ("fail", "k"), ("close", [])]
    assert play(TrialCallback(Noted()), trial, "complete") == [("close", [])]


def test_what_ends_without_a_result_was_stopped(trial):
    assert play(TrialCallback(Noted()), trial, "start", EPOCH, "complete")[-2:] == [("stop", "k"), ("close", [])]
    assert play(TrialCallback(Noted()), trial, "start", Failure("E", "m", "t"))[1:] == [("fail", "k"), ("close", [])]


def test_a_result_that_cannot_be_written_leaves_its_run_open(trial):
    callback = TrialCallback(Noted("finish", DiskError("full")))
    with pytest.raises(DiskError):
        play(callback, trial, "start", RESULT)
    callback.close()
    assert callback.listener.told == [("start", "k"), ("close", ["k"])]


def test_a_run_that_the_store_refused_was_never_open(trial):
    callback = TrialCallback(Noted("start", TrackingError("refused", "mend it")))
    with pytest.raises(TrackingError):
        play(callback, trial, "start")
    callback.close()
    assert callback.error.reason == "refused"
    assert callback.listener.told == [("close", [])]
