"""Scores of draws against closed forms and other libraries, and that each sees what it is there for."""

from typing import NamedTuple

import numpy as np
import pytest
import scoringrules
from scanpy.metrics import morans_i
from scipy.stats import norm

from cgd.metrics.draws import (
    compute_moran,
    link_neighbours,
    score_draws_by_gene,
    score_draws_jointly,
    summarise_draws,
)
from cgd.metrics.facts import DRAW_SCORES, INTERVALS, JOINT_SCORES, METRICS, OUTCOMES

N_DRAWS, N_GENES, N_SPOTS, SCALE = 16, 30, 600, 400


class Tissue(NamedTuple):
    """Counts around rates that are smooth over the spots, and draws from the same distribution."""

    truth: np.ndarray
    draws: np.ndarray
    coordinates: np.ndarray
    rates: np.ndarray  # (n_draws, n_genes, n_spots) of the draws
    totals: np.ndarray

    def draw_counts(self, rates, seed=5):
        """Negative-binomial counts of shape 4 around rates, log-normalised."""
        rng = np.random.default_rng(seed)
        counts = rng.poisson(rates * rng.gamma(4, 0.25, rates.shape) * self.totals / SCALE)
        return np.log1p(SCALE * counts / self.totals)

    def score(self, draws):
        return summarise_draws(score_draws_by_gene(draws, self.truth, self.coordinates)) | score_draws_jointly(
            draws, self.truth
        )


@pytest.fixture(scope="module")
def tissue():
    """Part of the rate is known (the same in all draws), part is a residual that genes share and each draw has anew."""
    rng = np.random.default_rng(0)
    coordinates = rng.random((N_SPOTS, 2))
    level = np.log(rng.lognormal(1.5, 0.5, (N_GENES, 1)))
    known, unknown = rng.normal(0, 0.3, (2, N_GENES, 6))

    def draw_waves():
        waves = coordinates @ rng.normal(0, 12, (2, 6)) + rng.uniform(0, 2 * np.pi, 6)
        return np.sqrt(2) * np.sin(waves).T

    base = level + known @ draw_waves()
    rates = np.exp([base + unknown @ draw_waves() for _ in range(N_DRAWS + 1)])
    totals = rng.gamma(10, SCALE / 10, N_SPOTS)
    tissue = Tissue(np.empty(0), np.empty(0), coordinates, rates[1:], totals)
    sampled = tissue.draw_counts(rates)
    return tissue._replace(truth=sampled[0], draws=sampled[1:])


@pytest.fixture(scope="module")
def good(tissue):
    return tissue.score(tissue.draws)


def small(seed=0, n_draws=5, n_genes=4, n_spots=30):
    rng = np.random.default_rng(seed)
    sampled = np.log1p(rng.poisson(1.5, (n_draws + 1, n_genes, n_spots)))
    return sampled[1:], sampled[0], rng.random((n_spots, 2))


def test_names_are_those_of_the_table(good):
    assert tuple(good) == (*DRAW_SCORES, *JOINT_SCORES)
    assert set(OUTCOMES) | set(INTERVALS) <= set(METRICS)


def test_values_lie_in_the_range_of_the_table(tissue, good):
    spoilt = tissue.score(-3 * tissue.draws[:2] + np.random.default_rng(0).normal(size=tissue.truth.shape))
    for name, value in [*good.items(), *spoilt.items()]:
        low, high = METRICS[name].range
        assert (-np.inf if low is None else low) <= value <= (np.inf if high is None else high), name


def test_a_draw_equal_to_the_truth_is_without_error():
    _, truth, coordinates = small()
    draws = np.repeat(truth[None], 3, axis=0)
    scores = score_draws_by_gene(draws, truth, coordinates)
    for name in ("crps", "energy_spots", "zeros_bias", "negative_share", "variance_error", "moran_bias"):
        np.testing.assert_allclose(scores[name], METRICS[name].reference, atol=1e-7)
    joint = score_draws_jointly(draws, truth)
    assert joint["energy_genes"] == pytest.approx(0, abs=1e-7)
    assert joint["gene_correlation_error"] == pytest.approx(0, abs=1e-7)
    assert joint["gene_correlation_mean_error"] == pytest.approx(0, abs=1e-7)
    assert joint["gene_correlation_r"] == pytest.approx(1)


