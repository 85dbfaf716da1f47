"""One of the two workers of a trial dies while they train."""

import pytest
from faulty_study import FaultyStudy, trial_workers

pytestmark = pytest.mark.slow
TWO = ("--workers-per-trial", "2")
GROUP_WORKER = "ray::RayTrainWorker"


@pytest.fixture(scope="module")
def reference_of_two(tmp_path_factory):
    """Output folder of the study of two workers per trial that nothing happened to."""
    undisturbed = FaultyStudy(tmp_path_factory.mktemp("two_workers"), *TWO).start()
    try:
        assert undisturbed.finish() == 0, undisturbed.said
    finally:
        undisturbed.stop()
    return undisturbed.output


def test_killed_worker_of_a_two_worker_trial(study, reference_of_two, outcome):
    row = outcome(
        "one of two workers killed", "SIGKILL to one of the two processes that train, in mid-epoch",
        "its group started again, same run",
    )  # fmt: skip
    running = study(*TWO).start()

    def kill_one(driver_of_group):
        group = trial_workers(running.process.pid, title=GROUP_WORKER)
        assert len(group) == 2
        return running.kill(group[-1])

    strike = running.strike(4, kill_one)
    code = running.finish()
    row.ending = f"exit {code}"
    assert code == 0, running.said
    row.resumed(strike)
    row.intact(running, reference_of_two)
