"""Floors against brute force, on degenerate inputs, and the fills of the published protocol."""

import inspect

import numpy as np
import pytest

from cgd.data.protocol import VisiblePair
from cgd.errors import DataError
from cgd.metrics.draws import score_draws_by_gene, score_draws_jointly, summarise_draws
from cgd.metrics.floors import (
    FLOORS,
    ceiling,
    draw_replicates,
    noise_ceiling,
    noise_ceiling_null,
    predict_floors,
    visible_mean_fill,
    zero_fill,
)
from cgd.metrics.gene import gene_metrics


def visible_pair(n_train=20, n_query=6, n_spots=40, n_cells=30, seed=0):
    """Genes that mix four programmes, the same in both modalities; returns the pair, the queries and their truth."""
    rng = np.random.default_rng(seed)
    genes = tuple(f"g{i}" for i in range(n_train + n_query))
    loadings = rng.gamma(1.0, 1.0, (len(genes), 4))
    x_st = loadings @ rng.gamma(1.0, 1.0, (4, n_spots)) + rng.normal(0, 0.3, (len(genes), n_spots))
    x_sc = loadings @ rng.gamma(1.0, 1.0, (4, n_cells)) + rng.normal(0, 0.3, (len(genes), n_cells))
    visible = VisiblePair(
        name="toy",
        train_genes=genes[:n_train],
        x_st=x_st[:n_train].astype(np.float32),
        genes=genes,
        x_sc=x_sc.astype(np.float32),
        coordinates=rng.random((n_spots, 2)).astype(np.float32),
        spot_names=tuple(f"s{i}" for i in range(n_spots)),
        st_totals=np.ones(n_spots, dtype=np.float32),
        sc_totals=np.ones(n_cells, dtype=np.float32),
        cell_components=np.zeros((n_cells, 0), dtype=np.float32),
    )
    return visible, genes[n_train:], x_st[n_train:]


def replaced(visible, **arrays):
    return VisiblePair(**{**visible.__dict__, **arrays})


def test_six_floors_come_in_order_and_receive_no_truth():
    assert list(FLOORS) == ["random", "gene_mean", "mean_pattern", "depth", "knn", "kernel_ridge"]
    for floor in FLOORS.values():
        assert list(inspect.signature(floor).parameters) == ["visible", "genes", "seed"]


def test_floors_rank_as_they_should_where_genes_share_programmes():
    visible, genes, truth = visible_pair(n_train=40, n_spots=200, n_cells=100)
    pcc = {name: gene_metrics(p, truth)["pcc"].mean() for name, p in predict_floors(visible, genes).items()}
    assert abs(pcc["random"]) < 0.1
    assert pcc["gene_mean"] == 0
    assert pcc["kernel_ridge"] > 0.8
    assert pcc["kernel_ridge"] > pcc["mean_pattern"] + 0.1


def test_only_the_random_floor_depends_on_the_seed_and_repeats():
    visible, genes, _ = visible_pair()
    first, again, other = (predict_floors(visible, genes, seed=seed) for seed in (0, 0, 1))
    for name in FLOORS:
        np.testing.assert_array_equal(first[name], again[name])
        assert np.array_equal(first[name], other[name]) == (name != "random"), name


def test_rows_follow_the_order_asked_for():
    visible, genes, _ = visible_pair()
    for name in ("gene_mean", "mean_pattern", "depth", "knn", "kernel_ridge"):
        forward, backward = FLOORS[name](visible, genes, 0), FLOORS[name](visible, genes[::-1], 0)
        np.testing.assert_allclose(forward, backward[::-1], rtol=1e-5)


def test_random_takes_its_values_from_training_genes():
    visible, genes, _ = visible_pair()
    known = {tuple(row) for row in np.sort(visible.x_st, axis=1)}
    assert all(tuple(row) in known for row in np.sort(FLOORS["random"](visible, genes, 0), axis=1))


