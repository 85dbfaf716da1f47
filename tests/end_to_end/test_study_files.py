"""A study of one's own: one file, no code; its replicates, data sets and fixed fields, down to the record."""

import json

import pytest
from mlflow_store import Store

from cgd.version import code_version
from tune.commands.ablation import main

STUDY = """
name: samplers
question: Which sampler?
hypothesis: Any.
grid: true
seeds: 1
folds: 2
datasets: [simulated, simulated_seqfish]
fixed: {sampling.estimate: draws, model.depth: 2}
factors:
  - {path: sampling.sampler, name: Sampler, levels: [{value: ddim}, {value: dpm_solver}], default: dpm_solver}
  - path: sampling.n_steps
    name: Steps
    levels: [{value: 2, only_on: [simulated]}, {value: 3}]
    default: 3
    when: {sampling.sampler: dpm_solver}
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "mine.yaml"
    path.write_text(STUDY)
    return path


@pytest.mark.slow
def test_a_study_file_says_all_that_is_needed(run, study_file, tmp_path):
    output = tmp_path / "out"
    process = run("--study", study_file, "--output", output)
    assert process.returncode == 0, process.stderr
    store = Store(output)
    trials = store.runs("trial")
    cells = {
        (t["cgd.dataset"], int(t["cgd.seed"]), int(t["cgd.fold"]), t["cgd.study.samplers"])
        for t in (run.data.tags for run in trials)
    }
    everywhere = ["ddim", "dpm_solver × 3"]
    levels = {"simulated": [*everywhere, "dpm_solver × 2"], "simulated_seqfish": everywhere}
    assert cells == {(d, 0, fold, level) for d in levels for fold in (0, 1) for level in levels[d]}
    assert len(trials) == len(cells) == 10
    assert {run.data.tags["cgd.code_version"] for run in trials} == {code_version("cgd.evaluation")}
    assert len({run.data.tags["cgd.trial_key"] for run in trials}) == 10
    assert {(run.data.params["sampling.estimate"], run.data.params["model.depth"]) for run in trials} == {
        ("draws", "2")
    }
    assert {(f.data.tags["cgd.dataset"], f.data.tags["cgd.fold"]) for f in store.runs("floors")} == {
        (dataset, fold) for dataset in levels for fold in "01"
    }
    record = json.loads(store.text(store.runs("study")[0], "study.json"))
    assert record["config"]["sampling.estimate"] == "draws"
    assert (record["config"]["model.depth"], record["config"]["split.n_folds"]) == (2, 2)
    assert record["code_version"] == code_version()
    assert (record["older"], record["forecast"]) == ([], None)
    assert "dpm_solver × 2" in next(output.glob("reports/*/samplers.html")).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "model.depth=1"],
            "model.depth=1 contradicts study 'samplers', which holds model.depth fixed at 2",
        ),
        (["--seeds", "1", "--set", "diffusion.n_timesteps=4", "--set", "sampling.n_steps=2"], "must be below"),
        (["--study", "sampler", "--set", "diffusion.n_timesteps=100"], "contradicts study 'sampler'"),
    ],
)
def test_a_command_that_contradicts_the_file_is_refused(arguments, message, study_file, tmp_path, capsys):
    output = tmp_path / "out"
    text = study_file.read_text().replace("{value: 2, only_on: [simulated]}, {value: 3}", "{value: 3}, {value: 4}")
    own = tmp_path / "own.yaml"
    own.write_text(text)
    assert main(["--study", str(own), "--dataset", "simulated", *arguments, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not output.exists()


def test_a_mistake_in_a_study_file_is_shown_with_its_line(study_file, tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    broken.write_text(STUDY.replace("fixed: {sampling.estimate", "fixed: {sampling.estimat"))
    assert main(["--study", str(broken)]) == 2
    assert f"{broken}, line 9: fixed.sampling.estimat: no field" in capsys.readouterr().err
