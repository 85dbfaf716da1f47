"""AR steps at inference: what each step is given, and how the network's answer becomes a latent."""

import pytest
import torch

from cgd.estimator import CausalGeD
from cgd.model import generation
from cgd.model.ar_steps import CLEAN, CONDITION
from cgd.model.generation import generate
from cgd.random import make_generator
from cgd.regression.conditional import predict_from_context

KINDS = {"gene": {"model.tokens": "gene"}, "latent": {"model.tokens": "latent", "model.token_dim": 2}}


def fitted(tiny, values):
    """Network and reference of a tiny trial, the context and the table of the four test genes."""
    quick = {"sampling.n_samples": 1, "train.tolerance": 1.0}  # what was trained is kept, whatever it is worth
    model, hidden = CausalGeD(tiny.config({**quick, **values})), tiny.hidden()
    reference, network = model.fit_visible(hidden.visible, hidden.val, hidden.measured), model._fitted.network
    return network, reference, reference.context_table(network), model._look_up(tiny.split.test)[0]


def answer(monkeypatch, network, value):
    """Let the network say that every x_start is `value`, and record what it was asked."""
    asked = []

    def predict(prefix, tokens):
        asked.append((prefix.layout, tokens.center, tokens.step))
        return torch.full_like(tokens.x_t, value)

    monkeypatch.setattr(network, "predict", predict)
    return asked


@pytest.mark.parametrize("draw", [True, False])
def test_a_gene_is_its_centre_plus_output_in_units_of_spread(tiny, monkeypatch, draw):
    network, reference, context, targets = fitted(tiny, {})
    answer(monkeypatch, network, 1.0)
    (z,) = generate(network, context, targets, reference.ridge_lambda, 0, 1, draw)
    center, variance = predict_from_context(context.features, context.z[None], targets.features, reference.ridge_lambda)
    assert variance.sqrt().std() > 0.005
    torch.testing.assert_close(z, center[0] + variance.sqrt().expand_as(z), rtol=1e-4, atol=1e-4)


def test_without_a_centre_it_is_what_the_network_says(tiny, monkeypatch):
    network, reference, context, targets = fitted(tiny, {"model.center": "none"})
    answer(monkeypatch, network, 0.7)
    z = generate(network, context, targets, reference.ridge_lambda, 0, 2, False)
    torch.testing.assert_close(z, torch.full_like(z, 0.7))


@pytest.mark.parametrize(("kind", "n_context", "n_targets"), [("gene", 36, 4), ("latent", 0, 4)])
def test_each_step_sees_the_tokens_of_the_steps_before_it(tiny, monkeypatch, kind, n_context, n_targets):
    network, reference, context, targets = fitted(tiny, {**KINDS[kind], "sampling.n_ar_steps": 2})
    asked = answer(monkeypatch, network, 0.5)
    given = []
    extend = network.cat.extend
    monkeypatch.setattr(
        network.cat, "extend", lambda prefix, content, *rest: given.append(content) or extend(prefix, content, *rest)
    )
    (z,) = generate(network, context, targets, reference.ridge_lambda, 0, 1, False)
    half = n_targets // 2
    assert len(asked) == 2
    for (layout, _, step), n_clean in zip(asked, (n_context, n_context + half), strict=True):
        kinds = layout.kind[0].tolist()
        assert kinds == [CONDITION] * 2 + [CLEAN] * n_clean
        assert step.shape[1] == half
        clean = layout.step[0, 2:]
        assert (clean < step.min()).all()  # earlier AR steps: nothing clean is out of sight
    if kind == "gene":
        torch.testing.assert_close(given[-1][0], z[:half])
    else:
        generated = {round(value, 4) for value in z.flatten().tolist()}
        assert {round(value, 4) for value in given[-1].flatten().tolist()} <= generated


