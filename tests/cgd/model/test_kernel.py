"""The kernel over genes, written out, and what the reference derives from it."""

import numpy as np
import pytest
import torch

from cgd.model.kernel import GeneKernel
from cgd.model.reference import Reference, regulator_scores

N, C = 15, 40


def profiles(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 4, generator=generator) @ torch.rand(4, C, generator=generator) + 0.3 * torch.rand(
        n, C, generator=generator
    )


def components(k=5):
    return torch.linalg.qr(torch.randn(C, k, generator=torch.Generator().manual_seed(3)))[0]


def by_hand(x, train, sharpness, among=None):
    """Each part centred on the training genes as in kernel PCA, over the mean of its diagonal there; then averaged."""
    x, train = x.double().numpy(), train.double().numpy()
    parts = [lambda a, b: a @ b.T]
    if sharpness:
        parts.append(lambda a, b: np.exp(-sharpness * (1 - np.corrcoef(a, b)[: len(a), len(a) :])))
    if among is not None:  # once more for the profiles of unit length, projected

        def projected(a):
            a = a - a.mean(axis=1, keepdims=True)
            return a / np.linalg.norm(a, axis=1, keepdims=True) @ among.double().numpy()

        def cosine(a, b):
            a, b = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (projected(a), projected(b)))
            return a @ b.T

        parts.append(lambda a, b: projected(a) @ projected(b).T)
        if sharpness:
            parts.append(lambda a, b: np.exp(-sharpness * (1 - cosine(a, b))))
    total = 0.0
    for part in parts:
        inner, outer = part(train, train), part(x, train)
        means = inner.mean(axis=0)
        diagonal = np.mean(np.diag(inner) - 2 * means + inner.mean())
        total = total + (outer - outer.mean(axis=1, keepdims=True) - means + inner.mean()) / diagonal
    return total / len(parts)


@pytest.mark.parametrize("among", [None, components()], ids=["profiles", "components too"])
@pytest.mark.parametrize("sharpness", [0.0, 2.0, 10.0])
def test_inner_products_of_the_features_are_the_kernel(sharpness, among):
    train, other = profiles(), profiles(6, seed=1)
    kernel = GeneKernel.fit(train, sharpness, among)
    features = kernel.embed(train)
    np.testing.assert_allclose(features @ features.T, by_hand(train, train, sharpness, among), atol=1e-4)
    np.testing.assert_allclose(kernel.embed(other) @ features.T, by_hand(other, train, sharpness, among), atol=1e-4)


@pytest.mark.parametrize("sharpness", [0.0, 2.0])
def test_training_genes_are_centred_and_of_unit_size_on_average(sharpness):
    features = GeneKernel.fit(profiles(), sharpness).embed(profiles())
    torch.testing.assert_close(features.mean(0), torch.zeros(features.shape[1]), rtol=0, atol=1e-4)
    assert features.square().sum(1).mean().item() == pytest.approx(1, abs=1e-3)


def test_a_gene_does_not_depend_on_those_asked_for_beside_it():
    kernel, other = GeneKernel.fit(profiles(), 2.0), profiles(6, seed=1)
    torch.testing.assert_close(kernel.embed(other[2:3]), kernel.embed(other)[2:3], rtol=1e-4, atol=1e-5)


def test_constant_or_equal_genes_give_finite_features():
    x = profiles()
    x[3], x[5] = 0.0, 2.0
    alike = x[:1].expand(N, -1).clone()
    for train in (x, alike, torch.zeros(N, C)):
        features = GeneKernel.fit(train, 2.0).embed(torch.cat([train, profiles(3, seed=2)]))
        assert torch.isfinite(features).all()


# ---- the reference ------------------------------------------------------------------------------------------------


def reference(tiny, **values):
    return Reference.build(tiny.hidden().visible, tiny.config({k.replace("__", "."): v for k, v in values.items()}))


def test_the_order_of_training_genes_is_their_score(tiny):
    visible = tiny.hidden().visible
    assert reference(tiny).order is None
    assert reference(tiny).score_order(tiny.split.train, reference(tiny).features) is None
    np.testing.assert_allclose(
        reference(tiny, ar__token_order="variance").order, visible.sc_rows(visible.train_genes).var(axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(
        reference(tiny, ar__token_order="granger").order, regulator_scores(visible.x_st), rtol=1e-4
    )


@pytest.mark.parametrize("token_order", ["variance", "granger"])
def test_other_genes_order_is_predicted_about_the_mean_score(tiny, token_order):
    """By a ridge on the scores less their mean: a gene unlike any other has the mean score."""
    made = reference(tiny, ar__token_order=token_order)
    targets = torch.from_numpy(tiny.hidden().visible.sc_rows(tiny.split.test))
    features = made.kernel.embed(targets)
    scores, train = (made.order - made.order.mean()).double(), made.features.double()
    weights = torch.linalg.solve(train @ train.T + made.ridge_lambda * torch.eye(28, dtype=torch.float64), scores)
    expected = features.double() @ train.T @ weights + made.order.mean()
    np.testing.assert_allclose(made.score_order(tiny.split.test, features), expected, rtol=1e-4)
    unlike = torch.zeros(1, features.shape[1])
    assert made.score_order(["other"], unlike).item() == pytest.approx(made.order.mean().item(), rel=1e-6)


def test_a_reference_is_made_of_the_training_genes(tiny):
    visible, made = tiny.hidden().visible, reference(tiny)
    np.testing.assert_array_equal(made.x_st, visible.x_st)
    np.testing.assert_array_equal(made.x_sc_train, visible.sc_rows(visible.train_genes))
    assert made.ridge_lambda > 0
    assert made.leave_one_out is None
    assert reference(tiny, model__tokens="latent").leave_one_out.shape == (28, 28)
    assert reference(tiny, model__tokens="latent", model__center="none").leave_one_out is None
