"""The MLflow server goes away and does not come back before the command has ended."""

import pytest
from mlflow_store import Store

pytestmark = pytest.mark.slow


def test_mlflow_server_gone_until_the_command_has_ended(study, reference, outcome, server):
    row = outcome("MLflow server killed, gone to the end", "SIGKILL to the server, in mid-epoch of the first trial")
    running = study("--tracking-uri", server.address, environment={"CGD_STORE_WAIT": "5"}).start()
    running.wait_for_epoch(3)
    server.kill()
    first = running.finish()
    assert first == 3, running.said
    assert running.said.count("the tracking store is away") == 1
    assert f"lies in {running.output}/outbox; the same command delivers it" in running.said
    assert "Traceback" not in running.said
    assert len(list((running.output / "outbox").glob("*.jsonl"))) == 2  # both trials
    assert not list((running.output / "checkpoints").glob("*/epoch-*"))  # what they left is in the outbox
    server.start()
    second = running.start().finish()
    assert second == 0, running.said
    assert "2 trials: 2 in the store already, 0 to run" in running.said
    assert not list((running.output / "outbox").iterdir())
    row.running, row.resumed_from = "went on to its end; all of it waited on disk", "not interrupted"
    row.seconds_lost, row.ending = 0.0, f"exit {first}; the same command again delivered everything: exit {second}"
    row.intact(running, reference, Store(running.output, server.address))