def test_the_centre_of_a_later_step_knows_genes_before_it(tiny, monkeypatch):
    network, reference, context, targets = fitted(tiny, {"sampling.n_ar_steps": 2})
    asked = answer(monkeypatch, network, 2.0)
    (z,) = generate(network, context, targets, reference.ridge_lambda, 0, 1, False)
    known = torch.cat([context.z, z[:2]])[None]
    features = torch.cat([context.features, targets.features[:2]])
    expected, _ = predict_from_context(features, known, targets.features[2:], reference.ridge_lambda)
    torch.testing.assert_close(asked[1][1], expected, rtol=1e-4, atol=1e-4)
    alone, _ = predict_from_context(context.features, context.z[None], targets.features[2:], reference.ridge_lambda)
    assert not torch.allclose(expected, alone, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_step_depends_on_what_the_first_generated(tiny, kind):
    """Through the clean tokens: with no centre there is no other way."""
    network, reference, context, targets = fitted(
        tiny, {**KINDS[kind], "sampling.n_ar_steps": 2, "model.center": "none", "ar.token_order": "variance"}
    )
    with torch.no_grad():
        torch.nn.init.normal_(network.cat.head.weight)
    one = generate(network, context, targets, reference.ridge_lambda, 0, 1, False)
    with torch.no_grad():
        network.cat.embed_clean.weight.mul_(2.0)
    other = generate(network, context, targets, reference.ridge_lambda, 0, 1, False)
    if kind == "latent":  # the leading half comes first, and sees no clean token
        assert torch.equal(one[..., :4], other[..., :4])
        assert not torch.equal(one[..., 4:], other[..., 4:])
    else:
        assert not torch.equal(one, other)


@pytest.mark.parametrize("panel_size", [2, 12])
@pytest.mark.parametrize("center", ["ridge", "none"])
def test_later_genes_depend_on_draws_of_earlier_ones_alone(tiny, monkeypatch, panel_size, center):
    """With two AR steps, or as many as groups of `panel_size` genes."""
    values = {"sampling.n_ar_steps": 2 if panel_size > 2 else 1, "train.panel_size": panel_size, "model.center": center}
    network, reference, context, targets = fitted(tiny, {**values, "train.context_share": 0.0})
    with torch.no_grad():
        torch.nn.init.normal_(network.cat.head.weight)
    drawn, asked, changed = [], [], []

    def draw(denoise, shape, process, sampler, n_steps, generator):
        """Draws of which the first or the second step's noise is another."""
        noise = torch.randn(shape, generator=generator)
        noise = noise + 1.0 if len(drawn) in changed else noise
        drawn.append(denoise(noise, process.n_timesteps // 2))
        return drawn[-1]

    monkeypatch.setattr("cgd.model.generation.sample", draw)
    for step in (None, 0, 1):
        drawn.clear()
        changed[:] = [step]
        asked.append(generate(network, context, targets, reference.ridge_lambda, 0, 1, True)[0])
    order = torch.arange(4) if targets.order is None else targets.order.argsort(descending=True, stable=True)
    first, second = order[:2], order[2:]
    plain, early, late = asked
    assert not torch.allclose(plain[first], early[first], atol=1e-3)
    assert not torch.allclose(plain[second], early[second], atol=1e-4)
    assert torch.equal(plain[first], late[first])
    assert not torch.allclose(plain[second], late[second], atol=1e-3)


def test_regressions_are_computed_once_for_all_draws(tiny, monkeypatch):
    network, reference, context, targets = fitted(tiny, {"sampling.n_ar_steps": 2})
    asked, original = [], generation.find_weights
    monkeypatch.setattr(generation, "find_weights", lambda *a: asked.append(len(a[0])) or original(*a))
    generate(network, context, targets, reference.ridge_lambda, 0, 5, True)
    assert asked == [len(context.z), len(context.z) + 2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_mean_hardly_depends_on_initial_noise(tiny, kind):
    """At t = T the network sees the noise times the signal, which is nearly zero there."""
    network, reference, context, targets = fitted(tiny, {**KINDS[kind], "ar.token_order": "variance"})
    with torch.no_grad():
        torch.nn.init.normal_(network.cat.head.weight)
    z = generate(network, context, targets, reference.ridge_lambda, 0, 8, False)
    draws = generate(network, context, targets, reference.ridge_lambda, 0, 8, True)
    assert z.std() > 0.5
    assert z.std(0).mean() < 0.02 * z.std()
    assert draws.std(0).mean() > 5 * z.std(0).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_diffusion_trains_on_the_centres_error_in_its_spread(tiny, monkeypatch, kind):
    network, reference, context, _ = fitted(tiny, KINDS[kind])
    seen = {}
    sequence_of, add_noise = network.tokens.training_sequence, network.process.add_noise
    monkeypatch.setattr(network.tokens, "training_sequence", lambda *a: seen.setdefault("sequence", sequence_of(*a)))
    monkeypatch.setattr(network.process, "add_noise", lambda x, *a: add_noise(seen.setdefault("x_start", x), *a))
    generators = {name: make_generator(0, name) for name in ("batch", "timestep", "noise", "condition")}
    network.diffusion_loss(context, reference.ridge_lambda, network.draw(context, generators))
    sequence = seen["sequence"]
    assert sequence.center.any()
    assert (sequence.scale > 0).all()
    n_context = sequence.content.shape[1] - seen["x_start"].shape[1]  # which is not generated
    assert n_context == (8 if kind == "gene" else 0)
    scale = sequence.scale.expand_as(sequence.content)
    content, center, scale = (x[:, n_context:] for x in (sequence.content, sequence.center, scale))
    torch.testing.assert_close(seen["x_start"] * scale + center, content)
    if kind == "gene":
        assert sequence.scale.std() > 0.01
