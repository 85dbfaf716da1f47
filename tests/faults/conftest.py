"""Studies to strike, one left in peace to compare with, and the record of what came of it."""

import json
import os
from pathlib import Path

import pytest
from faulty_study import FaultyStudy
from intact import Outcome
from ray_nodes import Nodes

OUTCOMES = "CGD_FAULT_OUTCOMES"  # file that gets a line of JSON per fault, for tests/faults/table.py


@pytest.fixture
def study(tmp_path):
    """Make a study in a folder of its own; whatever of it still runs at the end of the test is killed."""
    made = []

    def make(*arguments, name="study", environment=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(FaultyStudy(folder, *arguments, environment=environment))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """Output folder of the study that nothing happened to."""
    undisturbed = FaultyStudy(tmp_path_factory.mktemp("undisturbed")).start()
    try:
        assert undisturbed.finish() == 0, undisturbed.said
    finally:
        undisturbed.stop()
    return undisturbed.output


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.passed = report.passed
    return report


@pytest.fixture
def outcome(request):
    """Make rows of the table; they are recorded when the test has passed."""
    rows = []

    def make(fault, struck, running=""):
        rows.append(Outcome(fault, struck, running))
        return rows[-1]

    yield make
    if os.environ.get(OUTCOMES) and getattr(request.node, "passed", False):
        with Path(os.environ[OUTCOMES]).open("a") as file:
            file.writelines(json.dumps(row.to_row()) + "\n" for row in rows)


@pytest.fixture
def nodes():
    """Make clusters; they end with the test."""
    made = []

    def make(*cpus, dashboard=False):
        made.append(Nodes(*cpus, dashboard=dashboard))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()
