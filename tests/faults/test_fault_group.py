"""One of the two workers of a trial dies while they train, or its node with it."""

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


def test_lost_node_of_a_two_worker_trial(study, reference_of_two, outcome, nodes):
    row = outcome(
        "a node lost under a trial of two workers", "the node of one of them removed without a word, in mid-epoch",
        "its group started again on the other nodes, same run",
    )  # fmt: skip
    cluster = nodes(1, 1, 1, dashboard=True)
    running = study(*TWO, "--address", cluster.address).start()

    def lose_a_node(driver_of_group):
        group = [worker for root in cluster.raylets.values() for worker in trial_workers(root, title=GROUP_WORKER)]
        homes = {cluster.node_of(worker) for worker in group}
        assert len(group) == len(homes) == 2
        away_from_it = homes - {cluster.node_of(driver_of_group)}
        cluster.lose(min(away_from_it))
        return running.newest()

    strike = running.strike(4, lose_a_node, *cluster.raylets.values())
    code = running.finish()
    row.ending = f"exit {code}"
    assert code == 0, running.said
    row.resumed(strike)
    row.intact(running, reference_of_two)
