"""The kernel ridge at the centre of the diffusion, against refitting by brute force."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from cgd.model.ar_steps import step_of_token
from cgd.regression import conditional
from cgd.regression.ridge import leave_one_out_operator, standardise_residuals

LAMBDA = 0.7


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def causal_ridge(*arguments):
    return conditional.causal_ridge(*arguments)[0]


def predict_from_context(*arguments):
    return conditional.predict_from_context(*arguments)[0]


def refit(features, latents, queries, ridge_lambda=LAMBDA):
    model = KernelRidge(alpha=ridge_lambda, kernel="linear").fit(features.numpy(), latents.numpy())
    return model.predict(queries.numpy())


@pytest.mark.parametrize("ridge_lambda", [1e-3, 0.7, 50.0])
@pytest.mark.parametrize("n_features", [3, 30])
def test_prediction_equals_scikit_learn(n_features, ridge_lambda):
    context, targets, latents = normal(12, n_features), normal(5, n_features, seed=1), normal(2, 12, 4, seed=2)
    predicted = predict_from_context(context, latents, targets, ridge_lambda)
    assert predicted.shape == (2, 5, 4)
    for one, z in zip(predicted, latents, strict=True):
        np.testing.assert_allclose(one, refit(context, z, targets, ridge_lambda), atol=1e-9)


@pytest.mark.parametrize("n_features", [3, 30])
@pytest.mark.parametrize("sizes", [[2, 2, 3], [7], [1, 1, 1, 1, 1, 1, 1], [1, 6], [6, 1]])
def test_causal_ridge_equals_a_fit_per_step_on_the_earlier_genes(sizes, n_features):
    features, latents = normal(2, 7, n_features), normal(2, 7, 4, seed=1)
    step = step_of_token(sizes)
    predicted = causal_ridge(features, latents, step.expand(2, -1), LAMBDA)
    for b in range(2):
        assert not predicted[b, step == 0].any()
        for s in range(1, len(sizes)):
            earlier, now = step < s, step == s
            expected = refit(features[b, earlier], latents[b, earlier], features[b, now])
            np.testing.assert_allclose(predicted[b, now], expected, atol=1e-9)


def test_causal_ridge_takes_other_steps_in_each_sample():
    features, latents = normal(2, 7, 5), normal(2, 7, 4, seed=1)
    steps = torch.stack([step_of_token([2, 2, 3]), step_of_token([4, 1, 2])])
    together = causal_ridge(features, latents, steps, LAMBDA)
    for b in range(2):
        alone = causal_ridge(features[b : b + 1], latents[b : b + 1], steps[b : b + 1], LAMBDA)
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-10, atol=1e-12)


def test_no_gene_of_its_own_or_a_later_step_reaches_a_centre():
    features, latents, step = normal(1, 7, 5).float(), normal(1, 7, 4, seed=1).float(), step_of_token([2, 2, 3])
    before = causal_ridge(features, latents, step[None], LAMBDA)
    for gene in range(7):
        altered = latents.clone()
        altered[0, gene] += 3.0
        after = causal_ridge(features, altered, step[None], LAMBDA)
        for query in range(7):
            assert torch.equal(before[0, query], after[0, query]) == bool(step[query] <= step[gene]), (gene, query)


def test_a_rotation_of_the_latents_rotates_the_prediction():
    """Training on rotated latents is training on the same task."""
    context, targets, latents = normal(12, 5), normal(3, 5, seed=1), normal(1, 12, 4, seed=2)
    rotation = torch.linalg.qr(normal(4, 4, seed=3))[0]
    torch.testing.assert_close(
        predict_from_context(context, latents @ rotation, targets, LAMBDA),
        predict_from_context(context, latents, targets, LAMBDA) @ rotation,
    )


@pytest.mark.parametrize("n_features", [3, 30])
def test_leave_one_out_equals_refitting_without_each_gene(n_features):
    features, latents = normal(12, n_features), normal(12, 4, seed=1)
    operator = leave_one_out_operator(features, LAMBDA)
    assert not operator.diagonal().any()
    for i in range(12):
        rest = torch.arange(12) != i
        expected = refit(features[rest], latents[rest], features[i : i + 1])[0]
        np.testing.assert_allclose((operator @ latents)[i], expected, atol=1e-9)


def test_precision_of_the_input_is_kept():
    features, latents = normal(1, 7, 3).float(), normal(1, 7, 4).float()
    assert causal_ridge(features, latents, step_of_token([3, 4])[None], LAMBDA).dtype == torch.float32
    assert predict_from_context(features[0], latents, features[0], LAMBDA).dtype == torch.float32
    assert leave_one_out_operator(features[0], LAMBDA).dtype == torch.float32


def predictive_variance(features, query, ridge_lambda=LAMBDA):
    """Of a Gaussian process with this kernel and noise, over that of a gene with a kernel of 1."""
    gram = features @ features.T + ridge_lambda * torch.eye(len(features), dtype=features.dtype)
    cross = features @ query
    return (query @ query + ridge_lambda - cross @ torch.linalg.solve(gram, cross)) / (1 + ridge_lambda)


@pytest.mark.parametrize("n_features", [5, 30])
def test_prediction_variance_is_that_of_the_gaussian_process(n_features):
    context, targets = normal(12, n_features), normal(3, n_features, seed=1)
    _, variance = conditional.predict_from_context(context, normal(1, 12, 4), targets, LAMBDA)
    assert variance.shape == (3, 1)
    for found, target in zip(variance, targets, strict=True):
        assert found.item() == pytest.approx(predictive_variance(context, target).item())


def test_causal_variance_is_the_gps_given_earlier_steps():
    features, step = normal(1, 7, 5), step_of_token([2, 2, 3])
    _, variance = conditional.causal_ridge(features, normal(1, 7, 4), step[None], LAMBDA)
    for gene in range(7):
        expected = predictive_variance(features[0, step < step[gene]], features[0, gene])
        assert variance[0, gene].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("n_features", [5, 30])
def test_standardised_residuals_are_leave_one_out_errors(n_features):
    features, latents = normal(12, n_features), normal(12, 4, seed=1)
    centred = latents - latents.mean(0)
    found = standardise_residuals(features, latents, LAMBDA)
    for i in range(12):
        rest = torch.arange(12) != i
        error = centred[i] - torch.as_tensor(refit(features[rest], centred[rest], features[i : i + 1])[0])
        spread = predictive_variance(features[rest], features[i]).sqrt()
        torch.testing.assert_close(found[i], error / spread)
