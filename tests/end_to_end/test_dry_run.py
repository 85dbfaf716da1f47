"""A dry run says what a study will cost and leaves the store alone; the real run remembers, and is quiet."""

import json
import re

import pytest
from mlflow_store import Store

STUDY = ("--study", "depth", "--seeds", "1", "--set", "train.epochs=3")


@pytest.fixture(scope="module")
def forecast(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("dry") / "out"
    process = run(*STUDY, "--output", output, "--dry-run")
    assert process.returncode == 0, process.stderr
    return output, process


def test_the_forecast_covers_every_trial_and_creates_no_store(forecast):
    output, process = forecast
    assert sorted(path.name for path in output.iterdir()) == ["forecasts", "logs"]
    record = json.loads(next((output / "forecasts").iterdir()).read_text())
    rows = [line for line in process.stdout.splitlines() if "  to run  " in line]
    assert len(rows) == len(record["trials"]) == int(re.search(r"(\d+) distinct trials", process.stdout).group(1))
    assert len({len(row.rstrip()) for row in rows}) == 1  # aligned
    assert [row for row in rows if not re.search(r"\d (s|min) +[\d.]+ [MG]B( |$)", row)] == []
    assert all(trial["seconds"] > 0 and trial["memory_mb"] > 50 for trial in record["trials"])
    seconds = [trial["seconds"] for trial in record["trials"]]
    assert max(seconds) <= record["wall_seconds"] <= record["launch_seconds"] + sum(seconds)
    assert f"forecast for {len(rows)} trials, {record['n_concurrent']} at a time" in process.stdout
    assert process.stderr == ""


def test_without_a_forecast_nothing_is_run_or_written(run, tmp_path):
    process = run(*STUDY, "--output", tmp_path / "out", "--dry-run", "--no-forecast")
    assert process.returncode == 0, process.stderr
    assert "to run" in process.stdout
    assert "probing" not in process.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_real_run_finds_the_forecast_and_is_quiet(forecast, run):
    output, _ = forecast
    process = run(*STUDY, "--output", output)
    assert process.returncode == 0, process.stderr
    assert re.search(r"forecast of \S+: about .+, \d+ at a time", process.stdout)
    assert process.stderr == ""
    assert "\x1b" not in process.stdout
    named = re.search(r"^Log: +(\S+)$", process.stdout, re.MULTILINE).group(1)
    assert named == str(max((output / "logs").iterdir()))
    store = Store(output)
    study = json.loads(store.text(store.runs("study")[0], "study.json"))
    assert study["forecast"] == json.loads(next((output / "forecasts").iterdir()).read_text())
    assert {t["fingerprint"] for t in study["forecast"]["trials"]} == {t["fingerprint"] for t in study["trials"]}
    again = run(*STUDY, "--output", output, "--dry-run")
    assert again.returncode == 0, again.stderr
    assert "probing" not in again.stdout  # nothing is left to forecast
    assert again.stdout.count("  finished") == process.stdout.count("PCC 0.") or "0 to run" in again.stdout
