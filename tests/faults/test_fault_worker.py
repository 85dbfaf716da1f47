"""A worker process dies while it trains."""

import pytest

pytestmark = pytest.mark.slow


def test_killed_worker_of_a_one_worker_trial(study, reference, outcome):
    row = outcome("worker killed", "SIGKILL to the process that trains, in mid-epoch", "restarted by Tune, same run")
    running = study().start()
    strike = running.strike(4, running.kill)
    code = running.finish()
    row.ending = f"exit {code}"
    assert code == 0, running.said
    row.resumed(strike)
    row.intact(running, reference)