def test_crps_of_gaussian_draws_is_the_closed_form():
    rng = np.random.default_rng(0)
    truth = rng.normal(1, 2, (3, 50))
    found = score_draws_by_gene(rng.normal(0.5, 1.5, (2000, 3, 50)), truth, rng.random((50, 2)))["crps"]
    z = (truth - 0.5) / 1.5
    expected = 1.5 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(found, expected.mean(axis=1), rtol=0.02)


def test_crps_and_energy_are_those_of_scoringrules():
    draws, truth, coordinates = small()
    found = score_draws_by_gene(draws, truth, coordinates)
    crps = scoringrules.crps_ensemble(truth, draws, m_axis=0, estimator="fair", backend="numpy")
    np.testing.assert_allclose(found["crps"], crps.mean(axis=1))
    energy = scoringrules.es_ensemble(truth, draws.transpose(1, 0, 2), estimator="fair", backend="numpy")
    np.testing.assert_allclose(found["energy_spots"], energy)
    energy = scoringrules.es_ensemble(truth.T, draws.transpose(2, 0, 1), estimator="fair", backend="numpy")
    assert score_draws_jointly(draws, truth)["energy_genes"] == pytest.approx(energy.mean())


def test_energy_of_one_gene_over_genes_is_its_crps():
    draws, truth, coordinates = small(n_genes=1)
    energy = score_draws_jointly(draws, truth)["energy_genes"]
    assert energy == pytest.approx(score_draws_by_gene(draws, truth, coordinates)["crps"][0])


def test_few_draws_score_as_many_do_on_average():
    rng = np.random.default_rng(0)
    truth, coordinates = rng.normal(size=(1, 20_000)), rng.random((20_000, 2))
    few, many = (score_draws_by_gene(rng.normal(size=(n, *truth.shape)), truth, coordinates) for n in (2, 40))
    assert few["crps"] == pytest.approx(many["crps"], rel=0.03)


def test_widths_are_between_the_quantiles_of_numpy():
    draws, truth, coordinates = small(n_draws=7)
    scores = score_draws_by_gene(draws, truth, coordinates)
    for name, tail in (("50", 0.25), ("90", 0.05)):
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0, method="weibull")
        np.testing.assert_allclose(scores[f"width_{name}_raw"], (high - low).mean(axis=1) / truth.std(axis=1))


def test_coverage_is_of_the_randomised_rank_of_the_truth():
    """Against a plain loop: the truth is somewhere between its lowest and its highest place among the draws."""
    draws, truth, coordinates = small(n_draws=7)
    scores = score_draws_by_gene(draws, truth, coordinates)
    rng = np.random.default_rng(0)
    for name, level in (("50", 0.5), ("90", 0.9)):
        inside = np.zeros(truth.shape)
        for gene, spot in np.ndindex(truth.shape):
            below = (draws[:, gene, spot] < truth[gene, spot]).sum() / 8
            above = ((draws[:, gene, spot] <= truth[gene, spot]).sum() + 1) / 8
            places = rng.uniform(below, above, 4000)
            inside[gene, spot] = (np.abs(places - 0.5) < level / 2).mean()
        np.testing.assert_allclose(scores[f"coverage_{name}_raw"], inside.mean(axis=1), atol=0.01)


def draw_values(kind, rng, shape):
    if kind == "continuous":
        return rng.normal(2, 0.5, shape)
    return np.log1p(rng.poisson(0.8, shape))  # nearly half of them 0


@pytest.mark.parametrize("kind", ["continuous", "counts"])
@pytest.mark.parametrize("n_draws", [2, 5, 16, 40])
def test_perfect_draws_hold_what_is_promised(kind, n_draws):
    """However few they are, and however many ties there are."""
    rng = np.random.default_rng(0)
    truth, draws = draw_values(kind, rng, (2, 4000)), draw_values(kind, rng, (n_draws, 2, 4000))
    scores = score_draws_by_gene(draws, truth, rng.random((4000, 2)))
    for name, level in (("50", 0.5), ("90", 0.9)):
        np.testing.assert_allclose(scores[f"coverage_{name}_raw"], level, atol=0.02)


