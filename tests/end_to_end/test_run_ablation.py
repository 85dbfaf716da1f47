"""A study from the command line to the store and the report; again, killed, stopped and with a failing trial."""

import fcntl
import json
import os
import signal
import subprocess
import time
from io import StringIO
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from mlflow_store import Store

from cgd.config import Config
from tune.trials.failure import RETRIES

STUDY = ("--study", "ar_decay", "--seeds", "2")
FAILING = """
name: learning_rates
question: Does a rate that diverges stop the others?
hypothesis: It does not.
factor: {path: train.learning_rate, name: learning rate}
levels: [{value: 0.001, label: "0.001"}, {value: 1.0e+30, label: "1e30"}]
default: 0.001
"""


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """A study run to its end: the output folder and the finished process."""
    output = tmp_path_factory.mktemp("study") / "out"
    process = run(*STUDY, "--output", output)
    assert process.returncode == 0, process.stderr
    return output, process


def test_every_trial_is_a_finished_run_with_its_record(finished):
    output, _ = finished
    store = Store(output)
    trials = store.runs("trial")
    assert len(trials) == 8
    parents = store.runs("study")
    assert [p.info.status for p in parents] == ["FINISHED"]
    for run in trials:
        tags, params = run.data.tags, run.data.params
        assert run.info.status == "FINISHED"
        assert tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert params["ar.decay"] == tags["cgd.study.ar_decay"]
        assert params["seed"] == tags["cgd.seed"]
        assert Config.from_dict(yaml.safe_load(store.text(run, "config.yaml"))).ar.decay == float(params["ar.decay"])
        split = json.loads(store.text(run, "split.json"))
        assert not set(split["train"]) & set(split["test"])
        assert len(split["sha256"]) == 64
        assert [step for step, _ in store.history(run, "train_loss")] == [1, 2, 3, 4]
        assert run.inputs.dataset_inputs[0].dataset.name == "simulated"
        table = pd.read_json(StringIO(store.text(run, "per_gene.json")), orient="split")
        assert table["pcc"].mean() == pytest.approx(run.data.metrics["test_pcc"])
        assert run.data.metrics["n_scored"] == table["pcc"].notna().sum()
        assert run.data.metrics["peak_memory_mb"] > 50
    losses = {tuple(loss for _, loss in store.history(run, "train_loss")) for run in trials}
    assert len(losses) == 8  # a decay that is read, a seed that is used


def test_every_trial_has_model_metrics_description_and_curve(finished):
    store = Store(finished[0])
    models = {m.source_run_id: m for m in store.client.search_logged_models([store.experiment_id])}
    for run in store.runs("trial"):
        model = models.pop(run.info.run_id)
        assert str(model.status) == "READY"
        assert {m.key: m.value for m in model.metrics}["test_pcc"] == run.data.metrics["test_pcc"]
        assert run.data.metrics["system/process_memory_megabytes"] > 50
        assert f"runs:/{run.info.run_id}/model" in run.data.tags["mlflow.note.content"]
        curve = store.history(run, "val_pcc")
        assert [step for step, _ in curve] == [1, 2, 3, 4]
        assert run.data.metrics["kept_val_pcc"] == curve[int(run.data.metrics["kept_epoch"]) - 1][1]
        times = [m.timestamp for m in store.client.get_metric_history(run.info.run_id, "train_loss")]
        assert len(set(times)) == 4  # each epoch has its own time, though they are written together
    assert not models


def test_the_study_has_its_numbers_and_its_curves(finished):
    store = Store(finished[0])
    parent, trials = store.runs("study")[0], store.runs("trial")
    for level in ("0.7", "0.8", "0.9", "1.0"):
        scores = [r.data.metrics["test_pcc"] for r in trials if r.data.tags["cgd.study.ar_decay"] == level]
        assert parent.data.metrics[f"pcc/simulated/{level}"] == pytest.approx(sum(scores) / 2, abs=2e-6)
    assert parent.data.metrics["pcc/simulated/floor"] < parent.data.metrics["pcc/simulated/ceiling"]
    low, high = (parent.data.metrics[f"pcc_minus_default/simulated/0.7 {end}"] for end in ("low", "high"))
    assert low <= parent.data.metrics["pcc_minus_default/simulated/0.7"] <= high
    curves = pd.read_csv(StringIO(store.text(parent, "report/curves.csv")))
    assert len(curves) == 8 * 4
    assert "validation PCC" in store.text(parent, "report/curves.svg")
    assert "| 0.8 (default) |" in parent.data.tags["mlflow.note.content"]


def test_every_filter_of_the_documentation_finds_runs(finished):
    store = Store(finished[0])
    text = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()
    filters = text.partition("```sql\n")[2].partition("```")[0].strip().splitlines()
    assert len(filters) > 4
    for query in filters:
        assert store.client.search_runs([store.experiment_id], query), query


def test_floors_are_computed_once_for_all_trials(finished):
    floors = Store(finished[0]).runs("floors")
    assert len(floors) == 1
    metrics = floors[0].data.metrics
    assert metrics["kernel_ridge_pcc"] > metrics["mean_pattern_pcc"] > metrics["gene_mean_pcc"] == 0
    assert metrics["ceiling_pcc"] > metrics["kernel_ridge_pcc"]


