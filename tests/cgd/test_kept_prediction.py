"""Under the second protocol nothing is fitted: the prediction of the first is scored."""

import numpy as np
import pandas as pd
import pytest

from cgd.evaluation import evaluate

PUBLISHED = {"evaluation.protocol": "published"}


@pytest.mark.parametrize("method", ["causalged", "spage"])
def test_both_protocols_score_one_prediction(tiny, tmp_path, method, monkeypatch):
    config = tiny.config({"method": method})
    published = config.with_values(PUBLISHED)
    first = evaluate(config, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    alone = evaluate(published, tiny.prepared, tiny.split)
    monkeypatch.setattr("cgd.evaluation._fit", None)  # nothing may be fitted now
    monkeypatch.setattr("cgd.baselines.trial.fit_baseline", None)
    second = evaluate(published, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    pd.testing.assert_frame_equal(second.per_gene, alone.per_gene)
    assert second.model is None
    assert second.summary["train_seconds"] == first.summary["train_seconds"]
    assert {k: v for k, v in second.summary.items() if "seconds" not in k and "memory" not in k} == pytest.approx(
        {k: v for k, v in alone.summary.items() if "seconds" not in k and "memory" not in k}, nan_ok=True
    )
    assert second.per_gene["copied_share"].notna().any()


def test_a_trial_does_not_read_its_own_prediction_nor_one_of_another_seed(tiny, tmp_path):
    config = tiny.config({"method": "spage"})
    evaluate(config, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    (folder,) = (tmp_path / "predictions").iterdir()
    (folder / "tensors.safetensors").write_bytes(b"damaged")
    again = evaluate(config.with_values(PUBLISHED), tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    assert np.isfinite(again.summary["test_pcc"])  # what is damaged is computed again
    evaluate(config.with_values({"seed": 1, **PUBLISHED}), tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    assert len(list((tmp_path / "predictions").iterdir())) == 2