@pytest.mark.parametrize("kind", ["continuous", "counts"])
def test_narrow_draws_hold_less_and_wide_ones_more(kind):
    rng = np.random.default_rng(0)
    shape = (16, 2, 4000)
    if kind == "continuous":
        truth, narrow, wide = (rng.normal(2, spread, shape) for spread in (0.5, 0.2, 1.5))
    else:  # the spread of the rates is missing in the narrow ones and doubled in the wide ones
        truth, narrow, wide = (rng.poisson(8 * np.exp(rng.normal(0, s, shape))) for s in (0.5, 0.0, 1.5))
        truth, narrow, wide = np.log1p(truth), np.log1p(narrow), np.log1p(wide)
    coordinates = rng.random((4000, 2))
    below, above = (score_draws_by_gene(draws, truth[0], coordinates) for draws in (narrow, wide))
    assert below["coverage_90_raw"].max() < 0.8
    assert below["coverage_50_raw"].max() < 0.4
    assert above["coverage_90_raw"].min() > 0.95
    assert above["coverage_50_raw"].min() > 0.6


def test_rounding_to_float32_changes_no_coverage():
    """A draw that is the same count as the truth ties with it, computed another way."""
    draws, truth, coordinates = small()
    scores, rounded = (score_draws_by_gene(d, truth, coordinates) for d in (draws, draws.astype(np.float32)))
    np.testing.assert_allclose(rounded["coverage_90_raw"], scores["coverage_90_raw"])


def test_moran_is_that_of_scanpy_over_six_neighbours():
    draws, truth, coordinates = small(n_spots=80)
    graph = link_neighbours(coordinates, 80)
    distances = np.linalg.norm(coordinates[:, None] - coordinates, axis=2)
    for spot, row in enumerate(graph.toarray()):
        assert set(np.flatnonzero(row)) == set(np.argsort(distances[spot])[1:7])
    np.testing.assert_allclose(compute_moran(truth, graph), morans_i(graph, truth), rtol=1e-6)
    assert compute_moran(draws, graph).shape == draws.shape[:2]
    assert compute_moran(np.ones((1, 80)), graph) == 0


@pytest.mark.parametrize("n_places", [1, 3, 30])
def test_spots_may_share_a_place(n_places):
    draws, truth, _ = small()
    coordinates = np.arange(30)[:, None].repeat(3, axis=1) % n_places
    graph = link_neighbours(coordinates, 30)
    assert (graph.diagonal() == 0).all()
    np.testing.assert_allclose(graph.sum(axis=1), 1)
    assert (np.diff(graph.tocsr().indptr) == 6).all()
    assert np.isfinite(score_draws_by_gene(draws, truth, coordinates)["moran_bias"]).all()


def test_fewer_than_seven_spots_are_all_neighbours():
    np.testing.assert_allclose(link_neighbours(np.eye(3), 3).toarray(), (1 - np.eye(3)) / 2)


def test_large_and_small_blocks_score_alike(monkeypatch):
    draws, truth, coordinates = small()
    whole, joint = score_draws_by_gene(draws, truth, coordinates), score_draws_jointly(draws, truth)
    monkeypatch.setattr("cgd.metrics.draws._BLOCK", 1)
    for name, values in score_draws_by_gene(draws.astype(np.float32), truth, coordinates).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert score_draws_jointly(draws, truth) == pytest.approx(joint)


def assert_worse(spoilt, good, names, by=1.02):
    """Further from the reference than good draws are, by 2 % at least (an energy score sees dependence weakly)."""
    for name in names:
        far, near = (abs(scores[name] - METRICS[name].reference) for scores in (spoilt, good))
        assert far > by * near + 1e-3, (name, good[name], spoilt[name])


def test_good_draws_are_near_the_references(good):
    assert good["zeros_bias"] == pytest.approx(0, abs=0.02)
    assert good["negative_share"] == 0
    assert good["variance_error"] < 0.15
    assert good["moran_error"] < 0.25
    assert good["moran_bias"] == pytest.approx(0, abs=0.05)
    assert good["gene_correlation_r"] > 0.7
    assert good["c2st_auc"] == pytest.approx(0.5, abs=0.15)


