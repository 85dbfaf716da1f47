"""Nodes go away under a running trial, as spot machines do."""

import pytest

from tune.trials.failure import RETRIES

pytestmark = pytest.mark.slow


def test_lost_nodes_do_not_use_up_the_retries_of_a_trial(study, reference, outcome, nodes):
    losses = RETRIES + 1  # one more than a trial may lose in one and the same epoch
    row = outcome(
        f"{losses} nodes lost, one after the other",
        "the node of the running trial removed without a word, in mid-epoch",
        "restarted by Tune on another node, same run",
    )
    cluster = nodes(1, 1)
    running = study("--address", cluster.address).start()

    def lose_its_node(worker):
        cluster.lose(cluster.node_of(worker))
        before = running.newest()
        cluster.add(1)
        return before

    strikes = [running.strike(3 * (i + 1), lose_its_node, *cluster.raylets.values()) for i in range(losses)]
    code = running.finish()
    row.ending = f"exit {code}"
    assert code == 0, running.said
    for strike in strikes:
        row.resumed(strike)
    row.resumed_from = ", ".join(f"{s.before.epoch} of {s.before.epoch}" for s in strikes)
    row.seconds_lost = max(strike.seconds for strike in strikes)
    row.intact(running, reference)
