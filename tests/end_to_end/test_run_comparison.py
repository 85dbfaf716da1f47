"""A comparison from the command line to the store, the two Tables I and the file of results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mlflow_store import Store

from ablations.study.comparison import PROTOCOLS
from tune.commands.comparison import main

SCRIPT = Path(__file__).parents[2] / "tune" / "run_comparison.py"
OWN = """
import numpy as np

class Pattern:
    def fit(self, visible, seed):
        self.pattern = visible.x_st.mean(axis=0)

    def predict(self, genes):
        return np.tile(self.pattern, (len(genes), 1))

class Broken(Pattern):
    def fit(self, visible, seed):
        raise ValueError("does not converge")
"""
METHODS = (
    *("--methods", "own_methods:Pattern,own_methods:Broken", "--folds", "1", "--seeds", "1"),
    *("--set", "sampling.n_samples=2"),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with methods of one's own, from which the command is given."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "own_methods.py").write_text(OWN)
    return folder


@pytest.fixture(scope="module")
def command(here, tiny_config):
    def build(*arguments):
        return [sys.executable, str(SCRIPT), "--config", str(tiny_config), "--output", "out", *map(str, arguments)]

    return build


@pytest.fixture(scope="module")
def predictions(here, tiny_config):
    """What `--export-splits` writes, turned into a prediction: the mean of the training genes."""
    exported = here / "splits"
    arguments = ["--config", str(tiny_config), "--methods", "floors", "--folds", "1", "--export-splits", str(exported)]
    assert main(arguments) == 0
    fold = exported / "simulated" / "fold0"
    st = ad.read_h5ad(fold / "st_train.h5ad")
    genes = (fold / "genes_to_predict.txt").read_text().split()
    pattern = np.log1p(st.X.toarray()).mean(axis=1)
    pd.DataFrame(dict.fromkeys(genes, pattern), index=st.obs_names).to_csv(here / "simulated.csv")
    return "Mine=" + str(here / "{dataset}.csv")


@pytest.fixture(scope="module")
def finished(here, command, predictions):
    process = subprocess.run(
        command(*METHODS, "--predictions", predictions), cwd=here, capture_output=True, text=True, timeout=600,
        env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
    )  # fmt: skip
    return here / "out", process


def test_one_method_fails_and_the_others_are_finished_runs(finished):
    output, process = finished
    assert process.returncode == 1, process.stderr
    assert process.stderr.splitlines()[-1].startswith("2 trial(s) failed")  # one under each protocol
    store = Store(output)
    trials = store.runs("trial")
    assert len(trials) == 8
    status = {(run.data.tags["cgd.method"], run.data.tags["cgd.protocol"]): run.info.status for run in trials}
    assert {key: value for key, value in status.items() if value != "FINISHED"} == {
        ("own_methods:Broken", "heldout_genes"): "FAILED",
        ("own_methods:Broken", "published"): "FAILED",
    }
    own = next(run for run in trials if run.data.tags["cgd.method"] == "own_methods:Pattern")
    assert own.data.params["method"] == "own_methods:Pattern"
    assert "train.epochs" not in own.data.params
    assert own.data.metrics["peak_memory_mb"] > 50
    assert "cgd.no_model" not in own.data.tags
    assert "load_model" not in own.data.tags["mlflow.note.content"]
    brought = next(run for run in trials if run.data.tags["cgd.method"] == "brought:Mine")
    assert len(brought.data.tags["cgd.prediction_sha256"]) == 64
    assert {run.data.tags["cgd.study"] for run in store.runs("study")} == {"comparison", "comparison_published"}


def test_both_tables_are_written_and_attached(finished):
    output, process = finished
    store = Store(output)
    for parent in store.runs("study"):
        name = parent.data.tags["cgd.study"]
        page = next(output.glob(f"reports/{name}-*/{name}.html")).read_text()
        assert store.text(parent, f"report/{name}.html") == page
        assert "does not converge" in page
        assert "Brought, not audited" in page
        assert ("Published protocol" in page) == (name == "comparison_published")
        assert "CausalGeD ranks" in parent.data.tags["mlflow.note.content"]
    assert "CausalGeD ranks 1 of 4" in process.stdout
    assert re.search(r"Mine +0\.\d+", process.stdout)


def test_again_runs_only_what_failed(finished, command, here, predictions, capsys, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main([*command(*METHODS, "--predictions", predictions)[2:], "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("failed, runs again") == 2
    assert "8 distinct trials: 6 finished" in shown


def test_changed_predictions_are_other_trials(finished, command, here, predictions, capsys, monkeypatch):
    monkeypatch.chdir(here)
    table = pd.read_csv(here / "simulated.csv", index_col=0) + 1
    table.to_csv(here / "other" if (here / "other").mkdir() else here / "other" / "simulated.csv")
    other = "Mine=" + str(here / "other" / "{dataset}.csv")
    arguments = command(*METHODS, "--predictions", other)[2:]
    assert main([*arguments, "--dry-run", "--no-forecast"]) == 0
    assert "8 distinct trials: 4 finished" in capsys.readouterr().out
    (here / "other" / "simulated.csv").write_bytes((here / "simulated.csv").read_bytes())
    assert main([*arguments, "--dry-run", "--no-forecast"]) == 0
    assert "8 distinct trials: 6 finished" in capsys.readouterr().out  # the content counts, not the path


def test_the_results_file_is_made_from_the_store_alone(finished, tmp_path, capsys):
    output, _ = finished
    path = tmp_path / "results.md"
    path.write_text("# Results\n\nBefore.\n")
    arguments = ["--output", str(output), "--write-results", str(path)]
    assert main(arguments) == 0
    first = path.read_text()
    assert first.startswith("# Results\n\nBefore.\n\n<!-- table one, heldout_genes: begin -->")
    assert first.count("Published protocol: ") == 1
    names = {f"{protocol}{end}" for protocol in PROTOCOLS for end in (".md", ".csv", "_overall.csv")}
    written = {file.name: file.read_text() for file in (tmp_path / "results").iterdir()}
    draws = {name for name in written if name.endswith("_draws.csv")}  # where trials make some
    assert first.count("| **CausalGeD** |") == 2 + len(draws)  # the means under each protocol, in each outcome
    assert set(written) - draws == names == set(re.findall(r"\(results/([^)]*)\)", first)) - draws
    assert written["published.md"].count("Published protocol: ") > 1
    path.write_text(first + "\nAfter.\n")
    assert main(arguments) == 0
    assert path.read_text() == first + "\nAfter.\n"
    assert {file.name: file.read_text() for file in (tmp_path / "results").iterdir()} == written
