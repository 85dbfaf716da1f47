"""The two-headed autoencoder: its start at the truncated SVD, its two encoders, its loss."""

import numpy as np
import pytest
import torch
from scipy.stats import nbinom, poisson

from cgd.config import ModelConfig
from cgd.model.autoencoder import Misfit, TwoHeadedAutoencoder, gaussian_kl, principal_components

G, S, C, K = 12, 30, 50, 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data():
    g = generator()
    loadings = torch.randn(G, 6, generator=g)
    x_st = loadings @ torch.randn(6, S, generator=g) + 0.1 * torch.randn(G, S, generator=g) + 3
    return x_st, loadings @ torch.randn(6, C, generator=g) + 1


def build(encoder="deterministic", from_svd=True, latent_dim=K, hidden_dim=8):
    torch.manual_seed(0)
    config = ModelConfig(encoder=encoder, latent_dim=latent_dim, hidden_dim=hidden_dim)
    model = TwoHeadedAutoencoder(config, S, C)
    model.initialise(*data(), from_svd=from_svd)
    return model


@pytest.mark.parametrize("latent_dim", [1, 4, 8])
def test_it_starts_as_the_truncated_svd_of_the_training_genes(latent_dim):
    x_st, _ = data()
    model = build(latent_dim=latent_dim)
    centred = (x_st - x_st.mean(0)).double().numpy()
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    expected = (u[:, :latent_dim] * s[:latent_dim]) @ vt[:latent_dim] + x_st.mean(0).double().numpy()
    with torch.no_grad():
        decoded = model.decode(model.encode_st(x_st)[0])
    np.testing.assert_allclose(decoded, expected, atol=1e-3)


def test_more_dimensions_than_the_data_have_decode_it_whole():
    x_st, _ = data()
    with torch.no_grad():
        model = build(latent_dim=20, hidden_dim=32)
        torch.testing.assert_close(model.decode(model.encode_st(x_st)[0]), x_st, rtol=1e-3, atol=1e-3)


def test_zero_decodes_to_the_mean_pattern():
    x_st, _ = data()
    torch.testing.assert_close(build().decode(torch.zeros(2, K)), x_st.mean(0).expand(2, -1))


def test_without_the_svd_heads_are_random_and_means_are_kept():
    model, other = build(from_svd=False), build()
    x_st, x_sc = data()
    torch.testing.assert_close(model.st_mean, x_st.mean(0))
    torch.testing.assert_close(model.sc_mean, x_sc.mean(0))
    assert not torch.equal(model.head_st.weight, other.head_st.weight)
    with torch.no_grad():
        error = (model.decode(model.encode_st(x_st)[0]) - x_st).square().mean()
        assert error > 10 * (other.decode(other.encode_st(x_st)[0]) - x_st).square().mean()


def test_variational_samples_have_the_mean_and_spread_it_says():
    model = build("variational")
    mean, log_variance = torch.full((20_000, 2), 3.0), torch.tensor([-2.0, 0.5]).expand(20_000, -1)
    z = model.sample(mean, log_variance, torch.randn(mean.shape, generator=generator()))
    np.testing.assert_allclose(z.mean(0), [3, 3], atol=0.03)
    np.testing.assert_allclose(z.std(0), np.exp([-1.0, 0.25]), rtol=0.03)
    assert build("variational").draw(3, generator()).shape == (3, K)


def test_a_deterministic_encoder_gives_its_mean_without_draws():
    g = generator()
    before = g.get_state()
    mean = torch.randn(5, K)
    assert build("deterministic").sample(mean, torch.zeros(5, K), build("deterministic").draw(5, g)) is mean
    assert torch.equal(g.get_state(), before)


def test_kl_is_that_of_torch_distributions():
    mean, log_variance = torch.randn(2, 6, 3, generator=generator())
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, torch.exp(0.5 * log_variance)), normal(torch.zeros(()), torch.ones(()))
    )
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected.mean(1))


GAUSSIAN = Misfit("gaussian", torch.ones(S), 1.0)


def loss_of(model, x_st, x_sc, weight, rows=slice(0, 40), misfit=GAUSSIAN):
    g = generator()
    return model.loss(x_st, x_sc, weight, (model.draw(len(x_st), g), model.draw(len(x_st), g)), rows, misfit)


