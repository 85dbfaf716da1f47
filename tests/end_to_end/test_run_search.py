"""A search from the command line to the winner on the test genes; again, killed and continued."""

import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow_store import Store
from optuna.trial import TrialState

from ablations.search.aim import AIMS
from ablations.search.results import SearchResults
from ablations.search.wording import write_opening
from cgd.config import Config
from cgd.data.catalog import load_dataset
from cgd.data.preprocess import prepare
from cgd.data.split import make_splits
from tune.search.storage import open_journal

ROOT = Path(__file__).parents[2]
SPACE = """
name: tiny
description: a few fields
parameters:
  - {path: model.kernel_sharpness, low: 0.0, high: 4.0, step: 0.5}
  - {path: train.learning_rate, low: 0.0005, high: 0.02, log: true}
  - {path: model.tokens, choices: [gene, latent]}
  - {path: model.token_dim, choices: [2, 4], when: {model.tokens: latent}}
sampler: {n_startup_trials: 3}
stopping: {first_percent: 40, factor: 2, spared: 2}
"""
ARGUMENTS = ("--samples", "6", "--finalists", "1", "--seeds", "1", "--folds", "1", "--max-concurrent", "1")


@pytest.fixture(scope="module")
def search_command(tiny_config, tmp_path_factory):
    """Command line of a tiny search with the given output folder and further arguments."""
    space = tmp_path_factory.mktemp("space") / "tiny.yaml"
    space.write_text(SPACE)

    def build(output, *arguments):
        given = ("--config", tiny_config, "--space", space, "--name", "s", *ARGUMENTS, "--output", output, *arguments)
        return [sys.executable, str(ROOT / "tune" / "run_search.py"), *map(str, given)]

    return build


