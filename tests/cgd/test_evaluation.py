"""One trial from end to end: the same numbers for the same seed, what the summary holds, and floors beside it."""

import numpy as np
import pandas as pd
import pytest

from cgd.audit import _add_noise
from cgd.data.protocol import HiddenGenes
from cgd.data.split import make_splits
from cgd.errors import ConfigError
from cgd.estimator import STOPPING_DRAWS
from cgd.evaluation import evaluate, evaluate_floors, trial_fingerprint
from cgd.metrics.draws import score_draws_by_gene, score_draws_jointly
from cgd.metrics.facts import DRAW_FLOORS, DRAW_SCORES, JOINT_SCORES, NOISE_CEILINGS, SCORES
from cgd.metrics.floors import FLOORS
from cgd.metrics.intervals import constant_intervals, score_intervals
from cgd.metrics.summary import summarise_table
from cgd.model.cat import CAT
from cgd.probe import probe

COSTS = {"train_seconds", "wall_seconds", "peak_memory_mb"}
KINDS = {
    "gene": {},
    "latent": {"model.tokens": "latent"},
    "joint": {"model.decoder": "joint", "model.dropout": 0.2},
    "draws of noise": {"sampling.estimate": "draws", "diffusion.prediction_type": "noise", "sampling.sampler": "ddpm"},
    "published": {"evaluation.protocol": "published", "ar.token_order": "granger", "sampling.n_ar_steps": 2},
}


def numbers(evaluation):
    return {key: value for key, value in evaluation.summary.items() if key not in COSTS}


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS.keys())
def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny, values):
    one, same = tiny.evaluate(values), tiny.evaluate(values)
    other = tiny.evaluate({**values, "seed": 1})
    assert numbers(one) == numbers(same)
    pd.testing.assert_frame_equal(one.per_gene, same.per_gene, check_exact=True)
    assert not one.per_gene.equals(other.per_gene)
    assert numbers(one) != numbers(other)


def test_the_summary_is_of_the_table(tiny):
    evaluation = tiny.evaluate()
    assert tuple(evaluation.per_gene["gene"]) == tiny.split.test
    for key in SCORES:
        assert evaluation.summary[f"test_{key}"] == pytest.approx(evaluation.per_gene[key].mean())
    assert (evaluation.summary["n_genes"], evaluation.summary["n_scored"]) == (4, 4)
    assert (evaluation.summary["epochs"], evaluation.summary["n_parameters"]) == (2, evaluation.model.n_parameters)
    assert evaluation.summary["kept_epoch"] in (0, 1, 2)
    assert 0 <= evaluation.summary["coverage_90_raw"] <= 1
    assert all(evaluation.summary[key] > 0 for key in COSTS)
    assert all(isinstance(value, float) for value in evaluation.summary.values())


def test_the_table_scores_the_models_own_prediction(tiny):
    evaluation = tiny.evaluate()
    prediction = evaluation.model.predict_mean(tiny.split.test)
    per_gene = evaluation.per_gene.drop(columns=list(DRAW_SCORES))
    pd.testing.assert_frame_equal(tiny.hidden().test.score(prediction), per_gene)


@pytest.mark.parametrize(("n_samples", "keys"), [(0, set()), (1, {"draws_pcc"}), (3, {"draws_pcc", "coverage_90_raw"})])
def test_draws_are_scored_where_there_are_some(tiny, n_samples, keys):
    found = tiny.evaluate({"sampling.n_samples": n_samples, "train.epochs": 1})
    assert {"draws_pcc", "coverage_90_raw"} & set(found.summary) == keys
    scores = {f"test_{name}" for name in (*DRAW_SCORES, *JOINT_SCORES) if name != "coverage_90_raw"}
    assert scores & set(found.summary) == (scores if n_samples > 1 else set())
    assert set(DRAW_SCORES) & set(found.per_gene) == (set(DRAW_SCORES) if n_samples > 1 else set())
    assert "test_coverage_90_raw" not in found.summary


def test_scores_of_draws_are_those_of_the_models_own(tiny):
    """Of what it draws again, gene by gene, and of the summary their means."""
    found = tiny.evaluate()
    test, draws = tiny.hidden().test, found.model.predict_draws(tiny.split.test)
    scores = score_draws_by_gene(draws, test.truth, tiny.hidden().visible.coordinates)
    for name in DRAW_SCORES:
        np.testing.assert_array_equal(found.per_gene[name], scores[name])
        key = name if name == "coverage_90_raw" else f"test_{name}"
        assert found.summary[key] == pytest.approx(np.nanmean(scores[name]), nan_ok=True)
    for name, value in score_draws_jointly(draws, test.truth).items():
        assert found.summary[f"test_{name}"] == value
    assert found.summary["draws_pcc"] == pytest.approx(test.score_heldout(draws.mean(axis=0))["pcc"].mean())


def test_genes_that_are_not_scored_have_no_score_of_draws(tiny):
    detected = np.sort((tiny.hidden().test.truth > 0).mean(axis=1))
    found = tiny.evaluate({"evaluation.min_spot_fraction": detected[1:3].mean(), "train.epochs": 0})
    scored = found.per_gene["pcc"].notna()
    assert 0 < scored.sum() < len(scored)
    assert list(found.per_gene["crps"].notna()) == list(scored)
    assert found.summary["test_crps"] == pytest.approx(found.per_gene.loc[scored, "crps"].mean())


