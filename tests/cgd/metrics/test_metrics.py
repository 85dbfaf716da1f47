"""Metrics against SciPy and scikit-image, their NaN policy and the summary."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr
from skimage.metrics import structural_similarity

from cgd.metrics.facts import SCORES
from cgd.metrics.gene import gene_metrics
from cgd.metrics.summary import summarise_table

N_GENES, N_SPOTS = 12, 101  # an odd number of spots, so that one window of scikit-image spans them


@pytest.fixture
def pair():
    """Sparse truth with ties and a prediction with negatives, correlated with it to various degrees."""
    rng = np.random.default_rng(3)
    truth = np.log1p(rng.poisson(rng.gamma(1.0, 1.5, (N_GENES, N_SPOTS))))
    noise = rng.normal(0, np.linspace(0.05, 3, N_GENES)[:, None], truth.shape)
    return 0.4 * truth + noise, truth


def by_maximum(x):
    return x / x.max()


def one_window_ssim(a, b):
    options = {"win_size": N_SPOTS, "data_range": max(a.max(), b.max()), "use_sample_covariance": False}
    return structural_similarity(a, b, K1=0.01, K2=0.03, **options)


def z(x):
    return (x - x.mean()) / x.std()


def test_metrics_agree_with_scipy_and_scikit_image(pair):
    scores = gene_metrics(*pair)
    assert list(scores) == list(SCORES)
    for i, (p, t) in enumerate(zip(*pair, strict=True)):
        expected = {
            "pcc": pearsonr(p, t).statistic,
            "spearman": spearmanr(p, t).statistic,
            "ssim": one_window_ssim(by_maximum(p), by_maximum(t)),
            "js": jensenshannon(np.clip(p, 0, None), t) ** 2,
            "rmse": np.sqrt(np.mean((z(p) - z(t)) ** 2)),
        }
        for key, value in expected.items():
            assert scores[key][i] == pytest.approx(value, abs=1e-9), (key, i)


def test_metrics_ignore_the_scale_of_a_gene_even_where_tiny(pair):
    prediction, truth = pair
    scores = gene_metrics(prediction, truth)
    for key, values in gene_metrics(prediction * 1e-200, truth * 1e7).items():
        np.testing.assert_allclose(values, scores[key], atol=1e-9)


def test_constant_truth_is_nan_in_every_metric_of_that_gene_only(pair):
    prediction, truth = pair
    truth[4] = 0.0
    truth[7] = 2.5
    for key, values in gene_metrics(prediction, truth).items():
        assert np.flatnonzero(np.isnan(values)).tolist() == [4, 7], key


@pytest.mark.parametrize("level", [0.0, 1.7, -3.0])
def test_constant_prediction_scores_as_no_information(pair, level):
    _, truth = pair
    rounding = np.finfo(np.float32).eps * (np.arange(N_SPOTS) % 2)  # is not a pattern
    prediction = np.full_like(truth, level) * (1 + rounding)
    scores = gene_metrics(prediction, truth)
    np.testing.assert_array_equal(scores["pcc"], 0)
    np.testing.assert_array_equal(scores["spearman"], 0)
    np.testing.assert_allclose(scores["rmse"], 1)
    uniform = np.ones(N_SPOTS)
    np.testing.assert_allclose(scores["js"], [jensenshannon(uniform, t) ** 2 for t in truth], atol=1e-6)
    assert all(np.isfinite(values).all() for values in scores.values())


def test_shapes_that_differ_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"prediction \(2, 5\), truth \(3, 5\)"):
        gene_metrics(np.ones((2, 5)), np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"found shape \(5,\)"):
        gene_metrics(np.ones(5), np.ones(5))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_prediction_is_refused_with_its_rows(pair, bad):
    prediction, truth = pair
    prediction[[2, 5], 0] = bad
    with pytest.raises(ValueError, match=r"prediction must be finite, found 2 .* 2 genes \(first rows: \[2, 5\]\)"):
        gene_metrics(prediction, truth)


def test_summary_is_over_the_genes_that_can_be_scored(pair):
    prediction, truth = pair
    truth[4] = 0.0
    per_gene = gene_metrics(prediction, truth)
    kept = np.arange(N_GENES) != 4
    table = pd.DataFrame(per_gene | {"copied_share": np.linspace(0, 1, N_GENES)})
    summary = summarise_table(table.assign(gene="g"))
    assert (summary["n_genes"], summary["n_scored"]) == (N_GENES, N_GENES - 1)
    assert summary["pcc"] == pytest.approx(per_gene["pcc"][kept].mean())
    assert summary["copied_share"] == pytest.approx(np.linspace(0, 1, N_GENES)[kept].mean())


def test_summary_without_a_scorable_gene_is_nan_and_counted():
    summary = summarise_table(pd.DataFrame(gene_metrics(np.ones((2, 4)), np.zeros((2, 4)))), "test_")
    assert summary["n_scored"] == 0
    assert np.isnan(summary["test_ssim"])
