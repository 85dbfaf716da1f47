"""The front door: AnnData in, AnnData out, saved and read again bit for bit."""

import inspect
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

import cgd
from cgd.data.protocol import HiddenGenes, VisiblePair
from cgd.errors import CheckpointError, ConfigError, DataError, NotFittedError
from cgd.estimator import CausalGeD
from cgd.metrics.gene import gene_metrics
from cgd.training.checkpoint import read_folder, write_folder

EXTRA = 3  # genes of the scRNA-seq that the ST does not measure


@pytest.fixture(scope="module")
def pair(tiny):
    """ST without the last three genes, and with one spot in which nothing is detected."""
    st = tiny.simulation.adata_st[:, :-EXTRA].copy()
    counts = st.X.toarray()
    counts[7] = 0
    st.X = sp.csr_matrix(counts)
    return st, tiny.simulation.adata_sc.copy()


@pytest.fixture(scope="module")
def model(tiny, pair):
    return CausalGeD(tiny.config()).fit(*pair)


@pytest.fixture
def only_sc(pair):
    return list(pair[1].var_names[-EXTRA:])


# ---- predicting ---------------------------------------------------------------------------------------------------


def test_every_scrna_gene_can_be_predicted_measured_or_not(model, pair, only_sc):
    _, sc = pair
    assert set(model.genes) == set(sc.var_names)
    predicted = model.predict([*only_sc, "Reg000"])
    assert predicted.shape == (59, 4)
    assert list(predicted.var_names) == [*only_sc, "Reg000"]
    assert predicted.X.dtype == np.float32
    assert np.isfinite(predicted.X).all()
    assert (predicted.X.std(axis=0) > 0).all()
    assert not predicted.var["measured_in_st"][:EXTRA].any()


def test_measured_genes_are_told_for_validation_genes_too(model, pair):
    """A gene held out to decide when to stop was measured all the same."""
    st, sc = pair
    predicted = model.predict(list(sc.var_names))
    np.testing.assert_array_equal(predicted.var["measured_in_st"], sc.var_names.isin(st.var_names))


def test_spots_kept_have_their_names_and_coordinates(model, pair, only_sc):
    st, _ = pair
    predicted = model.predict(only_sc)
    kept = np.arange(60) != 7
    assert list(predicted.obs_names) == list(st.obs_names[kept])
    np.testing.assert_allclose(predicted.obsm["spatial"], st.obsm["spatial"][kept], rtol=1e-6)


def test_the_spread_is_that_of_the_draws(model, only_sc):
    draws = model.predict_draws(only_sc)
    assert draws.shape == (2, EXTRA, 59)
    predicted = model.predict(only_sc)
    np.testing.assert_array_equal(predicted.layers["std"], draws.std(axis=0, ddof=1).T)
    assert (predicted.layers["std"] > 0).any(axis=0).all()  # two counts may be the same


def test_the_interval_of_a_prediction_is_90_percent_about_it(model, only_sc):
    predicted = model.predict(only_sc)
    low, high = model.predict_interval(only_sc)
    assert low.shape == high.shape == (EXTRA, 59)
    np.testing.assert_array_equal(predicted.layers["low"], low.T)
    np.testing.assert_array_equal(predicted.layers["high"], high.T)
    assert (low >= 0).all()
    assert (low <= np.maximum(predicted.X.T, 0)).all()
    assert (high > predicted.X.T).all()
    narrower = model.predict_interval(only_sc, level=0.5)
    assert (narrower[1] < high).all()
    assert json.loads(predicted.uns["causalged"])["interval"] == {"level": 0.9, "note": model.calibration.note(0.9)}
    assert model.calibration.n_genes == 8
    one = model.predict_interval(only_sc[0])
    assert one[0].shape == (1, 59)


@pytest.mark.parametrize("level", [0, 1, 90])
def test_a_level_must_be_a_share(model, only_sc, level):
    with pytest.raises(ConfigError, match=f"level must be above 0 and below 1, found {level}"):
        model.predict_interval(only_sc, level)


