"""Counts around a field: their moments, what is calibrated on them, and what neighbours share."""

from dataclasses import replace

import numpy as np
import pytest

from cgd.metrics.draws import compute_moran, link_neighbours, score_crps
from cgd.model.counts import (
    CountNoise,
    choose_genes,
    choose_spots,
    draw_smooth_noise,
    fit_count_noise,
    fit_neighbours,
    normalise_counts,
)

N_GENES, N_SPOTS = 12, 400
KINDS = ("poisson", "negative_binomial")


def make_graph(n_spots=N_SPOTS):
    side = int(n_spots**0.5)
    return link_neighbours(np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2), n_spots)


def make_rates(seed=0):
    """(G, S) rates of genes of several levels, with a pattern."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(N_SPOTS) / 30 + rng.uniform(0, 6, (N_GENES, 1)))
    return rng.lognormal(1.0, 0.7, (N_GENES, 1)) * np.exp(0.5 * waves)


def make_exposure(seed=0):
    exposure = np.random.default_rng(seed).gamma(8, 1 / 8, N_SPOTS).astype(np.float32)
    return exposure / np.median(exposure)


def draw_flat(noise, rate, n=400, seed=0, graph=None):
    """(n, 1, S) counts around a rate that is the same at all spots of exposure 1."""
    field = np.full((n, 1, N_SPOTS), np.log1p(rate), dtype=np.float32)
    return noise.draw(field, np.ones(N_SPOTS, np.float32), np.random.default_rng(seed), graph)


# ---- drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("rate", "size"), [(1.0, 2.0), (6.0, 2.0), (6.0, 0.7)])
def test_counts_have_the_variance_of_a_negative_binomial(rate, size, neighbours):
    """However much of it neighbours share."""
    noise = CountNoise(level=0.0, dispersion=np.log(size), slope=0.0, neighbours=neighbours)
    counts = draw_flat(noise, rate, graph=make_graph())
    assert counts.mean() == pytest.approx(rate, rel=0.05)
    assert counts.var() == pytest.approx(rate + rate**2 / size, rel=0.1)


def test_the_size_grows_with_abundance_by_the_slope():
    noise = CountNoise(level=0.0, dispersion=np.log(2.0), slope=0.5, abundance=np.log(2.0))
    for rate in (2.0, 8.0):
        size = 2.0 * (rate / 2.0) ** 0.5
        assert draw_flat(noise, rate).var() == pytest.approx(rate + rate**2 / size, rel=0.05)


def test_poisson_counts_have_the_variance_of_their_mean():
    counts = draw_flat(CountNoise("poisson", level=0.0, neighbours=0.5), 4.0)  # which need no graph
    assert counts.mean() == pytest.approx(4.0, rel=0.01)
    assert counts.var() == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_grow_with_exposure_and_level(kind):
    rates, exposure = make_rates(), make_exposure()
    fields = np.broadcast_to(np.log1p(rates), (300, *rates.shape))
    counts = CountNoise(kind, level=0.3, dispersion=3.0).draw(fields, exposure, np.random.default_rng(0))
    assert counts.dtype == np.int32
    np.testing.assert_allclose(counts.mean(axis=(0, 2)), np.exp(0.3) * (rates * exposure).mean(axis=1), rtol=0.05)
    depth = counts.sum(axis=(0, 1)) / rates.sum(axis=0)
    assert np.corrcoef(depth, exposure)[0, 1] > 0.99


@pytest.mark.parametrize("contrast", [0.0, 0.5, 1.0, 2.0])
def test_the_contrast_is_the_exponent_of_a_genes_pattern(contrast):
    rates = make_rates()
    fields = np.broadcast_to(np.log1p(rates), (600, *rates.shape))
    noise = CountNoise("poisson", level=0.0, contrast=contrast)
    found = noise.draw(fields, np.ones(N_SPOTS), np.random.default_rng(0)).mean(axis=0)
    pattern = rates**contrast
    expected = rates.mean(axis=1, keepdims=True) * pattern / pattern.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.4)


def test_a_field_below_zero_counts_as_zero_and_none_is_empty():
    field = np.full((50, 1, N_SPOTS), -1.0)
    field[:, :, : N_SPOTS // 2] = 2.0
    counts = CountNoise("poisson", level=0.0).draw(field, np.ones(N_SPOTS), np.random.default_rng(0))
    low, high = counts[:, 0, N_SPOTS // 2 :], counts[:, 0, : N_SPOTS // 2]
    assert 0 < low.mean() < 0.05 * high.mean()


def test_a_share_of_the_counts_is_zero_whatever_the_rate():
    counts = draw_flat(CountNoise("poisson", level=0.0, zeros=0.3), 20.0)
    assert (counts == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert counts[counts > 0].mean() == pytest.approx(20.0, rel=0.02)


def test_the_same_seed_gives_the_same_counts():
    noise, graph = CountNoise(neighbours=0.5, zeros=0.1), make_graph()
    one, same, other = (draw_flat(noise, 3.0, n=4, seed=seed, graph=graph) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_shared_noise_makes_neighbours_alike_and_needs_a_graph():
    graph = make_graph()
    alone, shared = (
        compute_moran(draw_flat(CountNoise(neighbours=share, dispersion=-0.5), 20.0, 20, graph=graph), graph).mean()
        for share in (0.0, 0.8)
    )
    assert abs(alone) < 0.05
    assert shared > 0.2
    with pytest.raises(ValueError, match="needs the graph of the spots"):
        draw_flat(CountNoise(neighbours=0.5), 3.0, n=1)


def test_smooth_noise_is_standard_and_independent_between_rows():
    graph = make_graph()
    noise = draw_smooth_noise((3, 40, N_SPOTS), graph, np.random.default_rng(0))
    assert noise.shape == (3, 40, N_SPOTS)
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert compute_moran(noise, graph).mean() > 0.3
    correlations = np.corrcoef(noise.reshape(-1, N_SPOTS))
    assert abs(correlations[np.triu_indices(120, 1)].mean()) < 0.01


def test_widening_multiplies_the_distance_from_the_centre():
    fields = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    center = fields.mean(axis=0)
    assert CountNoise().widen(fields, center) is fields
    wide = CountNoise(spread=2.0).widen(fields, center)
    np.testing.assert_allclose(wide - center, 2 * (fields - center), atol=1e-6)


def test_normalised_counts_are_logarithms_at_the_median_depth():
    counts, exposure = np.array([[0, 3, 8]]), np.array([0.5, 1.0, 2.0])
    found = normalise_counts(counts, exposure)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.log1p([[0.0, 3.0, 4.0]]), rtol=1e-6)


# ---- calibrating --------------------------------------------------------------------------------------------------


def simulate_truth(noise, seed=1, graph=None):
    """Rates as a field, the spots' exposure, and counts that the noise draws about them, log-normalised."""
    field, exposure = np.log1p(make_rates()).astype(np.float32)[None], make_exposure()
    counts = noise.draw(field, exposure, np.random.default_rng(seed), graph)
    return field, exposure, normalise_counts(counts, exposure)[0]


