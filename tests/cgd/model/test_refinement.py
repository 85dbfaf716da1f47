"""The refined centre: closed forms against brute force, its scale, and what it must not do."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from cgd.errors import ConfigError
from cgd.model.kernel import GeneKernel
from cgd.model.refinement import RefinedCentre, _Regression, _smooth, standardise
from cgd.regression.svd import thin_svd


def genes(n=24, n_spots=40, n_cells=15, seed=0):
    """Kernel features (n, r) and expression (n, S) of genes that share programmes in both modalities."""
    rng = np.random.default_rng(seed)
    loadings = rng.gamma(1.0, 1.0, (n + 8, 3))
    x_sc = loadings @ rng.gamma(1.0, 1.0, (3, n_cells)) + rng.normal(0, 0.2, (n + 8, n_cells))
    x_st = loadings @ rng.gamma(1.0, 1.0, (3, n_spots)) + rng.normal(0, 0.2, (n + 8, n_spots))
    x_sc, x_st = (torch.tensor(x, dtype=torch.float32) for x in (x_sc, x_st))
    kernel = GeneKernel.fit(x_sc[:n], 2.0)
    return kernel.embed(x_sc[:n]), x_st[:n], kernel.embed(x_sc[n:]), x_st[n:]


def test_features_of_the_kernel_are_its_eigenvectors():
    features = genes()[0].double()
    gram = features.T @ features
    torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=float(1e-5 * gram.max()))
    assert float(features.mean(0).abs().max()) < 1e-5


@pytest.mark.parametrize("index", [0, 12, 28])
def test_leaving_a_gene_out_in_closed_form_is_leaving_it_out(index):
    features, x_st, *_ = genes()
    regression = _Regression(features)
    penalty, targets = regression.penalties[index], (x_st - x_st.mean(0)).double()
    predicted = targets - regression.leave_one_out(targets, penalty)
    for i in range(0, len(features), 5):
        others = [j for j in range(len(features)) if j != i]
        model = Ridge(alpha=float(penalty)).fit(features[others].double(), targets[others])
        np.testing.assert_allclose(predicted[i], model.predict(features[[i]].double())[0], rtol=1e-4, atol=1e-4)


def test_a_penalty_has_the_least_error_overall_or_by_component():
    features, x_st, *_ = genes()
    regression = _Regression(features)
    fit, other = regression.fit(x_st.double())
    weights, own = fit.weights, other.weights
    errors = [regression.leave_one_out((x_st - x_st.mean(0)).double(), p).square().sum() for p in regression.penalties]
    best = float(regression.penalties[int(torch.stack(errors).argmin())])
    model = Ridge(alpha=best).fit(features.double(), x_st.double())
    np.testing.assert_allclose(weights[:-1].T, model.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights[-1], model.intercept_, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights, own)
    assert fit.spread > 0


def test_a_left_out_genes_estimate_comes_from_the_others_alone():
    """With the penalties as chosen, of which one serves all components and the others each their own."""
    features, x_st, *_ = genes()
    targets = (x_st - x_st.mean(0)).double()
    regression = _Regression(features)
    common, own = regression.fit(x_st.double())
    errors = torch.stack([regression.leave_one_out(targets, p).square().sum() for p in regression.penalties])
    for i in range(0, len(features), 5):
        others = [j for j in range(len(features)) if j != i]
        model = Ridge(alpha=float(regression.penalties[int(errors.argmin())]))
        model.fit(features[others].double(), x_st[others].double())
        np.testing.assert_allclose(common.left_out[i], model.predict(features[[i]].double())[0], rtol=1e-4, atol=1e-4)
    fitted = features.double() @ own.weights[:-1] + own.weights[-1]
    assert ((own.left_out - x_st) ** 2).sum() > 1.05 * ((fitted - x_st) ** 2).sum()


def test_the_pattern_left_out_is_the_mean_of_four():
    features, x_st, *_ = genes()
    fits = [*_Regression(features).fit(x_st.double()), *_Regression(features).fit(standardise(x_st).double())]
    pattern = standardise(sum(fit.left_out / fit.spread for fit in fits), 1e-9)
    level = fits[0].left_out  # of the first regression, in expression units
    expected = level.mean(1, keepdim=True) + level.std(1, correction=0, keepdim=True) * pattern
    torch.testing.assert_close(RefinedCentre.fit(features, x_st)[1], expected.float())


def test_smoothing_keeps_what_is_even_and_spreads_what_is_not():
    even = torch.full((3, 7), 2.0, dtype=torch.float64)
    torch.testing.assert_close(_smooth(even), even)
    spike = torch.zeros(1, 41, dtype=torch.float64)
    spike[0, 20] = 1.0
    smooth = _smooth(spike)[0]
    assert smooth.argmax() == 20
    assert float(smooth.sum()) == pytest.approx(1.0)
    assert smooth[18] > smooth[14] > 0


def test_held_out_genes_get_their_level_and_less_spread():
    features, x_st, queries, truth = genes(n=40, n_spots=80)
    predicted = RefinedCentre.fit(features, x_st)[0].predict(queries)
    pcc = [np.corrcoef(p, t)[0, 1] for p, t in zip(predicted, truth, strict=True)]
    assert np.mean(pcc) > 0.8
    assert np.corrcoef(predicted.mean(1), truth.mean(1))[0, 1] > 0.8
    assert float((predicted.std(1) / truth.std(1)).mean()) == pytest.approx(0.9, abs=0.2)


def test_the_pattern_does_not_follow_one_loud_gene():
    """A training gene of a thousand times the scale dominates raw targets, not standardised ones."""
    features, x_st, queries, truth = genes(n=40, n_spots=80)
    loud = x_st.clone()
    loud[0] *= 1000
    centre, _ = RefinedCentre.fit(features, loud)
    weights = next(_Regression(features).fit(loud.double())).weights
    raw = torch.cat([queries, torch.ones(len(queries), 1)], 1).double() @ weights

    def score(prediction):
        return np.mean([np.corrcoef(p, t)[0, 1] for p, t in zip(prediction, truth, strict=True)])

    assert score(centre.predict(queries)) > score(raw) + 0.05


@pytest.mark.parametrize("case", ["constant gene", "all constant", "two genes", "no feature"])
def test_degenerate_genes_give_finite_predictions(case):
    features, x_st, queries, _ = genes()
    if case == "constant gene":
        x_st[3] = 1.0
    elif case == "all constant":
        x_st[:] = 1.0
    elif case == "two genes":
        kernel = GeneKernel.fit(torch.rand(2, 15, generator=torch.Generator().manual_seed(0)), 2.0)
        features, x_st = kernel.embed(kernel.profiles), x_st[:2]
        queries = kernel.embed(torch.rand(8, 15, generator=torch.Generator().manual_seed(1)))
    else:
        features, queries = torch.zeros_like(features), torch.zeros_like(queries)
    predicted = RefinedCentre.fit(features, x_st)[0].predict(queries)
    assert predicted.shape == (8, 40)
    assert torch.isfinite(predicted).all()


def test_a_component_takes_a_penalty_that_suits_neighbours_too():
    """Noise alone would give neighbours penalties far apart; averaged errors give nearly the same."""
    features, *_ = genes(n=40)
    noise = torch.randn(40, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    regression = _Regression(features)
    left, singular, axes = thin_svd(noise - noise.mean(0), 1e-10)
    components, patterns = left * singular, axes.T
    errors = torch.stack([regression.leave_one_out(components, p).square().sum(0) for p in regression.penalties])
    alone = (errors / components.square().sum(0)).argmin(0)
    _, own = regression.fit(noise)
    weights = own.weights
    projected = features.double().T @ components
    used = (projected / (weights[:-1] @ patterns.T)).div(1).sub(regression.values[:, None])  # penalty of each component
    spread = used.median(0).values.clamp_min(1e-12).log().diff().abs().mean()
    assert spread < 0.7 * regression.penalties[alone].log().diff().abs().mean()


def test_an_estimate_is_the_diffusion_about_the_refined_centre(tiny, monkeypatch):
    """With a network that says nothing, posterior mean and centre are one; the refined centre is no latent ridge."""
    from cgd.estimator import CausalGeD

    def predicted(silent, **values):
        values = {key.replace("__", "."): value for key, value in values.items()}
        config = tiny.config({"train.tolerance": 1.0, "sampling.n_samples": 0, **values})
        monkeypatch.setattr("cgd.estimator._SHARES", (1.0,))  # the whole of what the network says
        model, hidden = CausalGeD(config), tiny.hidden()
        model.fit_visible(hidden.visible, hidden.val, hidden.measured)
        if silent:
            monkeypatch.setattr(model._fitted.network, "predict", lambda prefix, tokens: torch.zeros_like(tokens.x_t))
        return model.predict_mean(tiny.split.test)

    centre = predicted(False, sampling__estimate="center")
    np.testing.assert_allclose(predicted(True), centre, atol=1e-5)
    assert np.abs(predicted(False) - centre).max() > 1e-4
    assert np.abs(predicted(False, sampling__estimate="center", sampling__center="ridge") - centre).max() > 1e-3


def test_without_a_centre_it_cannot_be_the_estimate(tiny):
    with pytest.raises(ConfigError, match=r"sampling\.estimate = center needs model\.center = ridge"):
        tiny.config({"sampling.estimate": "center", "model.center": "none"})
