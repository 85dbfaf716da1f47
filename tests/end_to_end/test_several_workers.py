"""Trials of two workers through the command: the numbers of one worker, one run each; requests that cannot be met."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_store import Store

SCRIPT = Path(__file__).parents[2] / "tune" / "run_comparison.py"


def compare(output, tiny_config, *arguments):
    """A comparison of CausalGeD with a method that has one worker always, after one another on a small machine."""
    command = [sys.executable, str(SCRIPT), "--config", str(tiny_config), "--output", str(output), "--methods", "spage"]
    command += ["--protocol", "heldout_genes", "--seeds", "1", "--folds", "1", *arguments]
    return subprocess.run(command, cwd=output.parent, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers need two CPUs")
def test_two_workers_give_the_numbers_of_one_and_one_run_each(tmp_path, tiny_config):
    stores = {}
    for n in (1, 2):
        done = compare(tmp_path / str(n), tiny_config, "--workers-per-trial", str(n))
        assert done.returncode == 0, done.stdout + done.stderr
        stores[n] = Store(tmp_path / str(n))
        assert not list((tmp_path / str(n) / "checkpoints").rglob("train-*"))
    one, two = ({run.data.tags["cgd.fingerprint"]: run for run in stores[n].runs("trial")} for n in (1, 2))
    assert len(stores[2].runs("trial")) == len(two) == 2
    assert one.keys() == two.keys()
    for key, run in two.items():
        assert run.info.status == "FINISHED"
        assert run.data.metrics["test_pcc"] == pytest.approx(one[key].data.metrics["test_pcc"], abs=1e-3)
    trained = next(run for run in two.values() if run.data.tags["cgd.method"] == "causalged")
    assert [step for step, _ in stores[2].history(trained, "train_loss")] == [1, 2, 3, 4]
    assert stores[2].history(trained, "system/process_memory_megabytes")
    assert "cgd.no_model" not in trained.data.tags


@pytest.mark.parametrize("arguments", [["--cpus-per-worker", "1000000"], ["--set", "runtime.device=cuda", "--dry-run"]])
def test_what_can_never_run_is_refused_with_the_numbers(tmp_path, tiny_config, arguments):
    if "runtime.device=cuda" in arguments:
        arguments = [*arguments, "--no-forecast", "--workers-per-trial", "4", "--cpus-per-worker", "1000000"]
    done = compare(tmp_path / "out", tiny_config, *arguments)
    assert done.returncode == 2
    assert "it could never run. Ask for fewer workers (--workers-per-trial" in done.stderr
    assert "1e+06 CPUs" in done.stderr
    assert "Traceback" not in done.stderr
