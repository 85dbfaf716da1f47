"""The cell map: attention by hand, its factors, how much of it is blended in, and what it must not do."""

import numpy as np
import pytest
import torch

from cgd.estimator import CausalGeD
from cgd.model import cell_map
from cgd.model.cell_map import SHARES, CellMap, _attend, _choose_share, _find_leading
from cgd.model.kernel import GeneKernel
from cgd.model.refinement import RefinedCentre, standardise


def tissue(n=30, n_cells=60, n_spots=50, alike=True, seed=0):
    """(n, C), (n, S) of training genes and the same of 20 more. Every spot holds one cell's profile and noise of its
    own, or, not alike, that of a cell of another tissue; genes are switched on in random sets of cell states."""
    rng = np.random.default_rng(seed)
    n_states = 12
    states = rng.gamma(0.5, 1.0, (2, n + 20, n_states))
    of_cells, of_spots = (rng.integers(n_states, size=size) for size in (n_cells, n_spots))
    x_sc = states[0][:, of_cells] + rng.normal(0, 0.3, (n + 20, n_cells))
    x_st = states[0 if alike else 1][:, of_spots] + rng.normal(0, 0.3, (n + 20, n_spots))
    x_sc, x_st = (torch.tensor(x, dtype=torch.float32) for x in (x_sc, x_st))
    return x_sc[:n], x_st[:n], x_sc[n:], x_st[n:]


def pcc(prediction, truth):
    return float((standardise(prediction) * standardise(truth)).mean())


def regression(x_sc, x_st, queries):
    """The refined centre, what it says of each training gene left out, and the kernel features of the queries."""
    kernel = GeneKernel.fit(x_sc, 2.0)
    return *RefinedCentre.fit(kernel.embed(x_sc), x_st), kernel.embed(queries)


def attention_by_hand(x_sc, x_st, basis=None):
    """(S, C) with cosines, softmax and means written out."""
    cells, spots = (standardise(x).double().numpy() for x in (x_sc, x_st))
    basis = np.linalg.svd(cells, full_matrices=False)[0][:, :10] if basis is None else basis
    total = 0
    for of_cells, of_spots in ((cells, spots), (basis.T @ cells, basis.T @ spots)):
        unit_cells, unit_spots = (x / np.linalg.norm(x, axis=0) for x in (of_cells, of_spots))
        for sharpness in (5, 10, 20):
            weight = np.exp(sharpness * unit_spots.T @ unit_cells)
            total = total + weight / weight.sum(1, keepdims=True)
    return total / 6


