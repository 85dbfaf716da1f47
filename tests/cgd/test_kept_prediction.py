"""Under the second protocol nothing is fitted: the prediction of the first is scored."""

import dataclasses
import subprocess
import sys

import pandas as pd
import pytest

from cgd.data.split import GeneSplit
from cgd.evaluation import evaluate
from cgd.metrics.facts import DRAW_SCORES
from cgd.training.checkpoint import read_folder, write_folder

PUBLISHED = {"evaluation.protocol": "published"}


@pytest.mark.parametrize("method", ["causalged", "spage"])
def test_both_protocols_score_one_prediction(tiny, tmp_path, method, monkeypatch):
    config = tiny.config({"method": method})
    published = config.with_values(PUBLISHED)
    first = evaluate(config, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    alone = evaluate(published, tiny.prepared, tiny.split)
    monkeypatch.setattr("cgd.evaluation.fit_hidden", None)  # nothing may be fitted now
    monkeypatch.setattr("cgd.baselines.trial.fit_baseline", None)
    second = evaluate(published, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    pd.testing.assert_frame_equal(second.per_gene, alone.per_gene)
    assert second.model is None
    assert second.summary["train_seconds"] == first.summary["train_seconds"]
    assert {k: v for k, v in second.summary.items() if "seconds" not in k and "memory" not in k} == pytest.approx(
        {k: v for k, v in alone.summary.items() if "seconds" not in k and "memory" not in k}, nan_ok=True
    )
    assert second.per_gene["copied_share"].notna().any()
    # draws are scored against all of the truth, whatever the protocol
    pd.testing.assert_frame_equal(second.per_gene[list(DRAW_SCORES)], first.per_gene[list(DRAW_SCORES)])
    assert second.summary["test_crps"] == first.summary["test_crps"]
    assert second.summary["coverage_90_raw"] == first.summary["coverage_90_raw"]


def counted(monkeypatch):
    """How often a baseline was fitted."""
    import cgd.baselines.trial as trial

    fits, original = [], trial.fit_baseline
    monkeypatch.setattr(trial, "fit_baseline", lambda *args: fits.append(1) or original(*args))
    return fits


def test_a_trial_reads_no_prediction_of_its_own_or_of_another(tiny, tmp_path, monkeypatch):
    fits, config = counted(monkeypatch), tiny.config({"method": "spage"})
    published = config.with_values(PUBLISHED)
    other_split = GeneSplit(tiny.split.val + tiny.split.train[4:], tiny.split.train[:4], tiny.split.test, 0)
    other_data = dataclasses.replace(tiny.prepared, sha256="another")

    def run(config, prepared=tiny.prepared, split=tiny.split):
        evaluate(config, prepared, split, checkpoint_root=tmp_path)
        return len(fits)

    assert [run(config), run(config), run(published)] == [1, 2, 2]
    assert run(published.with_values({"seed": 1})) == 3
    assert run(published, split=other_split) == 4
    assert run(published, prepared=other_data) == 5
    monkeypatch.setattr("cgd.evaluation.trial_code", lambda config: "another")
    assert run(published) == 6


def test_a_damaged_prediction_is_computed_again(tiny, tmp_path, monkeypatch):
    fits, config = counted(monkeypatch), tiny.config({"method": "spage"})
    evaluate(config, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    (folder,) = (tmp_path / "predictions").iterdir()
    (folder / "tensors.safetensors").write_bytes(b"damaged")
    evaluate(config.with_values(PUBLISHED), tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    assert len(fits) == 2


@pytest.mark.parametrize("missing", ["prediction", "protocol", "summary", "draw_scores"])
def test_a_whole_folder_of_another_content_is_computed_again(tiny, tmp_path, monkeypatch, missing):
    fits, config = counted(monkeypatch), tiny.config({"method": "spage"})
    evaluate(config, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    (folder,) = (tmp_path / "predictions").iterdir()
    tensors, state = read_folder(folder)
    renamed = [{f"{key}_of_old" if key == missing else key: part[key] for key in part} for part in (tensors, state)]
    write_folder(folder, *renamed)
    evaluate(config.with_values(PUBLISHED), tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    assert len(fits) == 2


def test_twins_at_once_lose_nothing(tmp_path):
    """Two processes that write one folder: each write ends, and what is there in the end is whole."""
    script = (
        "import sys, torch; from pathlib import Path; from cgd.training.checkpoint import write_folder\n"
        "for i in range(60): write_folder(Path(sys.argv[1]), {'x': torch.full((9,), float(i))}, {'i': i})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "one")]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    tensors, state = read_folder(tmp_path / "one")
    assert tensors["x"].eq(state["i"]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