def test_intervals_are_compared_with_some_that_ignore_the_model(tiny):
    hidden = tiny.hidden()
    low, high = constant_intervals(hidden)
    assert np.ptp(low, axis=1).max() == np.ptp(high, axis=1).max() == 0
    covered, width = score_intervals(low, high, hidden.test)
    assert covered > 0.8
    found = [tiny.evaluate({"seed": seed}).summary["interval_width_90_constant"] for seed in (0, 1)]
    assert found == [width, width]


def test_intervals_of_a_gene_without_spread_or_without_bound():
    truth = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0]], dtype=np.float32)  # the last is not scored
    test = HiddenGenes(("a", "b", "c"), truth, None, 0.05)
    low, high = np.zeros((3, 2), np.float32), np.full((3, 2), 2.0, np.float32)
    assert score_intervals(low, high, test) == (0.75, 2.0)
    assert score_intervals(low, np.full_like(high, np.inf), test) == (1.0, np.inf)
    with pytest.raises(ValueError, match="found 4 that are not"):
        score_intervals(high + 1, low, test)
    assert np.isnan(score_intervals(low[2:], high[2:], HiddenGenes(("c",), truth[2:], None, 0.05))).all()


def test_every_protocol_column_is_summarised(tiny):
    summary = tiny.evaluate({"evaluation.protocol": "published"}).summary
    wanted = {f"test_{key}" for key in SCORES} | {f"test_hidden_{key}" for key in SCORES} | {"test_copied_share"}
    assert wanted <= set(summary)
    assert summary["test_pcc"] > summary["test_hidden_pcc"]


def test_an_interrupted_trial_continues_to_the_same_numbers(tiny, tmp_path):
    def stop(metrics):
        raise KeyboardInterrupt

    config = tiny.config()
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, tiny.prepared, tiny.split, on_epoch=stop, checkpoint_root=tmp_path)
    fingerprint = trial_fingerprint(config, tiny.prepared, tiny.split)
    assert [path.name for path in tmp_path.iterdir()] == [fingerprint]
    epochs = []
    resumed = evaluate(config, tiny.prepared, tiny.split, on_epoch=epochs.append, checkpoint_root=tmp_path)
    assert [metrics["epoch"] for metrics in epochs] == [1, 2]
    assert resumed.model.progress.earlier_seconds == epochs[0]["epoch_seconds"]
    assert resumed.summary["train_seconds"] > sum(metrics["epoch_seconds"] for metrics in epochs)
    assert numbers(resumed) == numbers(tiny.evaluate())


def test_the_fingerprint_names_configuration_data_split_and_code(tiny, monkeypatch):
    config, other_split = tiny.config(), make_splits(tiny.prepared.panel, tiny.config({"split.seed": 1}).split)[0]
    base = trial_fingerprint(config, tiny.prepared, tiny.split)
    assert base == trial_fingerprint(config.with_values({"runtime.n_threads": 2}), tiny.prepared, tiny.split)
    assert base != trial_fingerprint(config.with_values({"seed": 1}), tiny.prepared, tiny.split)
    assert base != trial_fingerprint(config, tiny.prepared, other_split)
    monkeypatch.setattr("cgd.evaluation.code_version", lambda *modules: "another")
    assert base != trial_fingerprint(config, tiny.prepared, tiny.split)


def find_columns(table, methods):
    """Columns in which some row of these methods has a value."""
    rows = table[table["method"].isin(methods)].drop(columns="method")
    return [name for name in rows if rows[name].notna().any()]


@pytest.mark.parametrize("n_samples", [0, 1])
def test_without_two_draws_there_are_no_floors_of_draws(tiny, n_samples):
    table = evaluate_floors(tiny.prepared, tiny.split, tiny.config({"sampling.n_samples": n_samples}))
    assert list(table["method"].unique()) == [*FLOORS, "ceiling", *NOISE_CEILINGS]
    assert not set(DRAW_SCORES) & set(table)


@pytest.mark.parametrize("protocol", ["heldout_genes", "published"])
def test_floors_and_the_ceiling_are_scored_like_a_model(tiny, protocol):
    config = tiny.config({"evaluation.protocol": protocol})
    table = evaluate_floors(tiny.prepared, tiny.split, config)
    fills = ["zero_fill", "visible_mean_fill"] if protocol == "published" else []
    draws = [*NOISE_CEILINGS, *DRAW_FLOORS]
    assert list(table["method"].unique()) == [*FLOORS, "ceiling", *fills, *draws]
    for _, rows in table.groupby("method"):
        assert tuple(rows["gene"]) == tiny.split.test
    per_gene = list(tiny.evaluate({"evaluation.protocol": protocol}).per_gene)
    assert list(table.drop(columns="method").columns) == [*per_gene, *JOINT_SCORES]
    assert set(find_columns(table, DRAW_FLOORS)) <= {"gene", *DRAW_SCORES, *JOINT_SCORES}
    assert set(find_columns(table, NOISE_CEILINGS)) == {"gene", "pcc"}
    pcc = table[~table["method"].isin(draws)].groupby("method")["pcc"].mean()
    assert pcc["ceiling"] == pcc.drop(fills).max()
    assert pcc["ceiling"] > pcc["random"] + 0.1


