"""The network as a whole: what it predicts untrained, and what may reach a prediction and a loss."""

import pytest
import torch

from cgd.model import generation
from cgd.model.ar_steps import step_of_token
from cgd.model.cat import NoisyTokens
from cgd.model.network import Network
from cgd.model.reference import Reference
from cgd.model.tokens import GeneTable
from cgd.random import make_generator
from cgd.regression.conditional import causal_ridge, predict_from_context

GENE, LATENT = {"model.tokens": "gene"}, {"model.tokens": "latent"}
CLOSE = {"rtol": 1e-4, "atol": 5e-3}  # a little of the noise is left at t = T, where the signal is not quite zero


def build(tiny, values, trained_head=False):
    """Network and reference after initialisation, and the table of the test genes."""
    config, visible = tiny.config(values), tiny.hidden().visible
    reference = Reference.build(visible, config)
    torch.manual_seed(0)
    network = Network(config, visible.x_st.shape[1], visible.x_sc.shape[1]).eval()
    network.autoencoder.initialise(reference.x_st, reference.x_sc_train, from_svd=True)
    with torch.no_grad():
        z = network.autoencoder.encode_st(reference.x_st)[0]
        code = network.autoencoder.encode_sc(reference.x_sc_train)[0]
        network.fit_scales(z, code, reference.residual(z))
        if trained_head:
            torch.nn.init.normal_(network.cat.head.weight)
        x_sc = torch.from_numpy(visible.sc_rows(tiny.split.test))
        code, features = network.encode_code(x_sc), reference.kernel.embed(x_sc)
    return network, reference, GeneTable(code, features, reference.score_order(tiny.split.test, features))


def generate(network, reference, targets, n=2, draw=False, seed=0):
    context = reference.context_table(network)
    return generation.generate(network, context, targets, reference.ridge_lambda, seed, n, draw)


# ---- prediction ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [GENE, LATENT, {"train.rotate": False}], ids=["gene", "latent", "gene unrotated"])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_untrained_the_posterior_mean_is_the_ridge_centre(tiny, values, n_steps):
    network, reference, targets = build(tiny, {**values, "sampling.n_ar_steps": n_steps})
    context = reference.context_table(network)
    centre = predict_from_context(context.features, context.z[None], targets.features, reference.ridge_lambda)[0][0]
    assert centre.std() > 0.05
    for member in generate(network, reference, targets):
        # genes predicted in the first step are context of the second, which a ridge on them leaves as it was only
        # where the first are all there is
        rows = slice(None) if n_steps == 1 or values is LATENT else slice(0, 2)
        torch.testing.assert_close(member[rows], centre[rows], **CLOSE)


def test_without_a_centre_it_is_the_mean_pattern(tiny):
    z = generate(*build(tiny, {"model.center": "none"}))
    assert z.abs().max() < 0.05  # what is left of the noise at t = T: its signal is not quite zero


def test_members_do_not_depend_on_how_many_are_asked_for(tiny):
    network, reference, targets = build(tiny, GENE, trained_head=True)
    for draw in (True, False):
        few, many = (generate(network, reference, targets, n=n, draw=draw) for n in (2, 4))
        assert torch.equal(few, many[:2])
        assert not torch.equal(many[0], many[1])
    assert not torch.equal(generate(network, reference, targets), generate(network, reference, targets, seed=1))


@pytest.mark.parametrize("values", [GENE, LATENT], ids=["gene", "latent"])
@pytest.mark.parametrize("n_ar_steps", [1, 2, 3, 100])
def test_any_number_of_ar_steps_predicts_every_gene(tiny, values, n_ar_steps):
    network, reference, targets = build(tiny, {**values, "sampling.n_ar_steps": n_ar_steps}, trained_head=True)
    z = generate(network, reference, targets, draw=True)
    assert z.shape == (2, 4, 8)
    assert torch.isfinite(z).all()
    assert (z.std(0) > 0).all()


def test_groups_of_a_large_request_do_not_see_each_other(tiny):
    """Groups of `panel_size`: each is predicted from the measured genes alone."""
    network, reference, targets = build(tiny, {"train.panel_size": 2}, trained_head=True)
    both = generate(network, reference, targets, n=1)[0]
    altered = GeneTable(targets.code.clone(), targets.features, None)
    altered.code[2:] += 5
    changed = generate(network, reference, altered, n=1)[0]
    assert torch.equal(both[:2], changed[:2])
    assert not torch.equal(both[2:], changed[2:])


def test_ordered_genes_are_returned_in_the_order_asked_for(tiny):
    values = {"ar.token_order": "variance", "model.center": "ridge", "train.rotate": False}
    network, reference, targets = build(tiny, values)
    assert targets.order.argsort(descending=True).tolist() != [3, 2, 1, 0]  # in the order asked for they come otherwise
    targets = GeneTable(**{name: rows.flip(0) for name, rows in vars(targets).items()})
    context = reference.context_table(network)
    centre = predict_from_context(context.features, context.z[None], targets.features, reference.ridge_lambda)[0][0]
    torch.testing.assert_close(generate(network, reference, targets)[0], centre, **CLOSE)


# ---- training -----------------------------------------------------------------------------------------------------


