"""The MLflow UI in a browser, on the store of a tiny study: what a user looks for is there.

Skipped where there is no Chromium, unless CGD_REQUIRE_BROWSER=1; CGD_CHROMIUM names another browser than the one found.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow_store import Store

BROWSER = os.environ.get("CGD_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 20_000  # milliseconds for the page to show something; it comes in seconds on an idle machine
STUDY = """
name: two_decays
question: Does the decay matter?
hypothesis: It does not.
factor: {path: ar.decay, name: AR decay}
levels: [{value: 0.8, label: "0.8"}, {value: 1.0, label: "1.0"}]
default: 0.8
"""
ASSISTANT_CLOSED = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""


def _missing_browser():
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the package playwright is not installed"
    return None if BROWSER else "no chromium on the PATH"


reason = _missing_browser()
pytestmark = pytest.mark.skipif(
    bool(reason) and os.environ.get("CGD_REQUIRE_BROWSER") != "1", reason=f"{reason}: the UI cannot be opened"
)


@pytest.fixture(scope="module")
def store(run, tmp_path_factory):
    """The store of a finished study of two trials."""
    assert reason is None, reason
    folder = tmp_path_factory.mktemp("ui")
    study = folder / "two_decays.yaml"
    study.write_text(STUDY)
    process = run("--study", study, "--output", folder / "out", "--set", "train.epochs=2")
    assert process.returncode == 0, process.stderr
    return Store(folder / "out")


@pytest.fixture(scope="module")
def address(store):
    """A server with the settings of `make ui`, on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += ["--backend-store-uri", f"sqlite:///{store.output / 'mlflow.db'}"]
    options += ["--gunicorn-opts", "--threads 4"]
    settings = {"MLFLOW_SERVER_ALLOWED_HOSTS": "localhost,localhost:*,127.0.0.1,127.0.0.1:*"}
    settings |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = store.output / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), "server", *options],
            env={**os.environ, **settings},
            stdout=file,
            stderr=file,
        )
    try:
        yield _when_up(f"http://127.0.0.1:{port}", server, log)
    finally:
        server.terminate()
        server.wait(timeout=20)


def _when_up(address, server, log):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return address
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the MLflow server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # no sandbox: as root, as in a container, Chromium has none; it opens nothing but our own server
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address, store):
    """Open a page of the experiment in a fresh profile."""
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    context.add_init_script(ASSISTANT_CLOSED)
    context.set_default_timeout(WAIT)
    page = context.new_page()

    def call(path, query=""):
        page.goto(f"{address}/#/experiments/{store.experiment_id}/{path}?workflowType=machine_learning{query}")
        return page

    yield call
    context.close()


def test_run_list_shows_the_study_and_below_it_its_trials(visit, store):
    page = visit("runs")
    page.get_by_role("link", name="two_decays · simulated", exact=True).wait_for()
    trials = [run.info.run_name for run in store.runs("trial")]
    assert sorted(trials) == ["two_decays=0.8 · simulated · seed 0", "two_decays=1.0 · simulated · seed 0"]
    assert not page.get_by_role("link", name=trials[0], exact=True).count()
    page.locator('[row-id]:has-text("two_decays · simulated") button:has(svg)').first.click()
    for name in trials:
        page.get_by_role("link", name=name, exact=True).wait_for()


def test_the_study_page_has_description_metrics_and_report(visit, store):
    parent = store.runs("study")[0]
    page = visit(f"runs/{parent.info.run_id}")
    page.get_by_role("heading", name="Does the decay matter?").wait_for()
    page.get_by_text("Hypothesis.", exact=True).wait_for()
    page.get_by_text("pcc/simulated/0.8", exact=True).wait_for()
    page.get_by_role("button", name="Show more").or_(page.get_by_text("Show more")).first.click()
    report = _follow(page, "the report").frame_locator("iframe")
    report.get_by_role("heading", name="AR decay").first.wait_for()


def test_the_curves_of_the_levels_are_laid_over_each_other(visit, store):
    parent = store.runs("study")[0]
    page = visit(f"runs/{parent.info.run_id}")
    page.get_by_text("Show more").first.click()
    charts = _follow(page, "the curves of the levels, laid over each other")
    for level in ("0.8", "1.0"):
        charts.get_by_text(f"{level} (val_pcc)", exact=True).wait_for()
    assert charts.get_by_placeholder("Search metric charts").input_value() == "^(val_pcc|train_loss)$"


def _follow(page, words):
    """The page that a link of a description opens, in a tab of its own."""
    with page.expect_popup() as popup:
        page.get_by_role("link", name=words, exact=True).click()
    popup.value.set_default_timeout(WAIT)
    return popup.value


def test_a_trial_shows_metrics_data_set_and_system_metrics(visit, store):
    trial = store.runs("trial")[0].info.run_id
    page = visit(f"runs/{trial}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill("^val_pcc$")  # charts further down are drawn when scrolled to
    page.get_by_text("val_pcc", exact=True).wait_for()
    page.locator(".js-plotly-plot").wait_for()
    page = visit(f"runs/{trial}/system-metrics")
    page.get_by_text("cpu_utilization_percentage", exact=True).wait_for()
    page = visit(f"runs/{trial}")
    page.get_by_text("simulated (").first.wait_for()


def test_the_models_are_listed_with_the_runs_they_come_from(visit, store):
    page = visit("models")
    for run in store.runs("trial"):
        page.get_by_role("link", name=run.info.run_name).first.wait_for()
    assert page.get_by_text("Ready", exact=True).count() == 2