def test_the_interval_comes_from_errors_of_validation_genes(tiny):
    """Of the validation genes themselves as many entries lie inside as were asked for, or a few more, as long as they
    are not what predictions are from."""
    hidden, model = tiny.hidden(), CausalGeD(tiny.config())
    model.fit_visible(hidden.visible, hidden.val, hidden.visible)
    assert model.calibration.n_genes == hidden.val.scored.sum() == 8
    low, high = model.predict_interval(hidden.val.genes, 0.7)
    inside = ((low <= hidden.val.truth) & (hidden.val.truth <= high)).mean()
    assert 0.7 * 9 / 8 <= inside < 0.7 * 9 / 8 + 0.02


@pytest.mark.parametrize(("n_samples", "has_spread"), [(0, False), (1, False), (2, True)])
def test_without_two_draws_there_is_no_spread(tiny, pair, only_sc, n_samples, has_spread):
    predicted = CausalGeD(tiny.config({"sampling.n_samples": n_samples})).fit(*pair).predict(only_sc)
    assert ("std" in predicted.layers) == has_spread


def test_the_estimate_is_the_one_named(tiny, pair, only_sc):
    model = CausalGeD(tiny.config({"sampling.estimate": "draws"})).fit(*pair)
    draws = model.predict_draws(only_sc)
    np.testing.assert_array_equal(model.predict(only_sc).X, draws.mean(axis=0).T)
    np.testing.assert_array_equal(model.predict_mean(only_sc), draws.mean(axis=0))
    np.testing.assert_array_equal(model.predict(only_sc).layers["high"], model.predict_interval(only_sc)[1].T)


def test_one_name_is_a_list_of_one_and_order_is_as_asked(model, only_sc):
    one = model.predict(only_sc[0])
    assert one.shape == (59, 1)
    both = model.predict(np.array(only_sc[:2]))
    swapped = model.predict(only_sc[1::-1])
    assert list(swapped.var_names) == only_sc[1::-1]
    assert gene_metrics(both.X.T, swapped[:, only_sc[:2]].X.T)["pcc"].min() > 0.9


def test_provenance_is_json_with_configuration_data_and_versions(model, only_sc):
    provenance = json.loads(model.predict(only_sc).uns["causalged"])
    assert provenance["config"] == model.config.model_dump(mode="json")
    assert len(provenance["data_sha256"]) == 64
    assert provenance["versions"]["torch"]
    assert provenance["versions"]["code"]
    assert any("1 spots dropped" in note for note in provenance["notes"])


def test_a_prediction_can_be_written_as_h5ad(model, only_sc, tmp_path):
    from anndata import read_h5ad

    predicted = model.predict(only_sc)
    predicted.write_h5ad(tmp_path / "p.h5ad")
    again = read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(again.X, predicted.X)
    assert again.uns["causalged"] == predicted.uns["causalged"]


def test_a_prediction_has_no_argument_that_could_carry_the_truth():
    assert list(inspect.signature(CausalGeD.predict).parameters) == ["self", "genes", "with_draws"]
    assert list(inspect.signature(CausalGeD.predict_draws).parameters) == ["self", "genes"]
    assert list(inspect.signature(CausalGeD.predict_counts).parameters) == ["self", "genes"]
    assert list(inspect.signature(CausalGeD.predict_interval).parameters) == ["self", "genes", "level"]
    assert {field.name for field in fields(VisiblePair)} == {
        "name", "train_genes", "x_st", "genes", "x_sc", "coordinates", "spot_names",
        "st_totals", "sc_totals", "cell_components", "graph",
    }  # fmt: skip


# ---- draws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["negative_binomial", "poisson"])
def test_draws_are_counts_at_the_depth_of_the_spots(tiny, likelihood):
    hidden, model = tiny.hidden(), CausalGeD(tiny.config({"model.likelihood": likelihood, "train.epochs": 1}))
    model.fit_visible(hidden.visible, hidden.val, hidden.measured)
    draws, counts = model.predict_draws(tiny.split.test), model.predict_counts(tiny.split.test)
    assert draws.shape == counts.shape == (2, 4, 60)
    assert np.issubdtype(counts.dtype, np.integer)
    assert (counts >= 0).all()
    exposure = hidden.measured.measure_exposure()
    np.testing.assert_array_equal(draws, np.log1p(counts / exposure).astype(np.float32))
    assert model._fitted.noise.kind == likelihood