@pytest.mark.parametrize("sizes", [{}, {"n": 80, "n_cells": 25}])  # fewer genes than cells, and more
def test_attention_is_a_softmax_over_cosines(sizes, monkeypatch):
    x_sc, x_st, *_ = tissue(**sizes)
    cells, spots = standardise(x_sc), standardise(x_st)
    found = torch.cat(list(_attend(cells, spots, _find_leading(cells, 10))))
    np.testing.assert_allclose(found, attention_by_hand(x_sc, x_st), atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    monkeypatch.setattr(cell_map, "_CHUNK", 7 * x_sc.shape[1])
    monkeypatch.setattr(cell_map, "_LEAST_ROWS", 1)
    pieces = list(_attend(cells, spots, _find_leading(cells, 10)))
    assert [len(piece) for piece in pieces] == [7] * 7 + [1]
    np.testing.assert_allclose(torch.cat(pieces), found, atol=1e-6)


def test_with_enough_components_the_factors_are_the_whole_map():
    x_sc, x_st, queries, _ = tissue()
    found = CellMap.fit(x_sc, x_st, regression(x_sc, x_st, queries)[1])
    attention = attention_by_hand(x_sc, x_st)
    expected = queries.numpy() @ (attention - attention.mean(0)).T
    np.testing.assert_allclose(found.embed(queries) @ found.patterns, expected, atol=2e-3)


def test_components_of_some_spots_serve_all(monkeypatch):
    x_sc, x_st, queries, truth = tissue(n_spots=120)
    left_out = regression(x_sc, x_st, queries)[1]
    whole = CellMap.fit(x_sc, x_st, left_out)
    monkeypatch.setattr(cell_map, "_MAX_SPOTS", 50)
    partial = CellMap.fit(x_sc, x_st, left_out)
    assert partial.components.shape == (60, 49)  # attention of 50 spots, centred
    assert partial.patterns.shape == (49, 120)
    scores = [pcc(found.embed(queries) @ found.patterns, truth) for found in (whole, partial)]
    assert scores[0] > 0.6
    assert scores[1] > scores[0] - 0.03


@pytest.mark.parametrize("seed", range(3))
def test_the_share_is_the_best_correlation_on_genes_left_out(seed):
    """Against maps made by hand without the genes of the fold. The regression is good enough for the best share to lie
    between none and all; a map that was given the gene it is asked for would get a larger one."""
    x_sc, x_st, *_ = tissue(seed=seed)
    noise = torch.tensor(np.random.default_rng(seed).normal(0, 0.3, x_st.shape), dtype=torch.float32)
    left_out = standardise(x_st) + noise
    cells, spots = standardise(x_sc), standardise(x_st)
    basis = _find_leading(cells, 10)
    mapped, told = torch.empty_like(x_st), torch.tensor(x_sc.numpy() @ attention_by_hand(x_sc, x_st).T).float()
    order = np.random.default_rng(0).permutation(30)
    for fold in range(10):
        out = order[fold::10]
        keep = np.setdiff1d(np.arange(30), out)
        attention = attention_by_hand(x_sc[keep], x_st[keep], basis[keep].double().numpy())
        mapped[out] = torch.tensor(x_sc[out].numpy() @ attention.T).float()

    def best(pattern):
        return SHARES[int(np.argmax([pcc(left_out + share * standardise(pattern), x_st) for share in SHARES]))]

    left_out = standardise(left_out)
    assert _choose_share(x_sc, cells, spots, left_out, basis) == best(mapped)
    assert 0 < best(mapped) < 1
    assert best(told) > best(mapped)


def test_the_blend_beats_the_regression_with_cells_of_the_tissue():
    gains = []
    for seed in range(4):
        x_sc, x_st, queries, truth = tissue(n=40, seed=seed)
        centre, left_out, features = regression(x_sc, x_st, queries)
        found = CellMap.fit(x_sc, x_st, left_out)
        blended = centre.blend(found.patterns, found.share).predict(features, found.embed(queries))
        gains.append(pcc(blended, truth) - pcc(centre.predict(features), truth))
    assert min(gains) > 0.02


def test_where_they_are_not_there_is_none():
    """The spots show other programmes in the training genes than the cells do; the regression knows their pattern."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(4):
        x_sc, x_st, *_ = tissue(n=40, alike=False, seed=seed)
        left_out = standardise(x_st) + torch.tensor(rng.normal(0, 1, x_st.shape), dtype=torch.float32)
        found.append(CellMap.fit(x_sc, x_st, left_out))
    assert sum(one is None or one.share <= 0.05 for one in found) == 4


def test_a_blend_keeps_level_and_spread():
    x_sc, x_st, queries, _ = tissue()
    centre, left_out, features = regression(x_sc, x_st, queries)
    found = CellMap.fit(x_sc, x_st, left_out)
    plain = centre.predict(features)
    blended = centre.blend(found.patterns, 0.5).predict(features, found.embed(queries))
    assert not torch.allclose(plain, blended, atol=1e-2)
    torch.testing.assert_close(blended.mean(1), plain.mean(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(blended.std(1), plain.std(1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("case", ["constant gene", "all constant", "empty cell", "empty spot", "two genes", "one cell"])
def test_degenerate_data_give_finite_predictions(case):
    x_sc, x_st, queries, _ = tissue()
    if case == "constant gene":
        x_sc[3], x_st[4], queries[5] = 1.0, 0.0, 0.0
    elif case == "all constant":
        x_sc[:], x_st[:] = 1.0, 1.0
    elif case == "empty cell":
        x_sc[:, 7] = 0.0
    elif case == "empty spot":
        x_st[:, 7] = 0.0
    elif case == "two genes":
        x_sc, x_st = x_sc[:2], x_st[:2]
    else:
        x_sc, queries = x_sc[:, :1], queries[:, :1]
    centre, left_out, features = regression(x_sc, x_st, queries)
    found = CellMap.fit(x_sc, x_st, left_out)
    if case in ("all constant", "two genes", "one cell"):
        assert found is None
    else:
        predicted = centre.blend(found.patterns, found.share).predict(features, found.embed(queries))
        assert torch.isfinite(predicted).all()


def test_the_cell_map_repeats_and_draws_no_shared_random_numbers():
    x_sc, x_st, queries, _ = tissue()
    left_out = regression(x_sc, x_st, queries)[1]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = CellMap.fit(x_sc, x_st, left_out)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    second = CellMap.fit(x_sc, x_st, left_out)
    assert first.share == second.share
    assert torch.equal(first.patterns, second.patterns)
    assert torch.equal(first.components, second.components)


@pytest.mark.parametrize("share", [None, 0.3])
def test_a_saved_model_predicts_what_it_did(tiny, tmp_path, monkeypatch, share):
    """With the map blended in and without, and by `predict_draws` too."""
    monkeypatch.setattr(cell_map, "_choose_share", lambda *_: share or 0.0)
    model, hidden = CausalGeD(tiny.config({"sampling.n_samples": 2})), tiny.hidden()
    model.fit_visible(hidden.visible, hidden.val, hidden.measured)
    model.save(tmp_path / "model")
    loaded = CausalGeD.load(tmp_path / "model")
    assert loaded._fitted.refined.cell_share == (share or 0.0)
    assert (loaded._fitted.cell_features is None) == (share is None)
    np.testing.assert_array_equal(loaded.predict_mean(tiny.split.test), model.predict_mean(tiny.split.test))
    np.testing.assert_array_equal(loaded.predict_draws(tiny.split.test), model.predict_draws(tiny.split.test))


def test_the_map_moves_estimate_and_draws_alike(tiny, monkeypatch):
    def predictions(share):
        monkeypatch.setattr(cell_map, "_choose_share", lambda *_: share)
        values = {"sampling.n_samples": 1, "train.epochs": 1, "model.likelihood": "gaussian"}  # counts move by chance
        model, hidden = CausalGeD(tiny.config(values)), tiny.hidden()
        model.fit_visible(hidden.visible, hidden.val, hidden.measured)
        return model.predict_mean(tiny.split.test), model.predict_draws(tiny.split.test)

    (mean, draws), (blended, blended_draws) = predictions(0.0), predictions(0.5)
    moved = blended - mean
    assert np.abs(moved).max() > 1e-2
    np.testing.assert_allclose(blended_draws - draws, np.broadcast_to(moved, draws.shape), atol=1e-4)