def test_a_bias_is_seen(tissue, good):
    spoilt = tissue.score(tissue.draw_counts(3 * tissue.rates))
    assert_worse(spoilt, good, ["crps", "energy_spots", "energy_genes", "zeros_bias", "variance_error"])


def test_too_narrow_is_seen(tissue, good):
    center = tissue.draws.mean(axis=0)
    spoilt = tissue.score(center + 0.3 * (tissue.draws - center))
    names = ["crps", "energy_spots", "energy_genes", "coverage_50_raw", "coverage_90_raw", "variance_error", "c2st_auc"]
    assert_worse(spoilt, good, names)
    assert spoilt["width_90_raw"] < 0.5 * good["width_90_raw"]
    assert spoilt["coverage_90_raw"] < 0.7


def test_too_wide_is_seen(tissue, good):
    center = tissue.draws.mean(axis=0)
    spoilt = tissue.score(center + 2.5 * (tissue.draws - center))
    assert_worse(spoilt, good, ["crps", "energy_spots", "energy_genes", "variance_error", "coverage_50_raw"])
    assert spoilt["width_90_raw"] > 2 * good["width_90_raw"]
    assert spoilt["coverage_50_raw"] > 0.7


def test_gaussian_noise_in_place_of_counts_is_seen(tissue, good):
    center, spread = tissue.draws.mean(axis=0), tissue.draws.std(axis=0)
    spoilt = tissue.score(center + spread * np.random.default_rng(0).normal(size=tissue.draws.shape))
    assert_worse(spoilt, good, ["zeros_bias", "negative_share", "c2st_auc", "moran_error"])
    assert spoilt["zeros_bias"] < 0
    assert spoilt["moran_bias"] < 0


def test_shuffled_spots_are_seen(tissue, good):
    rng = np.random.default_rng(0)
    spoilt = tissue.score(np.stack([draw[:, rng.permutation(N_SPOTS)] for draw in tissue.draws]))
    assert_worse(spoilt, good, ["crps", "energy_spots", "energy_genes", "moran_error", "moran_bias"])
    # one permutation for all genes keeps what lies within a spot
    assert spoilt["gene_correlation_r"] == pytest.approx(good["gene_correlation_r"])


def test_smoothing_is_seen(tissue, good):
    graph = link_neighbours(tissue.coordinates, N_SPOTS)
    spoilt = tissue.score(np.stack([(graph @ draw.T).T for draw in tissue.draws]))
    assert_worse(spoilt, good, ["moran_error", "moran_bias", "variance_error", "c2st_auc"])
    assert spoilt["moran_bias"] > 0.1


def test_residuals_not_shared_by_genes_are_seen(tissue, good):
    """Each gene's draws are dealt out anew: every gene by itself stays as good as it was."""
    rng = np.random.default_rng(0)
    spoilt = tissue.score(rng.permuted(tissue.draws, axis=0))
    dealt = np.stack([tissue.draws[rng.permutation(N_DRAWS), i] for i in range(N_GENES)], axis=1)
    by_gene = tissue.score(dealt)
    assert by_gene["energy_spots"] == pytest.approx(good["energy_spots"])
    for scores in (spoilt, by_gene):
        assert scores["crps"] == pytest.approx(good["crps"])
        assert_worse(scores, good, ["gene_correlation_error", "gene_correlation_r", "energy_genes"], by=1.002)


def test_the_expected_correlation_is_free_of_a_draws_chance():
    """Each draw differs from the truth by chance; their mean does not, and a wrong one still does."""
    rng = np.random.default_rng(0)
    cov = np.full((6, 6), 0.6) + 0.4 * np.eye(6)
    truth = rng.multivariate_normal(np.zeros(6), cov, 3000).T
    draws = rng.multivariate_normal(np.zeros(6), cov, (40, 50)).transpose(0, 2, 1)
    draws = np.repeat(draws, 60, axis=2)  # as few independent spots as 50
    joint = score_draws_jointly(draws, truth)
    upper = np.triu_indices(6, 1)
    mean = np.mean([np.corrcoef(draw)[upper] for draw in draws], axis=0)
    expected = np.sqrt(np.square(mean - np.corrcoef(truth)[upper]).mean())
    assert joint["gene_correlation_mean_error"] == pytest.approx(expected)
    assert joint["gene_correlation_mean_error"] < 0.5 * joint["gene_correlation_error"]
    independent = score_draws_jointly(rng.normal(size=(8, 6, 3000)), truth)
    assert independent["gene_correlation_mean_error"] == pytest.approx(0.6, abs=0.05)