def test_without_counts_there_are_none_to_ask_for(tiny, pair, only_sc):
    model = CausalGeD(tiny.config({"model.likelihood": "gaussian", "train.epochs": 1})).fit(*pair)
    with pytest.raises(ConfigError, match=r"model\.likelihood is gaussian"):
        model.predict_counts(only_sc)
    assert model.predict_draws(only_sc).shape == (2, EXTRA, 59)


def test_a_prediction_holds_its_draws_where_they_are_asked_for(model, only_sc):
    plain, whole = model.predict(only_sc), model.predict(only_sc, with_draws=True)
    assert set(whole.layers) - set(plain.layers) == {"draw_0", "draw_1"}
    np.testing.assert_array_equal(whole.X, plain.X)
    for i, draw in enumerate(model.predict_draws(only_sc)):
        np.testing.assert_array_equal(whole.layers[f"draw_{i}"], draw.T)


def test_draws_that_were_never_made_cannot_be_asked_for(tiny, pair, only_sc):
    model = CausalGeD(tiny.config({"sampling.n_samples": 0, "train.epochs": 0})).fit(*pair)
    with pytest.raises(ConfigError, match=r"sampling\.n_samples is 0: fit with at least 1"):
        model.predict(only_sc, with_draws=True)


def test_the_first_draws_are_the_same_however_many(model, only_sc, monkeypatch):
    few = model.predict_counts(only_sc)
    monkeypatch.setattr(model, "config", model.config.with_values({"sampling.n_samples": 5}))
    many = model.predict_counts(only_sc)
    assert len(many) == 5
    np.testing.assert_array_equal(many[:2], few)


# ---- what predictions are from ------------------------------------------------------------------------------------


def test_predictions_are_from_all_genes_measured(tiny):
    """Validation genes join the context when the fit is over, and the network does not see them before."""
    hidden, models = tiny.hidden(), []
    for measured in (hidden.visible, hidden.measured):
        models.append(CausalGeD(tiny.config()))
        reference = models[-1].fit_visible(hidden.visible, hidden.val, measured)
        assert reference.x_st.shape[0] == len(measured.train_genes)
        assert models[-1].measured_genes == measured.train_genes
    few, all_genes = (model._fitted for model in models)
    assert len(all_genes.context.z) == len(few.context.z) + len(tiny.split.val)
    for name, tensor in few.network.state_dict().items():
        assert tensor.equal(all_genes.network.state_dict()[name]), name
    one, other = (model.predict_mean(tiny.split.test) for model in models)
    assert np.abs(one - other).max() > 1e-3


# ---- asking for the wrong thing -----------------------------------------------------------------------------------


def test_an_unknown_gene_gets_the_closest_one(model):
    with pytest.raises(DataError, match=r"gene 'Reg00' is not in the scRNA-seq; did you mean 'Reg00\d'\?"):
        model.predict(["Reg000", "Reg00"])


@pytest.mark.parametrize(("genes", "found"), [([], "none"), (["Reg000", "Reg000"], "a repeated name")])
def test_no_gene_or_one_twice(model, genes, found):
    with pytest.raises(DataError, match=f"expected a list of distinct genes, found {found}"):
        model.predict(genes)


def test_nothing_works_before_fit(tmp_path):
    model = CausalGeD()
    for use in (
        lambda: model.save(tmp_path / "m"),
        lambda: model.predict("Gad1"),
        lambda: model.predict_interval("Gad1"),
        lambda: model.genes,
    ):
        with pytest.raises(NotFittedError, match=r"not fitted; call fit\(adata_st, adata_sc\) or load\(folder\) first"):
            use()


def test_too_few_shared_genes(tiny):
    st = tiny.simulation.adata_st[:, :5].copy()
    with pytest.raises(DataError, match="5 shared genes are too few"):
        CausalGeD(tiny.config()).fit(st, tiny.simulation.adata_sc)