def test_filling_in_the_mean_beats_every_model_under_published(tiny):
    """Why that protocol is not the default."""
    config = tiny.config({"evaluation.protocol": "published", "sampling.n_samples": 0})
    found = evaluate_floors(tiny.prepared, tiny.split, config).groupby("method")[["pcc", "hidden_pcc"]].mean()
    assert found["pcc"]["visible_mean_fill"] > 0.9
    assert found["hidden_pcc"]["visible_mean_fill"] == 0


def test_a_summary_of_a_table_ignores_its_labels():
    table = pd.DataFrame({"gene": ["a", "b", "c"], "pcc": [0.2, 0.4, np.nan], "ssim": [0.1, 0.3, 0.9], "method": "x"})
    assert summarise_table(table) == {
        "pcc": pytest.approx(0.3),
        "ssim": pytest.approx(0.2),
        "n_genes": 3,
        "n_scored": 2,
    }


def test_validation_scores_the_validation_genes_alone(tiny, monkeypatch):
    def never(*arguments):
        raise AssertionError("a test gene was scored")

    monkeypatch.setattr(HiddenGenes, "score", never)
    found = evaluate(tiny.config(), tiny.prepared, tiny.split, scored="validation")
    assert tuple(found.per_gene["gene"]) == tiny.split.val
    assert found.summary["val_pcc"] == pytest.approx(found.per_gene["pcc"].mean(), abs=1e-6)
    assert found.summary["val_crps"] == pytest.approx(found.per_gene["crps"].mean())
    assert {"val_moran_error", "val_energy_genes", "coverage_90_raw"} <= set(found.summary)
    assert not [key for key in found.summary if key.startswith("test_")]


def test_validation_genes_are_scored_without_having_been_seen(tiny):
    """With noise in place of their truth nothing that is predicted of them changes, where nothing stops a training."""
    config = tiny.config({"train.epochs": 0, "sampling.n_samples": 0, "sampling.estimate": "center"})
    models = []
    for prepared in (tiny.prepared, _add_noise(tiny.prepared, tiny.split.val, 0)):
        found = evaluate(config, prepared, tiny.split, scored="validation")
        models.append(found.model)
        assert set(found.model._fitted.measured_genes) == set(tiny.split.train)
    one, other = (model.predict_mean(tiny.split.val) for model in models)
    assert one.tobytes() == other.tobytes()
    whole = evaluate(config, tiny.prepared, tiny.split)
    assert set(whole.model._fitted.measured_genes) == {*tiny.split.train, *tiny.split.val}


@pytest.mark.parametrize("values", [{}, {"sampling.n_samples": 0}, {"sampling.estimate": "draws"}], ids=str)
def test_a_probe_foresees_a_trial(tiny, values, monkeypatch):
    """Times are scaled by a clock that counts calls of the network, so that the test knows the answer."""
    calls = [0]
    forward = CAT.denoise

    def counted(self, *arguments):
        calls[0] += 1
        return forward(self, *arguments)

    monkeypatch.setattr(CAT, "denoise", counted)
    monkeypatch.setattr("time.perf_counter", lambda: float(calls[0]))
    config = tiny.config({"train.steps_per_epoch": 7, "train.epochs": 5, "sampling.n_samples": 4} | values)
    seen = probe(config, tiny.prepared, tiny.split)
    calls[0] = 0
    whole = evaluate(config, tiny.prepared, tiny.split).summary
    estimate = seen.setup_seconds - STOPPING_DRAWS * 3 * ("sampling.n_samples" not in values)  # before the epochs
    assert estimate == (2 if "sampling.estimate" not in values else 4 * 3)  # members, or draws of 3 steps
    forecast = seen.setup_seconds + whole["epochs"] * seen.epoch_seconds + seen.predict_seconds
    assert whole["wall_seconds"] <= forecast <= whole["wall_seconds"] + 4  # nothing is estimated at a share of 0
    assert seen.peak_memory_mb > 50
    assert 0 < seen.model_mb < seen.checkpoint_mb < 5


def test_a_probe_of_a_centre_alone_knows_of_no_epochs(tiny):
    seen = probe(tiny.config({"sampling.estimate": "center", "sampling.n_samples": 0}), tiny.prepared, tiny.split)
    assert seen.checkpoint_mb == 0
    assert seen.setup_seconds > 0
    assert seen.model_mb > 0


def test_what_is_scored_is_test_or_validation_genes(tiny):
    with pytest.raises(ValueError, match="one of test, validation; found 'val'"):
        evaluate(tiny.config(), tiny.prepared, tiny.split, scored="val")
    with pytest.raises(ConfigError, match="only causalged is scored on validation genes"):
        evaluate(tiny.config({"method": "spage"}), tiny.prepared, tiny.split, scored="validation")