def test_report_is_written_attached_and_announced(finished):
    output, process = finished
    store = Store(output)
    parent = store.runs("study")[0]
    page = next(output.glob("reports/*/ar_decay.html"))
    assert str(page) in process.stdout
    assert store.text(parent, "report/ar_decay.html") == page.read_text()
    assert "kernel ridge" in page.read_text()
    record = json.loads(store.text(parent, "study.json"))
    assert {row["run_id"] for row in record["trials"]} == {run.info.run_id for run in store.runs("trial")}
    assert "make ui" in process.stdout
    assert not list(output.glob("checkpoints/*"))  # what is in the store needs no checkpoint


@pytest.mark.slow
def test_a_repeat_runs_nothing_and_more_seeds_only_the_missing(finished, run):
    output, _ = finished
    before = Store(output).contents()
    again = run(*STUDY, "--output", output)
    assert again.returncode == 0, again.stderr
    assert "8 trials: 8 in the store already, 0 to run" in again.stdout
    assert Store(output).contents() == before
    assert len(Store(output).runs("study")) == 1  # exactly these trials are one study for ever
    more = run("--study", "ar_decay", "--seeds", "3", "--output", output, "--dry-run")
    assert "12 distinct trials: 8 finished" in more.stdout
    # the default level of another study is a trial the store already has
    other = run("--study", "decoder_training", "--output", output, "--dry-run")
    assert "2 distinct trials: 1 finished" in other.stdout


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(finished, command, run, tmp_path):
    output = tmp_path / "out"
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command(*STUDY, "--output", output), stdout=file, stderr=file, cwd=tmp_path)
        _wait_for(lambda: "[3/8]" in log.read_text(), process)
        process.kill()
        process.wait()
    left = Store(output)
    assert [p.info.status for p in left.runs("study")] == ["RUNNING"]
    resumed = run(*STUDY, "--output", output, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    store = Store(output)
    assert [p.info.status for p in store.runs("study")] == ["FINISHED"]
    assert {run.info.status for run in store.runs("trial")} == {"FINISHED"}
    assert store.contents() == Store(finished[0]).contents()


@pytest.mark.slow
def test_stopped_by_the_user_says_so_and_leaves_nothing_running(command, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log.txt"
    with log.open("w") as file:
        slow = ("--set", "train.epochs=60", "--set", "train.patience=60")
        process = subprocess.Popen(
            command(*STUDY, *slow, "--output", output), stdout=file, stderr=file, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        _wait_for(lambda: "[1/8]" in log.read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, log.read_text()
    assert "--resume continues" in log.read_text()
    store = Store(output)
    assert not [run for kind in ("trial", "study") for run in store.runs(kind) if run.info.status == "RUNNING"]
    assert [run.info.status for run in store.runs("study")] == ["KILLED"]


def test_a_failing_trial_is_recorded_and_the_others_go_on(run, tmp_path):
    study = tmp_path / "rates.yaml"
    study.write_text(FAILING)
    output = tmp_path / "out"
    process = run("--study", study, "--output", output)
    assert process.returncode == 1
    assert "1 trial(s) failed" in process.stderr.splitlines()[-1]
    store = Store(output)
    by_level = {r.data.tags["cgd.study.learning_rates"]: r for r in store.runs("trial")}
    assert by_level["0.001"].info.status == "FINISHED"
    failed = by_level["1e30"]
    assert failed.info.status == "FAILED"
    assert "TrainingDiverged" in failed.data.tags["cgd.error"]
    assert "Traceback" in store.text(failed, "error.txt")
    assert "diverged" in next(output.glob("reports/*/learning_rates.html")).read_text()


@pytest.mark.slow
def test_a_worker_that_keeps_dying_fails_only_its_own_trial(command, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log.txt"
    longer = ("--set", "train.epochs=40", "--set", "train.patience=40", "--set", "train.steps_per_epoch=8")
    arguments = ("--study", "encoder_variation", "--max-concurrent", "1", *longer, "--output", output)
    with log.open("w") as file:
        process = subprocess.Popen(command(*arguments), stdout=file, stderr=file, cwd=tmp_path)
        killed: set[int] = set()
        while len(killed) <= RETRIES:  # none gets to a new epoch: checkpoints are there from the first on
            _wait_for(lambda: set(_trial_workers(process.pid, output)) - killed, process)
            worker = (set(_trial_workers(process.pid, output)) - killed).pop()
            killed.add(worker)
            os.kill(worker, signal.SIGKILL)
        assert process.wait(timeout=240) == 1, log.read_text()
    store = Store(output)
    by_level = {r.data.tags["cgd.study.encoder_variation"]: r for r in store.runs("trial")}
    assert by_level["deterministic"].info.status == "FINISHED"
    failed = by_level["variational"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["cgd.error"].startswith("WorkerDied: the worker process died: ")
    assert "actor died" in store.text(failed, "error.txt")


def _trial_workers(driver, output):
    """Processes of this command that run a trial, once a checkpoint says that it trains."""
    if not list(output.glob("checkpoints/*/epoch-*")):
        return []
    processes = psutil.Process(driver).children(recursive=True)
    return [p.pid for p in processes if _title(p).startswith("ray::ImplicitFunc")]


def _title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""


def test_two_commands_do_not_share_an_output_folder(finished, run):
    output, _ = finished
    with (output / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = run(*STUDY, "--output", output)
    assert process.returncode == 2
    assert "is in use by process" in process.stderr


def _wait_for(condition, process, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the command ended early"
        assert time.monotonic() < deadline, "the command took too long"
        time.sleep(0.1)