def test_the_loss_is_both_heads_relative_error_plus_kl():
    model, (x_st, x_sc) = build("deterministic"), data()
    variance = (x_st - x_st.mean(0)).square().mean()
    expected = sum(
        (model.decode(mean) - x_st).square().mean() / variance
        for mean in (model.encode_st(x_st)[0], model.encode_sc(x_sc)[0])
    )
    torch.testing.assert_close(loss_of(model, x_st, x_sc, 0.5), expected)
    variational = build("variational")
    low, high = (loss_of(variational, x_st, x_sc, weight) for weight in (0.0, 2.0))
    kl = (gaussian_kl(*variational.encode_st(x_st)) + gaussian_kl(*variational.encode_sc(x_sc))).mean()
    torch.testing.assert_close(high - low, 2.0 * kl)


def test_losses_of_disjoint_genes_add_up():
    model, (x_st, x_sc) = build("variational"), data()
    parts = [loss_of(model, x_st, x_sc, 0.5, rows) for rows in (slice(0, 5), slice(5, 6), slice(6, len(x_st)))]
    torch.testing.assert_close(sum(parts), loss_of(model, x_st, x_sc, 0.5, slice(0, len(x_st))))


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson", "negative_binomial"])
def test_training_lowers_the_loss_through_both_heads(likelihood):
    model, (x_st, x_sc) = build("deterministic", from_svd=False), data()
    misfit = Misfit(likelihood, torch.ones(S), 2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = loss_of(model, x_st.clamp_min(0), x_sc, 0.0, misfit=misfit)
        optimizer.zero_grad()
        loss.backward()
        assert model.head_st.weight.grad.any()
        assert model.head_sc.weight.grad.any()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(("likelihood", "size"), [("poisson", 1e9), ("negative_binomial", 1.7)])
def test_the_misfit_of_counts_is_half_their_deviance(likelihood, size):
    rng = np.random.default_rng(0)
    exposure = torch.tensor(rng.gamma(5, 0.2, S))
    decoded = torch.tensor(rng.uniform(1.5, 3.0, (G, S)))
    mean = np.expm1(decoded.numpy()) * exposure.numpy()
    counts = rng.poisson(mean)
    truth = torch.log1p(torch.tensor(counts) / exposure)
    found = Misfit(likelihood, exposure, size).measure(decoded, truth)

    def log_likelihood(rate):
        if likelihood == "poisson":
            return poisson.logpmf(counts, rate)
        return nbinom.logpmf(counts, size, size / (size + rate))

    expected = (log_likelihood(np.maximum(counts, 1e-12)) - log_likelihood(mean)).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_the_misfit_of_zeros_and_of_negatives_has_a_gradient(likelihood):
    decoded = torch.tensor([[-5.0, 0.0, 2.0, 0.5]], requires_grad=True)
    truth = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    Misfit(likelihood, torch.ones(4), 2.0).measure(decoded, truth).sum().backward()
    assert torch.isfinite(decoded.grad).all()
    assert decoded.grad[0, 2] > decoded.grad[0, 1] > 0 > decoded.grad[0, 3]


def test_the_size_of_the_misfit_is_that_of_the_counts():
    rng = np.random.default_rng(0)
    exposure = rng.gamma(8, 1 / 8, 400)
    rate = rng.lognormal(2, 0.3, (60, 1)) * exposure
    counts = rng.poisson(rate * rng.gamma(2.0, 0.5, rate.shape))
    x_st = torch.tensor(np.log1p(counts / exposure))
    assert Misfit.fit(x_st, torch.tensor(exposure), "negative_binomial").size == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("n_columns", [S, G // 2])
def test_principal_components_are_the_right_singular_vectors(n_columns):
    x = data()[0][:, :n_columns]
    x = x - x.mean(0)
    components, scale = principal_components(x, 5)
    _, s, vt = np.linalg.svd(x.double().numpy(), full_matrices=False)
    for component, expected in zip(components.numpy(), vt[:5], strict=True):
        assert abs(component @ expected) == pytest.approx(1, abs=1e-4)
    assert scale.item() == pytest.approx(s[0] / np.sqrt(G), rel=1e-5)
    torch.testing.assert_close((x @ components[0] / scale).square().mean(), torch.ones(()), rtol=1e-4, atol=0)


def test_directions_without_variation_are_left_out():
    rank_2 = torch.randn(G, 2, generator=generator()) @ torch.randn(2, S, generator=generator(1))
    components, _ = principal_components(rank_2, 10)
    assert components.shape == (2, S)
    torch.testing.assert_close(components @ components.T, torch.eye(2), rtol=0, atol=1e-4)


def test_data_without_variation_have_no_components():
    components, scale = principal_components(torch.zeros(G, S), 10)
    assert components.shape == (0, S)
    assert scale.item() == 1