def test_a_missing_device_is_named(tiny, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    hidden = tiny.hidden()
    with pytest.raises(ConfigError, match=r"runtime\.device = cuda, but torch sees no CUDA device; set .* = cpu"):
        CausalGeD(tiny.config({"runtime.device": "cuda"})).fit_visible(hidden.visible, hidden.val, hidden.measured)


# ---- fitting ------------------------------------------------------------------------------------------------------


def test_what_is_given_is_left_as_it_was(tiny, pair):
    st, sc = (adata.copy() for adata in pair)
    CausalGeD(tiny.config()).fit(st, sc)
    for after, before in zip((st, sc), pair, strict=True):
        assert set(after.uns) == set(before.uns)
        assert list(after.obs_names) == list(before.obs_names)
        np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())


def test_fitting_again_with_the_same_seed_gives_the_same_bits(tiny, pair, model, only_sc):
    again = CausalGeD(tiny.config()).fit(*pair).predict(only_sc)
    other = CausalGeD(tiny.config({"seed": 1})).fit(*pair).predict(only_sc)
    first = model.predict(only_sc)
    assert again.X.tobytes() == first.X.tobytes()
    for layer in ("low", "high", "std"):
        assert again.layers[layer].tobytes() == first.layers[layer].tobytes()
    assert other.X.tobytes() != first.X.tobytes()


def test_epochs_are_reported(tiny, pair):
    reported = []
    model = CausalGeD(tiny.config()).fit(*pair, on_epoch=reported.append)
    assert [metrics["epoch"] for metrics in reported] == [1, 2]
    assert model.progress.history == reported


def test_names_of_spots_and_genes_need_not_be_text(tiny, pair, only_sc):
    st = AnnData(pair[0].X, var=pair[0].var.copy(), obsm={"spatial": pair[0].obsm["spatial"]})
    assert CausalGeD(tiny.config()).fit(st, pair[1]).predict(only_sc).obs_names[0] == "0"


# ---- saving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model.tokens": "latent", "model.decoder": "joint"},
        {"ar.token_order": "granger", "sampling.n_ar_steps": 2},
        {"sampling.estimate": "draws", "sampling.sampler": "ddpm", "model.center": "none"},
    ],
    ids=["gene", "latent", "granger", "draws"],
)
def test_a_saved_model_predicts_the_same_bits(tiny, pair, only_sc, tmp_path, values):
    model = CausalGeD(tiny.config(values)).fit(*pair)
    model.save(tmp_path / "model")
    loaded = CausalGeD.load(tmp_path / "model")
    assert loaded.config == model.config
    assert loaded.genes == model.genes
    assert loaded.n_parameters == model.n_parameters
    genes = [*only_sc, "Reg003"]
    one, two = model.predict(genes), loaded.predict(genes)
    assert one.X.tobytes() == two.X.tobytes()
    for layer in ("low", "high", "std"):
        assert one.layers[layer].tobytes() == two.layers[layer].tobytes()
    assert loaded.predict_draws(genes).tobytes() == model.predict_draws(genes).tobytes()
    assert loaded.predict_counts(genes).tobytes() == model.predict_counts(genes).tobytes()
    assert loaded.predict_interval(genes, 0.6)[1].tobytes() == model.predict_interval(genes, 0.6)[1].tobytes()
    assert list(one.obs_names) == list(two.obs_names)
    assert one.obsm["spatial"].tobytes() == two.obsm["spatial"].tobytes()
    assert one.uns["causalged"] == two.uns["causalged"]
    assert one.var.equals(two.var)


def test_a_model_without_calibration_is_saved_and_says_so(tiny, tmp_path):
    """No validation gene is detected often enough to be scored."""
    hidden, model = tiny.hidden(), CausalGeD(tiny.config())
    never = HiddenGenes(hidden.val.genes, 0 * hidden.val.truth, None, 0.05)
    model.fit_visible(hidden.visible, never, hidden.measured)
    model.save(tmp_path / "model")
    predicted = CausalGeD.load(tmp_path / "model").predict("Reg000")
    assert np.isposinf(predicted.layers["high"]).all()
    assert "0 validation genes: too few for any bound" in json.loads(predicted.uns["causalged"])["interval"]["note"]