def make_score(truth):
    return lambda draws: float(score_crps(draws, truth).mean())


@pytest.mark.parametrize(("level", "size"), [(0.0, 1.0), (0.7, 4.0), (-0.5, 4.0)])
def test_a_fit_recovers_the_level_and_the_dispersion(level, size):
    abundance = float(np.log(make_rates().mean(axis=1)).mean())
    known = CountNoise(level=level, dispersion=np.log(size), slope=0.0, abundance=abundance)
    field, exposure, truth = simulate_truth(known)
    start = CountNoise(slope=0.0, abundance=abundance)
    found, _ = fit_count_noise(field, exposure, make_score(truth), start=start)
    assert found.abundance == abundance
    assert found.level == pytest.approx(level, abs=0.2)
    # at the abundance of the counts: a slope and a dispersion that make up for each other are as good
    assert found.dispersion + found.slope * found.level == pytest.approx(np.log(size), abs=0.6)
    assert found.contrast == pytest.approx(1.0, abs=0.3)
    assert found.zeros == 0


def test_a_fit_scores_no_worse_than_its_start_or_what_is_free():
    field, exposure, truth = simulate_truth(CountNoise(level=0.8, dispersion=0.0, contrast=0.5))
    score = make_score(truth)
    fits = {
        free: fit_count_noise(field, exposure, score, start=CountNoise(), free=free)
        for free in ((), ("level",), ("level", "contrast"))
    }
    fields = np.broadcast_to(field, (16, *field.shape[1:]))
    for noise, found in fits.values():
        draws = normalise_counts(noise.draw(fields, exposure, np.random.default_rng(0)), exposure)
        assert found == score(draws)
    scores = [found for _, found in fits.values()]
    assert scores[0] > scores[1] > scores[2]
    assert fits[("level",)][0].contrast == fits[()][0].contrast == 1.0
    assert fits[()][0].level == CountNoise().level


def test_a_poisson_fit_leaves_the_dispersion_alone():
    field, exposure, truth = simulate_truth(CountNoise("poisson", level=0.4))
    found, _ = fit_count_noise(field, exposure, make_score(truth), "poisson")
    assert found.kind == "poisson"
    assert (found.dispersion, found.slope) == (CountNoise().dispersion, CountNoise().slope)
    assert found.level == pytest.approx(0.4, abs=0.15)


def test_zeros_are_added_only_where_the_truth_has_too_many():
    field, exposure, truth = simulate_truth(CountNoise("poisson", level=1.0))
    assert fit_count_noise(field, exposure, make_score(truth), "poisson")[0].zeros == 0
    truth[np.random.default_rng(0).random(truth.shape) < 0.3] = 0
    assert fit_count_noise(field, exposure, make_score(truth), "poisson")[0].zeros >= 0.2


def test_neighbours_share_more_where_the_truth_is_autocorrelated():
    graph, shares = make_graph(), {}
    for known in (0.0, 0.6):
        noise = CountNoise(level=0.0, dispersion=0.0, neighbours=known)
        field, exposure, truth = simulate_truth(noise, graph=graph)
        target = compute_moran(truth, graph).mean()
        fields = np.broadcast_to(field, (2, *field.shape[1:]))
        found = fit_neighbours(
            replace(noise, neighbours=0.0),
            fields,
            exposure,
            graph,
            lambda draws, target=target: float(compute_moran(draws, graph).mean() - target),
        )
        shares[known] = found.neighbours
    assert shares[0.0] == 0.0
    assert shares[0.6] >= 0.4


def test_poisson_counts_share_nothing():
    noise = CountNoise("poisson")
    assert fit_neighbours(noise, np.ones((1, 1, N_SPOTS)), make_exposure(), make_graph(), lambda draws: 1.0) is noise


def test_a_calibration_looks_at_some_genes_and_spots_in_order():
    assert list(choose_genes(5)) == list(range(5))
    for choose, n in ((choose_genes, 150), (choose_spots, 300)):
        found = choose(10_000)
        assert len(found) == len(set(found)) == n
        assert list(found) == sorted(found)
        np.testing.assert_array_equal(found, choose(10_000))