def test_latents_have_the_variance_of_the_noise(tiny):
    for scaling in ("global", "per_dim"):
        network, reference, _ = build(tiny, {"model.latent_scaling": scaling})
        z = reference.context_table(network).z
        torch.testing.assert_close(z.mean(0), torch.zeros(8), rtol=0, atol=1e-4)
        variance = z.var(0, correction=0)
        assert variance.mean().item() == pytest.approx(1, abs=1e-3)
        if scaling == "per_dim":
            torch.testing.assert_close(variance, torch.ones(8), rtol=1e-3, atol=1e-3)
        else:
            assert variance[0] > 1.5 * variance[-1]
        raw = network.autoencoder.decode(network.autoencoder.encode_st(reference.x_st)[0])
        torch.testing.assert_close(network.decode(z), raw, rtol=1e-4, atol=1e-4)


def test_no_token_of_a_later_step_reaches_a_prediction(tiny):
    """The whole way from the latents: centre, clean tokens and mask together."""
    network, reference, _ = build(tiny, {"train.rotate": False}, trained_head=True)
    table, step = reference.context_table(network), step_of_token([2, 2, 3])[None]

    def predict(content):
        position = network.tokens.embed_position(table.code[:7])[None]
        prefix = network._make_prefix(content, position, network.tokens.condition(table.code)[None], step)
        center = causal_ridge(table.features[None, :7], content, step, 0.5)[0]
        x_t = torch.randn(1, 7, 8, generator=make_generator(0))
        with torch.no_grad():
            return network.cat.denoise(prefix, NoisyTokens(x_t, torch.full((1, 7), 0.5), center, position, step))

    before = predict(table.z[None, :7])
    for token in range(7):
        altered = table.z[None, :7].clone()
        altered[:, token] += 3.0
        after = predict(altered)
        for query in range(7):
            same = torch.equal(before[:, query], after[:, query])
            assert same == bool(step[0, query] <= step[0, token]), (token, query)


def loss(network, reference, seed=0):
    table = reference.context_table(network)
    generators = {name: make_generator(seed, name) for name in ("batch", "timestep", "noise", "condition")}
    return network.diffusion_loss(table, reference.ridge_lambda, network.draw(table, generators))


def test_an_untrained_loss_is_that_of_the_best_linear_estimate(tiny):
    """The centre leaves a residual of unit variance; about it v costs 1, and x_start and noise share that between them
    in proportion to the noise and the signal at each timestep."""
    values = {"sampling.estimate": "draws", "train.batch_size": 64}
    losses = {
        kind: loss(*build(tiny, {**values, "diffusion.prediction_type": kind})[:2]).item()
        for kind in ("noise", "x_start", "v")
    }
    assert losses["v"] == pytest.approx(1, abs=0.25)
    assert losses["noise"] + losses["x_start"] == pytest.approx(losses["v"], rel=0.1)


@pytest.mark.parametrize("values", [GENE, LATENT], ids=["gene", "latent"])
def test_the_loss_follows_its_generators_and_reaches_all_weights(tiny, values):
    network, reference, _ = build(tiny, values, trained_head=True)
    first = loss(network, reference)
    assert torch.equal(first, loss(network, reference))
    assert not torch.equal(first, loss(network, reference, seed=1))
    first.backward()
    without = [
        name
        for name, p in network.named_parameters()
        if not name.startswith("autoencoder.") and (p.grad is None or not p.grad.any())
    ]
    assert without == []


def test_residual_scaling_gives_unit_error_about_the_centre(tiny):
    network, reference, _ = build(tiny, {"model.latent_scaling": "residual"})
    z = reference.context_table(network).z
    torch.testing.assert_close(reference.residual(z).square().mean(0), torch.ones(8), rtol=1e-3, atol=1e-3)


# ---- condition dropping and guidance ------------------------------------------------------------------------------

DROP = {"train.condition_drop": 0.5}


@pytest.mark.parametrize("values", [GENE, LATENT], ids=["gene", "latent"])
def test_guidance_is_a_line_through_both_predictions(tiny, values):
    def member(weight):
        network, reference, targets = build(tiny, {**values, **DROP, "sampling.guidance": weight}, trained_head=True)
        torch.nn.init.normal_(network.blank, generator=torch.Generator().manual_seed(1))
        return generate(network, reference, targets, n=1)[0]

    without, half, with_condition, beyond = (member(weight) for weight in (0.0, 0.5, 1.0, 2.0))
    assert (with_condition - without).abs().max() > 0.01
    torch.testing.assert_close(half, (without + with_condition) / 2, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(beyond, 2 * with_condition - without, rtol=1e-3, atol=1e-3)


def test_the_stated_share_of_sequences_loses_its_condition(tiny, monkeypatch):
    network, reference, _ = build(tiny, {"train.condition_drop": 0.3, "train.batch_size": 400}, trained_head=True)
    table = reference.context_table(network)
    generators = {name: make_generator(0, name) for name in ("batch", "timestep", "noise", "condition")}
    draw = network.draw(table, generators)
    assert 0.25 < draw.dropped.float().mean() < 0.35
    seen, start = {}, network.cat.start
    monkeypatch.setattr(network.cat, "start", lambda condition: start(seen.setdefault("condition", condition)))
    network.diffusion_loss(table, reference.ridge_lambda, draw)
    blank = (seen["condition"] == network.blank).flatten(1).all(1)
    assert torch.equal(blank, draw.dropped)


def test_the_blank_is_learned_where_the_condition_is_dropped(tiny):
    network, reference, _ = build(tiny, DROP, trained_head=True)
    table = reference.training_table(network, torch.Generator().manual_seed(0), with_gradient=False)
    generators = {name: torch.Generator().manual_seed(0) for name in ("batch", "timestep", "noise", "condition")}
    network.diffusion_loss(table, reference.ridge_lambda, network.draw(table, generators)).backward()
    assert network.blank.grad.abs().sum() > 0
    assert build(tiny, {})[0].blank is None