def test_the_classifier_repeats_and_does_not_see_the_level(tissue, good):
    assert score_draws_jointly(tissue.draws, tissue.truth) == pytest.approx({name: good[name] for name in JOINT_SCORES})
    factor = np.random.default_rng(0).lognormal(0, 0.1, (N_GENES, 1))
    scaled = score_draws_jointly(tissue.draws * factor, tissue.truth)["c2st_auc"]
    assert scaled == pytest.approx(good["c2st_auc"], abs=0.03)
    again = score_draws_jointly(tissue.draws, tissue.truth, seed=1)["c2st_auc"]
    assert again != good["c2st_auc"]
    assert again == pytest.approx(0.5, abs=0.15)


def test_constant_genes_have_no_width_and_no_correlation():
    draws, truth, coordinates = small()
    truth[1], draws[:, 2] = 0, 1
    scores = score_draws_by_gene(draws, truth, coordinates)
    without = {"width_50_raw", "width_90_raw", "variance_error", "moran_bias"}
    for name, values in scores.items():
        if name != "moran_error":
            assert list(np.isnan(values)) == [False, name in without, False, False], name
    assert scores["variance_error"][2] > 3
    assert np.isfinite(list(score_draws_jointly(draws, truth).values())).all()
    joint = score_draws_jointly(draws[:, [0, 1, 3]], truth[[0, 1, 3]])
    assert np.isfinite(joint["gene_correlation_error"])
    assert np.isnan(joint["gene_correlation_r"])  # of one pair of genes
    alone = score_draws_jointly(draws[:, [1]], truth[[1]])
    assert np.isnan([alone["gene_correlation_error"], alone["c2st_auc"]]).all()


def test_moran_errors_are_of_genes_with_a_pattern():
    draws, truth, coordinates = small(n_spots=200)
    truth[0] = np.round(5 * coordinates[:, 0])
    scores = score_draws_by_gene(draws, truth, coordinates)
    assert list(np.isfinite(scores["moran_error"])) == [True, False, False, False]
    assert scores["moran_error"][0] == pytest.approx(1, abs=0.2)


def test_a_summary_is_the_mean_over_genes_that_have_it():
    found = summarise_draws({"crps": [1.0, 3.0], "moran_error": [np.nan, 2.0], "width_50_raw": [np.nan, np.nan]})
    assert (found["crps"], found["moran_error"]) == (2.0, 2.0)
    assert np.isnan(found["width_50_raw"])


@pytest.mark.parametrize("score", [lambda d, t, c: score_draws_jointly(d, t), score_draws_by_gene])
def test_what_cannot_be_scored_is_refused(score):
    draws, truth, coordinates = small()
    with pytest.raises(ValueError, match=r"found draws \(4, 30\) and truth \(4, 30\)"):
        score(truth, truth, coordinates)
    with pytest.raises(ValueError, match=r"found draws \(5, 4, 30\) and truth \(3, 30\)"):
        score(draws, truth[:3], coordinates)
    with pytest.raises(ValueError, match="at least 2 of them, found 1"):
        score(draws[:1], truth, coordinates)
    with pytest.raises(ValueError, match="at least 2 spots, found 1"):
        score(draws[:, :, :1], truth[:, :1], coordinates[:1])
    with pytest.raises(ValueError, match="draws must be finite"):
        score(np.where(draws > 1.5, np.nan, draws), truth, coordinates)
    with pytest.raises(ValueError, match="truth must be finite"):
        score(draws, np.where(truth > 1.5, np.inf, truth), coordinates)


def test_coordinates_that_do_not_fit_are_refused():
    draws, truth, coordinates = small()
    for wrong in (coordinates[:-1], coordinates[:, 0], np.zeros((30, 4))):
        with pytest.raises(ValueError, match="with n_spots 30, found shape"):
            score_draws_by_gene(draws, truth, wrong)
    with pytest.raises(ValueError, match="coordinates must be finite, found 60"):
        score_draws_by_gene(draws, truth, coordinates * np.nan)