def test_saving_replaces_a_model_and_a_loaded_one_can_be_saved(model, tmp_path):
    model.save(tmp_path / "model")
    CausalGeD.load(tmp_path / "model").save(tmp_path / "model")
    assert CausalGeD.load(tmp_path / "model").genes == model.genes
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_saved_model_holds_no_expression_of_the_st(model, tmp_path, pair):
    """Latents of the training genes and the mean pattern are kept; the counts are not."""
    from cgd.training.checkpoint import read_folder

    model.save(tmp_path / "model")
    tensors, _ = read_folder(tmp_path / "model")
    spots = [name for name, tensor in tensors.items() if 59 in tensor.shape]
    assert set(spots) == {
        "coordinates", "network.autoencoder.head_st.weight", "network.autoencoder.decoder.weight",
        "network.autoencoder.decoder.bias", "network.autoencoder.st_mean", "refined.pattern", "refined.level",
        "refined.cell_patterns", "exposure",
    }  # fmt: skip


def test_a_missing_or_damaged_model_is_named(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"nosuch is not a whole checkpoint"):
        CausalGeD.load(tmp_path / "nosuch")
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model is damaged: the hash of tensors\.safetensors and state\.json"):
        CausalGeD.load(tmp_path / "model")


@pytest.mark.parametrize("change", [{"format": 3}, {"format": None}])
def test_a_model_of_another_format_is_refused(model, tmp_path, change):
    model.save(tmp_path / "model")
    tensors, state = read_folder(tmp_path / "model")
    write_folder(tmp_path / "model", tensors, {**state, **change})
    with pytest.raises(CheckpointError, match="is not a saved CausalGeD model of format 4 or 5 or 6"):
        CausalGeD.load(tmp_path / "model")


@pytest.mark.parametrize("version", [4, 5])
def test_a_model_of_an_old_format_predicts_as_it_did(tiny, pair, tmp_path, version):
    """It knew of no counts: what is decoded is what is drawn, and all that the network adds is added."""
    model = CausalGeD(tiny.config({"model.likelihood": "gaussian", "model.center": "none"})).fit(*pair)
    model.save(tmp_path / "model")
    tensors, state = read_folder(tmp_path / "model")
    del tensors["exposure"], state["share"], state["count_noise"]
    del state["config"]["model"]["likelihood"], state["config"]["train"]["context_share"]
    if version == 4:
        tensors["context.center"] = tensors["context.z"] * 0
    write_folder(tmp_path / "model", tensors, {**state, "format": version})
    loaded = CausalGeD.load(tmp_path / "model")
    assert loaded.config.model.likelihood == "gaussian"
    np.testing.assert_array_equal(loaded.predict("Reg000").X, model.predict("Reg000").X)
    np.testing.assert_array_equal(loaded.predict_draws(["Reg000"]), model.predict_draws(["Reg000"]))
    with pytest.raises(ConfigError, match="there are no counts"):
        loaded.predict_counts(["Reg000"])
    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(CausalGeD.load(tmp_path / "again").predict("Reg000").X, model.predict("Reg000").X)


def test_a_checkpoint_is_no_model(tiny, tmp_path):
    from cgd.training.checkpoint import CheckpointFolder

    hidden = tiny.hidden()
    checkpoints = CheckpointFolder(tmp_path, "x")
    CausalGeD(tiny.config()).fit_visible(hidden.visible, hidden.val, hidden.measured, None, checkpoints)
    with pytest.raises(CheckpointError, match="is not a saved CausalGeD model"):
        CausalGeD.load(tmp_path / "epoch-00002")


# ---- the package --------------------------------------------------------------------------------------------------


def test_the_package_offers_its_five_names():
    assert cgd.CausalGeD is CausalGeD
    for name in cgd.__all__:
        assert getattr(cgd, name) is not None
    with pytest.raises(AttributeError, match="module 'cgd' has no attribute 'nosuch'"):
        _ = cgd.nosuch


def test_a_visible_pair_with_fewer_scrna_genes_is_enough(tiny):
    """`fit_visible` asks for nothing but what is visible."""
    hidden = tiny.hidden()
    model = CausalGeD(tiny.config())
    visible = replace(hidden.visible, coordinates=hidden.visible.coordinates[:, :2])
    model.fit_visible(visible, hidden.val, hidden.measured)
    assert model.genes == hidden.visible.genes