def test_gene_mean_finds_a_linear_relation_without_extrapolating():
    visible, _, _ = visible_pair(n_train=4, n_query=2, n_cells=3)
    sc_means = np.array([1.0, 2.0, 3.0, 4.0, 2.5, 100.0])
    x_sc = np.repeat(sc_means[:, None], 3, axis=1).astype(np.float32)
    x_st = visible.x_st - visible.x_st.mean(axis=1, keepdims=True) + (5 + 2 * sc_means[:4, None])
    predicted = FLOORS["gene_mean"](replaced(visible, x_sc=x_sc, x_st=x_st.astype(np.float32)), ("g4", "g5"), 0)
    np.testing.assert_allclose(predicted, np.repeat([[10.0], [13.0]], 40, axis=1), rtol=1e-5)


def test_mean_pattern_is_the_mean_z_score_for_every_gene():
    visible, genes, _ = visible_pair()
    x = visible.x_st.astype(np.float64)
    pattern = ((x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)).mean(axis=0)
    for row in FLOORS["mean_pattern"](visible, genes, 0):
        assert np.corrcoef(row, pattern)[0, 1] == pytest.approx(1, abs=1e-6)
        assert x.min() < row.mean() < x.max()


def test_knn_equals_a_loop_over_the_ten_most_correlated_genes():
    visible, genes, _ = visible_pair()
    x = visible.x_st.astype(np.float64)
    z = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    for gene, row in zip(genes, FLOORS["knn"](visible, genes, 0), strict=True):
        query = visible.sc_rows([gene])[0]
        r = np.array([np.corrcoef(query, train)[0, 1] for train in visible.sc_rows(visible.train_genes)])
        nearest = np.argsort(-r)[:10]
        pattern = (np.maximum(r[nearest], 0)[:, None] * z[nearest]).sum(axis=0)
        assert np.corrcoef(row, pattern)[0, 1] == pytest.approx(1, abs=1e-6)


def test_knn_of_a_gene_without_neighbours_is_the_mean_pattern():
    visible, genes, _ = visible_pair()
    x_sc = visible.x_sc.copy()
    x_sc[-1] = 0.7
    visible = replaced(visible, x_sc=x_sc)
    np.testing.assert_allclose(
        FLOORS["knn"](visible, genes, 0)[-1], FLOORS["mean_pattern"](visible, genes, 0)[-1], rtol=1e-5
    )


def degenerate_pairs():
    visible, _, _ = visible_pair()
    sparse = (np.random.default_rng(0).random(visible.x_sc.shape) < 0.02).astype(np.float32)
    sparse_st = (np.random.default_rng(1).random(visible.x_st.shape) < 0.02).astype(np.float32)
    yield "sparse", replaced(visible, x_sc=sparse, x_st=sparse_st)
    yield "sc all zero", replaced(visible, x_sc=np.zeros_like(visible.x_sc))
    yield "sc all one value", replaced(visible, x_sc=np.full_like(visible.x_sc, 0.1))
    yield "st all zero", replaced(visible, x_st=np.zeros_like(visible.x_st))
    yield "all genes alike in sc", replaced(visible, x_sc=np.repeat(visible.x_sc[:1], len(visible.genes), axis=0))
    for n in (1, 2, 3):
        yield f"{n} training genes", replaced(visible, train_genes=visible.train_genes[:n], x_st=visible.x_st[:n])


@pytest.mark.parametrize("visible", [pytest.param(pair, id=name) for name, pair in degenerate_pairs()])
def test_floors_are_finite_and_stay_in_range_on_degenerate_pairs(visible):
    genes = visible.genes[-6:]
    widest = 5 * (np.ptp(visible.x_st) + 1)
    for name, prediction in predict_floors(visible, genes).items():
        assert prediction.shape == (6, visible.x_st.shape[1]), name
        assert prediction.dtype == np.float32, name
        assert np.isfinite(prediction).all(), name
        assert np.abs(prediction - visible.x_st.mean()).max() < widest, name


def test_features_without_variation_predict_the_mean_gene():
    visible, genes, _ = visible_pair()
    visible = replaced(visible, x_sc=np.full_like(visible.x_sc, 0.1))
    expected = np.repeat(visible.x_st.mean(axis=0)[None], len(genes), axis=0)
    np.testing.assert_allclose(FLOORS["kernel_ridge"](visible, genes, 0), expected, rtol=1e-4)


