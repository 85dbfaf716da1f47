"""stDiff, SpaDiT (strict) and SpatialScope-style: what they see, that training and sampling agree, what they learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cgd.baselines import find_method
from cgd.baselines.fitting import build, minimise
from cgd.baselines.mixture import cell_type_means, poisson_mixture
from cgd.baselines.spadit import SpaDiT
from cgd.baselines.spatialscope import SpatialScope, cells_at_the_scale_of_spots, sample_langevin
from cgd.baselines.stdiff import StDiff, scale_cells, scale_spots
from cgd.config import Config
from cgd.data.pair import make_pair
from cgd.data.preprocess import prepare
from cgd.data.protocol import hide
from cgd.data.simulate import simulate_pair
from cgd.data.split import make_splits
from cgd.errors import TrainingDiverged

QUICK = {
    StDiff: {"width": 16, "depth": 1, "n_heads": 2, "n_steps": 3, "batch_size": 32, "n_sampling_steps": 3},
    SpaDiT: {"width": 16, "depth": 1, "n_heads": 2, "n_tokens": 4, "n_steps": 3, "n_timesteps": 4},
    SpatialScope: {"n_types": 3, "width": 16, "depth": 1, "n_steps": 3, "n_levels": 3, "n_replicates": 2},
}
LEARNING = {
    StDiff: {"width": 64, "depth": 1, "n_steps": 250, "batch_size": 64, "n_sampling_steps": 10},
    SpaDiT: {"width": 48, "depth": 1, "n_tokens": 8, "n_steps": 150, "batch_size": 24},
    SpatialScope: {"n_types": 6, "width": 64, "n_steps": 200},
}
METHODS = pytest.mark.parametrize("kind", list(QUICK), ids=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def planted():
    """A pair with single-cell spots whose held-out genes follow from the others."""
    simulation = simulate_pair(n_spots=200, n_cells=300, n_genes=80, n_regulators=10, technology="merfish")
    config = Config()
    prepared = prepare(make_pair(simulation.adata_st, simulation.adata_sc, "planted"), config.data)
    split = make_splits(prepared.panel, config.split)[0]
    return hide(prepared, split, config), split


def with_sc_row(visible, gene, row):
    x_sc = visible.x_sc.copy()
    x_sc[visible.genes.index(gene)] = row
    return replace(visible, x_sc=x_sc)


# ---- every one of them --------------------------------------------------------------------------------------------


@METHODS
def test_the_planted_signal_is_found(planted, kind):
    """A permuted truth has a mean PCC of 0 with a standard error of 0.02 over these genes."""
    hidden, split = planted
    genes = split.val + split.test
    method = kind(**LEARNING[kind])
    method.fit(hidden.visible, 0)
    prediction = method.predict(genes)
    pcc = np.concatenate(
        [
            part.score_heldout(prediction[[genes.index(g) for g in part.genes]])["pcc"]
            for part in (hidden.val, hidden.test)
        ]
    )
    assert np.nanmean(pcc) > 0.1
    assert np.mean(method.losses[-20:]) < 0.9 * np.mean(method.losses[:5])


@METHODS
def test_the_prediction_of_a_gene_follows_its_scrna_row(tiny, kind):
    visible, gene = tiny.hidden().visible, tiny.split.test[0]
    other = with_sc_row(visible, gene, visible.x_sc[visible.genes.index(gene)][::-1])
    predictions = []
    for seen in (visible, other):
        method = kind(**QUICK[kind])
        method.fit(seen, 0)
        predictions.append(method.predict([gene]))
    assert np.abs(predictions[0] - predictions[1]).max() > 1e-4


@METHODS
def test_the_seed_alone_decides_and_global_state_is_untouched(tiny, kind):
    visible, genes = tiny.hidden().visible, list(tiny.split.test)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    predictions = []
    for seed in (0, 0, 1):
        method = kind(**QUICK[kind])
        method.fit(visible, seed)
        predictions.append(method.predict(genes))
        np.testing.assert_array_equal(method.predict(genes[::-1]), predictions[-1][::-1])
        np.testing.assert_array_equal(method.predict(genes[1:2]), predictions[-1][1:2])
    assert predictions[0].tobytes() == predictions[1].tobytes()
    assert predictions[0].tobytes() != predictions[2].tobytes()
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


@METHODS
def test_predictions_are_expression_at_the_scale_of_the_spots(tiny, kind):
    visible = tiny.hidden().visible
    method = kind(**QUICK[kind])
    method.fit(visible, 0)
    prediction = method.predict(tiny.split.test)
    assert prediction.dtype == np.float32
    assert prediction.min() >= 0
    assert prediction.max() < 3 * visible.x_st.max()


@pytest.mark.parametrize("name", ["stdiff", "spadit", "spatialscope"])
def test_the_registry_makes_it(name):
    entry = find_method(name)
    assert type(entry.make()) in QUICK
    assert entry.note


def test_a_loss_that_is_not_finite_is_refused():
    network = build(lambda: torch.nn.Linear(1, 1), 0)
    with pytest.raises(TrainingDiverged, match="Some method: the loss is nan at step 0; lower learning_rate"):
        minimise(network, lambda: network(torch.full((1, 1), torch.nan)).sum(), 2, 0.1, "Some method")


# ---- stDiff -------------------------------------------------------------------------------------------------------


def fitted(kind, visible, **arguments):
    method = kind(**{**QUICK[kind], **arguments})
    method.fit(visible, 0)
    return method


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_stdiff_returns_what_a_perfect_noise_predictor_knows(tiny, sampler):
    visible = tiny.hidden().visible
    method = fitted(StDiff, visible, n_timesteps=50, batch_size=len(visible.spot_names), sampler=sampler)
    state = method._state
    truth = torch.rand(len(visible.spot_names), len(visible.genes), generator=torch.Generator().manual_seed(0)) * 2 - 1

    def perfect(x, t, condition):
        a, b = state.process.coefficients(t, x)
        return a * (x - a * truth) / b - b * truth

    method._state = replace(state, network=perfect)
    _, largest = scale_spots(visible)
    expected = ((truth + 1) / 2 * largest).T.numpy()
    rows = [visible.genes.index(gene) for gene in tiny.split.test]
    np.testing.assert_allclose(method.predict(tiny.split.test), expected[rows], atol=2e-3)


def test_stdiff_is_trained_to_be_what_it_is_sampled_as(tiny):
    """The perfect predictor of the test above has no loss in training."""
    visible = tiny.hidden().visible
    method = fitted(StDiff, visible)
    cells = torch.linspace(-1, 1, len(visible.genes)).repeat(8, 1)

    def perfect(x, t, condition):
        a, b = method._state.process.coefficients(t, x)
        return a * (x - a * cells) / b - b * cells

    generators = {name: torch.Generator().manual_seed(0) for name in ("batch", "timestep", "noise")}
    loss = method._compute_loss(replace(method._state, network=perfect), cells, generators)
    assert loss.item() < 1e-6
    wrong = replace(method._state, network=lambda x, t, condition: x)
    assert method._compute_loss(wrong, cells, generators).item() > 0.05


def test_stdiff_never_sees_the_value_of_a_held_out_gene(tiny):
    visible = tiny.hidden().visible
    state = fitted(StDiff, visible)._state
    torch.nn.init.normal_(state.network.final.head.weight)
    generator = torch.Generator().manual_seed(0)
    values, x_t = (torch.randn(5, len(visible.genes), generator=generator) for _ in range(2))
    t = torch.full((5,), 700)
    other = torch.where(state.known, values, 9.0)
    assert torch.equal(state.predict_noise(x_t, t, values), state.predict_noise(x_t, t, other))
    assert not torch.equal(state.predict_noise(x_t, t, values), state.predict_noise(x_t, t, -values))
    assert [g for g, k in zip(visible.genes, state.known, strict=True) if k] == list(visible.train_genes)


def test_stdiff_scales_cells_and_spots_by_their_own_maximum(tiny):
    visible = tiny.hidden().visible
    cells = scale_cells(visible.sc_counts(visible.genes).T, 10.0)
    assert cells.shape == (2 * visible.x_sc.shape[1], len(visible.genes))
    np.testing.assert_allclose(cells.max(1), 1.0, atol=1e-6)
    assert cells[len(cells) // 2 :].min() > -1
    spots, largest = scale_spots(visible)
    known = [visible.genes.index(gene) for gene in visible.train_genes]
    np.testing.assert_allclose(((spots[:, known] + 1) / 2 * largest).T, visible.x_st, atol=1e-5)
    assert (np.delete(spots.numpy(), known, axis=1) == -1).all()
    method = fitted(StDiff, visible)
    np.testing.assert_allclose(method.predict(visible.train_genes), visible.x_st, atol=1e-5)


# ---- SpaDiT -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", ["x_start", "noise", "v"])
def test_spadit_returns_what_a_perfect_predictor_knows(tiny, prediction_type):
    visible = tiny.hidden().visible
    method = fitted(SpaDiT, visible, prediction_type=prediction_type, n_timesteps=10)
    state = method._state
    truth = torch.rand(12, len(visible.spot_names), generator=torch.Generator().manual_seed(0), dtype=torch.float32)

    def perfect(x, t, conditions, pooled):
        a, b = state.process.coefficients(t, x)
        return state.process.target(truth, (x - a * truth) / b, t)

    method._state = replace(state, network=perfect)
    held_out = [gene for gene in visible.genes if gene not in visible.train_genes]
    expected = (truth * state.scale + state.centre).numpy()
    np.testing.assert_allclose(method.predict(held_out), expected, atol=1e-2 if prediction_type != "x_start" else 1e-5)


@pytest.mark.parametrize("prediction_type", ["x_start", "noise", "v"])
def test_spadit_trains_on_whole_rows_as_it_samples(tiny, prediction_type):
    """The perfect predictor of the test above has no loss in training, whichever entries are zero."""
    visible = tiny.hidden().visible
    method = fitted(SpaDiT, visible, prediction_type=prediction_type)
    state = method._state
    row = torch.linspace(0, 1, len(visible.spot_names)).round(decimals=1)
    rows = row.repeat(5, 1)

    def perfect(x, t, conditions, pooled):
        a, b = state.process.coefficients(t, x)
        return state.process.target(row.expand(x.shape), (x - a * row) / b, t)

    def loss(network, seed):
        generators = {name: torch.Generator().manual_seed(seed) for name in ("batch", "timestep", "noise")}
        return method._compute_loss(replace(state, network=network), rows, state.conditions[:5], generators).item()

    assert loss(perfect, 0) < 1e-6
    for entry in (0, -1):  # the first is a zero, the last is not: both are trained on

        def spoilt(x, t, conditions, pooled, entry=entry):
            out = perfect(x, t, conditions, pooled).clone()
            out[:, entry] += 1
            return out

        assert loss(spoilt, 0) == pytest.approx(1 / len(row), rel=1e-3)


def test_spadit_uses_timestep_condition_and_every_patch(tiny):
    visible = tiny.hidden().visible
    network = fitted(SpaDiT, visible, n_tokens=7)._state.network
    n_spots = len(visible.spot_names)
    x, gene = torch.randn(2, n_spots), torch.randn(2, visible.x_sc.shape[1])
    for layer in (network.final.head, network.final.modulate[1], *(b.modulate[1] for b in network.blocks)):
        torch.nn.init.normal_(layer.weight, std=0.3)
    out = network(x, torch.tensor([1, 2]), gene, gene[0])
    assert out.shape == x.shape
    for changed in (
        network(x, torch.tensor([3, 3]), gene, gene[0]),
        network(x, torch.tensor([1, 2]), -gene, gene[0]),
        network(x, torch.tensor([1, 2]), gene, gene[1]),
        network(torch.cat([x[:, :-1], x[:, -1:] + 3], 1), torch.tensor([1, 2]), gene, gene[0]),
    ):
        assert (changed[:, 0] - out[:, 0]).abs().min() > 0


# ---- SpatialScope-style -------------------------------------------------------------------------------------------


def test_langevin_reaches_the_posterior_of_a_gaussian():
    """Prior N(0, 1), one observation y with error s: the posterior is N(y / (1 + s^2), s^2 / (1 + s^2))."""
    observed, sd = 2.0, 0.5
    noise = torch.Generator().manual_seed(0)
    draws = sample_langevin(
        lambda x, sigma: -x / (1 + sigma**2),
        lambda x, sigma: (observed - x) / (sd**2 + sigma**2),
        2.0 * torch.randn(4000, 1, generator=noise),
        np.geomspace(2.0, 0.1, 40).tolist(),
        20,
        0.2,
        noise,
    )
    assert draws.mean().item() == pytest.approx(observed / (1 + sd**2), abs=0.05)
    assert draws.std().item() == pytest.approx(sd / (1 + sd**2) ** 0.5, rel=0.1)


def test_observed_genes_are_drawn_to_their_values(planted):
    hidden, _ = planted
    visible = hidden.visible
    method = fitted(SpatialScope, visible, n_levels=12, n_replicates=3, n_steps=50)
    prediction = method.predict(visible.train_genes)
    correlation = [np.corrcoef(one, two)[0, 1] for one, two in zip(prediction, visible.x_st, strict=True)]
    assert np.mean(correlation) > 0.7


def test_the_mixture_of_types_and_the_platform_are_recovered():
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.5, 20.0, (3, 60))
    share = rng.dirichlet([0.5] * 3, 80)
    platform = np.exp(rng.normal(0, 0.3, 60))
    counts = rng.poisson(share @ profiles * platform).astype(float)
    weights, estimated = poisson_mixture(counts, profiles)
    assert np.corrcoef((weights / weights.sum(1, keepdims=True)).ravel(), share.ravel())[0, 1] > 0.97
    assert np.corrcoef(np.log(estimated), np.log(platform))[0, 1] > 0.9
    assert (weights >= 0).all()


@pytest.mark.parametrize("n_genes", [30, 200])
def test_cell_types_that_are_far_apart_are_found(n_genes):
    rng = np.random.default_rng(0)
    centres = 5 * rng.random((3, n_genes)).astype(np.float32)
    truth = np.repeat([0, 1, 2], 30)
    cells = (centres[truth] + 0.1 * rng.standard_normal((90, n_genes))).astype(np.float32)
    means, labels = cell_type_means(cells, 3, 0)
    assert {tuple(np.unique(labels[truth == k])) for k in range(3)} == {(0,), (1,), (2,)}
    np.testing.assert_allclose(means[labels], centres[truth], atol=0.1)


def test_a_panel_that_is_a_small_part_of_a_cell_is_rescaled(tiny):
    visible = tiny.hidden().visible
    faint = replace(visible, x_sc=np.log1p(np.expm1(visible.x_sc) / 300).astype(np.float32))
    known = [visible.genes.index(gene) for gene in visible.train_genes]
    for seen in (visible, faint):
        cells = cells_at_the_scale_of_spots(seen, known)
        assert np.expm1(cells[:, known]).sum(1).mean() == pytest.approx(np.median(visible.st_totals), rel=1e-3)
