"""The MLflow server goes away and comes back, and two commands share one."""

import time

import pytest
from mlflow_store import Store

pytestmark = pytest.mark.slow


def test_mlflow_server_killed_for_a_while(study, reference, outcome, server):
    row = outcome("MLflow server killed, started again", "SIGKILL to the server, in mid-epoch of the first trial")
    running = study("--tracking-uri", server.address).start()
    before = running.wait_for_epoch(3)
    server.kill()
    # the first trial ends and the second one trains while there is no store
    running.wait_for(lambda: (saved := running.newest()) and saved.folder.parent != before.folder.parent)
    began = time.monotonic()
    running.wait_for_epoch(6)
    server.start()
    away = time.monotonic() - began
    code = running.finish()
    row.running = f"went on; what the store missed in {away:.0f} s or more was replayed"
    row.resumed_from, row.seconds_lost, row.ending = "not interrupted", 0.0, f"exit {code}"
    assert code == 0, running.said
    assert "Traceback" not in running.said
    row.intact(running, reference, Store(running.output, server.address))


def test_the_same_study_twice_at_once_on_one_server(study, reference, outcome, server):
    row = outcome("started twice, two outputs on one MLflow server", "two commands started together", "both go on")
    both = [study("--tracking-uri", server.address, name=name) for name in ("one", "other")]
    for one in both:
        one.start()
    codes = [one.finish() for one in both]
    row.resumed_from, row.seconds_lost, row.ending = "not interrupted", 0.0, f"exit {codes[0]} and {codes[1]}"
    assert codes == [0, 0], "\n".join(one.said for one in both)
    row.intact(both[0], reference, Store(both[0].output, server.address))