@pytest.mark.parametrize("floor", FLOORS.values(), ids=FLOORS.keys())
def test_floors_name_what_they_cannot_predict(floor):
    visible, genes, _ = visible_pair()
    with pytest.raises(DataError, match=r"1 of 7 genes to predict .* nosuch"):
        floor(visible, [*genes, "nosuch"], 0)
    empty = replaced(visible, train_genes=(), x_st=visible.x_st[:0])
    with pytest.raises(DataError, match="no training gene"):
        floor(empty, genes, 0)


def test_the_ceiling_rises_with_the_latent_to_the_training_span():
    visible, _, truth = visible_pair()
    errors = [np.square(ceiling(visible, truth, k) - truth).mean() for k in (1, 2, 4, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[2]
    spanned = visible.x_st[:3].mean(axis=0, keepdims=True)
    np.testing.assert_allclose(ceiling(visible, spanned, 100), spanned, atol=1e-4)


def test_the_ceiling_ignores_directions_training_genes_lack():
    visible, _, truth = visible_pair()
    alike = replaced(visible, x_st=np.repeat(visible.x_st[:1], len(visible.train_genes), axis=0))
    np.testing.assert_allclose(ceiling(alike, truth, 10), np.repeat(alike.x_st[:1], len(truth), axis=0), atol=1e-5)
    with pytest.raises(ValueError, match="found 0"):
        ceiling(visible, truth, 0)


def test_fills_change_hidden_entries_only():
    truth = np.array([[2.0, 4.0, 0.0, 9.0], [5.0, 0.0, 0.0, 0.0]])
    hidden = np.array([[False, False, False, True], [True, False, False, False]])
    assert zero_fill(truth, hidden).tolist() == [[2, 4, 0, 0], [0, 0, 0, 0]]
    assert visible_mean_fill(truth, hidden).tolist() == [[2, 4, 0, 3], [0, 0, 0, 0]]


def test_fills_refuse_a_mask_of_another_shape_or_type():
    with pytest.raises(ValueError, match=r"hidden \(2, 3\)"):
        zero_fill(np.ones((2, 4)), np.ones((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="float64"):
        visible_mean_fill(np.ones((2, 4)), np.ones((2, 4)))


def test_depth_is_the_log_total_at_the_level_of_the_gene():
    visible, genes, _ = visible_pair()
    totals = np.random.default_rng(0).gamma(2, 100, 40).astype(np.float32)
    predicted = FLOORS["depth"](replaced(visible, st_totals=totals), genes, 0)
    for row in predicted:
        assert np.corrcoef(row, np.log1p(totals))[0, 1] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(predicted.mean(axis=1), FLOORS["gene_mean"](visible, genes, 0)[:, 0], rtol=1e-5)
    pattern = FLOORS["mean_pattern"](visible, genes, 0)
    ratio = predicted.std(axis=1) / pattern.std(axis=1)  # a spread each, times that of the mean z-score
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    flat = FLOORS["depth"](visible, genes, 0)  # one total at all spots
    np.testing.assert_allclose(flat, FLOORS["gene_mean"](visible, genes, 0), rtol=1e-6)


def counted_tissue(level, n_genes=25, n_spots=900, seed=0):
    """Poisson counts around rates that are smooth over the spots; returns counts, totals, coordinates, expected."""
    rng = np.random.default_rng(seed)
    coordinates, totals = rng.random((n_spots, 2)), rng.gamma(10, 40, n_spots)
    waves = np.sin(coordinates @ rng.normal(0, 6, (2, 5)) + rng.uniform(0, 6, 5)).T
    expected = level * np.exp(rng.normal(0, 0.5, (n_genes, 5)) @ waves) * totals / 400
    return rng.poisson(expected), totals, coordinates, expected


def log_normalised(counts, totals):
    return np.log1p(400 * counts / totals)


@pytest.mark.parametrize("level", [0.5, 2, 20])
def test_the_noise_ceiling_is_what_the_rate_itself_scores(level):
    counts, totals, _, expected = counted_tissue(level)
    reached = gene_metrics(log_normalised(expected, totals), log_normalised(counts, totals))["pcc"]
    found = noise_ceiling(counts, totals, 400)
    assert found.mean() == pytest.approx(reached.mean(), abs=0.03)
    np.testing.assert_allclose(found, reached, atol=0.15)


def test_its_null_is_low_and_that_of_genes_that_do_not_vary():
    counts, totals, _, _ = counted_tissue(2)
    null = noise_ceiling_null(counts, totals, 400)
    assert null.shape == (25,)
    assert null.mean() < 0.3 < noise_ceiling(counts, totals, 400).mean() - 0.2
    flat = np.random.default_rng(1).poisson(np.repeat(totals[None] / 200, 200, axis=0))
    expected = noise_ceiling_null(flat, totals, 400).mean()
    assert noise_ceiling(flat, totals, 400).mean() == pytest.approx(expected, abs=0.03)


def test_a_noise_ceiling_repeats_and_rounds_and_knows_constants():
    counts, totals, _, _ = counted_tissue(2, n_genes=3)
    counts[1] = 0
    found = noise_ceiling(counts, totals, 400, seed=3)
    np.testing.assert_array_equal(found, noise_ceiling(counts + 0.2, totals, 400, seed=3))
    assert list(np.isnan(found)) == [False, True, False]
    assert list(np.isnan(noise_ceiling_null(counts, totals, 400))) == [False, True, False]
    assert not np.array_equal(found, noise_ceiling(counts, totals, 400, seed=4), equal_nan=True)


@pytest.mark.parametrize("level", [0.5, 2, 20])
def test_replicates_score_as_draws_from_the_rate_itself(level):
    counts, totals, coordinates, expected = counted_tissue(level)
    truth = log_normalised(counts, totals)
    ideal = log_normalised(np.random.default_rng(2).poisson(expected, (12, *expected.shape)), totals)
    replicates = draw_replicates(counts, totals, coordinates, 400, 12)
    assert (replicates.shape, replicates.dtype) == (ideal.shape, np.float32)
    found, best = (
        summarise_draws(score_draws_by_gene(d, truth, coordinates)) | score_draws_jointly(d, truth)
        for d in (replicates, ideal)
    )
    for name in ("crps", "energy_spots", "energy_genes"):
        assert found[name] == pytest.approx(best[name], rel=0.15), name
    assert found["zeros_bias"] == pytest.approx(0, abs=0.04)
    assert found["moran_bias"] == pytest.approx(0, abs=0.1)
    assert found["gene_correlation_r"] > best["gene_correlation_r"] - 0.1


def test_replicates_are_drawn_around_one_rate():
    """Any two draws are as far from each other as each is from the truth, in the mean."""
    counts, totals, coordinates, _ = counted_tissue(2)
    draws, truth = draw_replicates(counts, totals, coordinates, 400, 2), log_normalised(counts, totals)
    apart = np.abs(draws[0] - draws[1]).mean()
    assert np.abs(draws - truth).mean() == pytest.approx(apart, rel=0.1)
    np.testing.assert_array_equal(draws, draw_replicates(counts, totals, coordinates, 400, 2))


@pytest.mark.parametrize("function", [noise_ceiling, noise_ceiling_null])
def test_counts_that_cannot_be_thinned_are_refused(function):
    counts, totals, coordinates, _ = counted_tissue(2, n_genes=3)
    with pytest.raises(ValueError, match=r"found counts \(3, 900\) and totals \(899,\)"):
        function(counts, totals[1:], 400)
    with pytest.raises(ValueError, match="counts must be finite and not negative, found"):
        function(counts - 1, totals, 400)
    with pytest.raises(ValueError, match="totals must be finite and not negative, found 900"):
        function(counts, totals * np.nan, 400)
    with pytest.raises(ValueError, match="scale must be above 0, found 0"):
        function(counts, totals, 0)
    with pytest.raises(ValueError, match="n_thinnings must be at least 1, found 0"):
        function(counts, totals, 400, n_thinnings=0)
    with pytest.raises(ValueError, match="at least 2 of them, found 1"):
        draw_replicates(counts, totals, coordinates, 400, 1)
