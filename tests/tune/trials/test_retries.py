"""Which deaths of its worker a trial is forgiven."""

from types import SimpleNamespace

from tune.trials.failure import RETRIES, RenewRetries


def _report(callback, trial, iteration):
    callback.on_trial_result(0, [trial], trial, {"training_iteration": iteration})


def test_a_trial_that_gets_further_has_its_retries_again():
    callback, trial = RenewRetries(), SimpleNamespace(trial_id="a", num_failures=0, max_failures=RETRIES)
    for epoch in (1, 2, 3):
        _report(callback, trial, epoch)
        trial.num_failures += 1  # on a spot machine, say
    assert trial.num_failures <= trial.max_failures


def test_epochs_reported_again_are_no_progress():
    callback, trial = RenewRetries(), SimpleNamespace(trial_id="a", num_failures=0, max_failures=RETRIES)
    _report(callback, trial, 1)
    _report(callback, trial, 2)
    for _ in range(RETRIES + 1):  # each restart reports what its checkpoint has, and dies in epoch 3
        trial.num_failures += 1
        _report(callback, trial, 1)
        _report(callback, trial, 2)
    assert trial.num_failures > trial.max_failures


def test_trials_are_counted_apart():
    callback = RenewRetries()
    one = SimpleNamespace(trial_id="a", num_failures=0, max_failures=RETRIES)
    other = SimpleNamespace(trial_id="b", num_failures=5, max_failures=RETRIES)
    _report(callback, one, 7)
    _report(callback, other, 1)
    assert other.max_failures == 5 + RETRIES
    assert one.max_failures == RETRIES