@pytest.fixture(scope="module")
def searched(search_command, tmp_path_factory):
    """A search run to its end: the output folder and the finished process."""
    folder = tmp_path_factory.mktemp("search")
    process = subprocess.run(
        search_command(folder / "out"), cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert process.returncode == 0, process.stderr
    return folder / "out", process


def trials_of(output):
    """Sample -> the trials that count for it, from the journal alone."""
    study = optuna.load_study(study_name="s", storage=open_journal(output / "search" / "s.journal"))
    found = {}
    for trial in study.get_trials():
        if not trial.user_attrs.get("interrupted"):
            found.setdefault(trial.user_attrs["sample"], []).append(trial)
    return found


def story(output):
    """What must not depend on how a search was run: parameters, values and how each sample ended."""
    return {
        sample: [(t.params, t.values, t.state, t.intermediate_values) for t in trials]
        for sample, trials in trials_of(output).items()
    }


def _test_genes():
    """The test genes of the simulated pair, as every study of the default split has them."""
    prepared = prepare(load_dataset("simulated"), Config().data)
    return set(make_splits(prepared.panel, Config().split)[0].test)


def test_every_sample_is_a_run_scored_on_validation_genes_alone(searched):
    output, _ = searched
    store = Store(output)
    (parent,) = store.runs("search")
    assert parent.info.status == "FINISHED"
    runs = {r.data.tags["cgd.sample"]: r for r in store.runs("search_trial") if r.data.tags["cgd.stage"] == "search"}
    trials = trials_of(output)
    assert sorted(trials) == list(range(6))
    assert sorted(runs) == [str(sample) for sample in range(6)]
    test_genes = _test_genes()
    for sample, (trial,) in trials.items():
        run = runs[str(sample)]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert not [key for key in run.data.metrics if key.startswith("test_")]
        config = Config.from_dict(yaml.safe_load(store.text(run, "config.yaml")))
        assert all(config.flatten()[path] == value for path, value in trial.user_attrs["values"].items())
        if trial.state == TrialState.COMPLETE:
            assert run.data.metrics["kept_val_pcc"] == trial.value
            table = json.loads(store.text(run, "per_gene.json"))
            genes = {row[table["columns"].index("gene")] for row in table["data"]}
            assert genes
            assert not genes & test_genes
        else:
            assert trial.state == TrialState.PRUNED
            assert 0 < int(run.data.tags["cgd.stopped_at_percent"]) < 100
    assert all(len(store.history(run, "val_pcc")) >= 1 for run in runs.values())


def test_the_winner_is_tested_once_and_the_record_says_the_lead(searched):
    output, process = searched
    results = SearchResults.from_json((output / "search" / "s" / "search.json").read_text(), "search.json", "")
    default, other = sorted(results.finalists, key=lambda row: not row.is_default)
    assert results.n_ended == 6
    best = yaml.safe_load((output / "search" / "s" / "best.yaml").read_text())
    (winner,) = results.winners or [None]
    assert Config.from_dict(best).flatten() == {**results.config, **(winner.values if winner else {})}
    store = Store(output)
    if winner is None:
        assert default.scores["pcc"] >= other.scores["pcc"]
        assert not store.runs("trial")
        assert "The default is the best" in process.stdout
    else:
        assert other.scores["pcc"] > default.scores["pcc"]
        assert winner.label == other.label
        assert {run.data.tags["cgd.study.search_s"] for run in store.runs("trial")} == {"default", "winner"}
        assert len(store.runs("trial")) == 2
        found = winner.test.gains["pcc"].by_dataset["simulated"]
        assert found.low <= found.mean <= found.high
        by_level = {r.data.tags["cgd.study.search_s"]: r.data.metrics["test_pcc"] for r in store.runs("trial")}
        assert found.mean == pytest.approx(by_level["winner"] - by_level["default"], abs=1e-8)  # ten digits are kept
        assert "beats the default by" in process.stdout
        assert next((output / "reports").glob("*/search_s.html")).is_file()
    page = (output / "search" / "s" / "report" / "search.html").read_text()
    assert store.text(store.runs("search")[0], "report/search.html") == page
    assert "<svg" in page
    parent = store.runs("search")[0]
    assert parent.data.metrics["best_val_pcc"] == results.find_best(AIMS["pcc"]).scores["pcc"]
    assert write_opening(results) in parent.data.tags["mlflow.note.content"]
    assert "http" not in page.split("</style>")[1].replace("http://www.w3.org", "")


def test_the_best_configuration_is_taken_by_run_ablation(searched, tmp_path):
    output, _ = searched
    command = [sys.executable, str(ROOT / "tune" / "run_ablation.py"), "--study", "depth", "--dry-run"]
    best = ["--config", str(output / "search" / "s" / "best.yaml"), "--output", str(tmp_path / "out")]
    process = subprocess.run([*command, *best], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stderr
    assert "depth" in process.stdout


@pytest.mark.slow
def test_a_search_for_both_confirms_and_tests_the_best_by_each(search_command, tmp_path):
    output = tmp_path / "out"
    command = search_command(output, "--aim", "both", "--finalists", "2", "--set", "sampling.n_samples=2")
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 0, process.stderr
    results = SearchResults.from_json((output / "search" / "s" / "search.json").read_text(), "search.json", "")
    assert len(results.finished) == 6  # none stopped early
    assert "no sample is stopped early" in process.stdout
    assert all(set(sample.scores) == {"pcc", "crps"} for sample in results.samples)
    tested = {tag for run in Store(output).runs("trial") for tag in run.data.tags if tag.startswith("cgd.study.")}
    assert len(tested) == len(results.winners)
    for outcome in results.outcomes:
        winner, default = results.find_winner(outcome), next(row for row in results.finalists if row.is_default)
        best = yaml.safe_load((output / "search" / "s" / f"best_{outcome.name}.yaml").read_text())
        assert Config.from_dict(best).flatten() == {**results.config, **(winner.values if winner else {})}
        ranked = max(results.finalists, key=lambda row: outcome.weigh(row.find_value(outcome)))
        assert ranked.label == (winner or default).label
        assert {s.sample for s in results.front} >= {results.find_best(outcome).sample}
    metrics = Store(output).runs("search")[0].data.metrics
    assert {"best_val_pcc", "best_val_crps"} <= set(metrics)


@pytest.mark.slow
def test_killed_and_continued_it_is_the_same_search(searched, search_command, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(search_command(output), stdout=file, stderr=file, cwd=tmp_path)
        deadline = time.monotonic() + 300
        while "[2/6]" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
    refused = subprocess.run(
        search_command(output), cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert refused.returncode == 2
    assert "--resume continues it" in refused.stderr
    before = {s: [t.datetime_complete for t in trials] for s, trials in trials_of(output).items() if s < 2}
    resumed = subprocess.run(
        search_command(output, "--resume"), cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    after = trials_of(output)
    assert {s: [t.datetime_complete for t in after[s]] for s in before} == before  # what was finished was not run again
    assert all(len(trials) == 1 for trials in after.values())
    assert story(output) == story(searched[0])
    store = Store(output)
    runs = [r for r in store.runs("search_trial") if r.data.tags["cgd.stage"] == "search"]
    assert sorted(r.data.tags["cgd.sample"] for r in runs) == [str(sample) for sample in range(6)]
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert [r.info.status for r in store.runs("search")] == ["FINISHED"]
    assert not list((output / "checkpoints").glob("search-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--space", "fulll"), "no search space 'fulll'"),
        (("--set", "split.n_folds=3"), "validation genes of one are test genes of another"),
        (("--set", "evaluation.protocol=published"), "a search scores genes that were hidden whole"),
        (("--aim", "crps", "--set", "sampling.n_samples=1"), "sampling.n_samples is 1 and the aim is crps"),
        (("--search-folds", "3"), "--search-folds 3 is more than --folds 1"),
        (("--folds", "9"), "at most 4"),
        (("--storage", "sqlite:////tmp/elsewhere.db"), "SQLite locks the whole file"),
        (("--warm-start", "nowhere.journal"), "no such file"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(search_command, tmp_path, capsys, arguments, message):
    from tune.commands.search import main

    assert main([*search_command(tmp_path / "out")[2:], *arguments]) == 2
    assert message in capsys.readouterr().err
