"""SpaGE, SpaOTsc, novoSpaRc and stPlus compute what their papers say: against direct derivations and solves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr

from cgd.baselines.neighbours import nearest_cells
from cgd.baselines.novosparc import NovoSpaRc, balance_plan, expression_cost, hop_distances
from cgd.baselines.spage import SpaGE
from cgd.baselines.spaotsc import rank_correlation, transport_plan
from cgd.baselines.stplus import StPlus
from cgd.baselines.transport import to_columns
from cgd.config import Config
from cgd.data.pair import make_pair
from cgd.data.preprocess import prepare
from cgd.data.protocol import hide
from cgd.data.simulate import simulate_pair
from cgd.data.split import make_splits
from cgd.errors import DataError, TrainingDiverged


@pytest.fixture(scope="module")
def tissue():
    """A pair with enough of everything to learn from: 300 spots, 300 cells, 60 genes."""
    simulation = simulate_pair(n_spots=300, n_cells=300, n_genes=60, n_regulators=8, n_cell_types=4)
    config = Config()
    prepared = prepare(make_pair(simulation.adata_st, simulation.adata_sc, "tissue"), config.data)
    split = make_splits(prepared.panel, config.split)[0]
    return split, hide(prepared, split, config)


# ---- SpaGE --------------------------------------------------------------------------------------------------------


def zscore(rows):
    return (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)


def spage_by_hand(visible, genes, n_vectors, k):
    """A spot and a neighbour at a time, from the paper: SVDs of the data themselves, distances in the plane."""
    cells = zscore(visible.sc_rows(visible.train_genes).astype(np.float64)).T
    spots = zscore(visible.x_st.astype(np.float64)).T
    of_cells, of_spots = (np.linalg.svd(x, full_matrices=False)[2][:n_vectors] for x in (cells, spots))
    rotation, cosines, _ = np.linalg.svd(of_cells @ of_spots.T)
    common = (rotation.T @ of_cells)[cosines > 0.3]
    rows = visible.sc_rows(list(genes))
    out = np.zeros((len(genes), len(spots)))
    for i, spot in enumerate(spots @ common.T):
        d = np.array([1 - spot @ c / np.linalg.norm(spot) / np.linalg.norm(c) for c in cells @ common.T])
        near = [j for j in np.argsort(d)[:k] if d[j] < 1]
        total = sum(d[j] for j in near)
        for j in near:
            out[:, i] += (1 - d[j] / total) / (len(near) - 1) * rows[:, j]
    return out


def test_spage_equals_a_derivation_from_the_paper(tiny):
    visible, genes = tiny.hidden().visible, tiny.split.test
    method = SpaGE(n_neighbours=10)
    method.fit(visible, 0)
    by_hand = spage_by_hand(visible, genes, len(visible.train_genes) // 2, 10)
    np.testing.assert_allclose(method.predict(genes), by_hand, atol=1e-5)


def test_weights_in_the_corners_the_formula_does_not_cover():
    cells = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    spots = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, 0.0], [1.0, 1.0]])
    found = nearest_cells(spots, cells, 4)
    assert np.allclose(found.weights.sum(axis=1), 1)
    by_cell = np.zeros((4, 4))
    np.put_along_axis(by_cell, found.cells, found.weights, axis=1)
    np.testing.assert_allclose(by_cell[0], [0.5, 0.5, 0, 0])  # two at distance 0 and two at 1 or more: plain mean
    assert by_cell[1, 3] > 0.2  # opposed cells get nothing
    assert not by_cell[1, :2].any()
    np.testing.assert_allclose(by_cell[2], 0.25)  # no direction, nothing is near
    one = nearest_cells(np.array([[1.0, 0.0]]), np.array([[1.0, 0.1], [-1.0, 0.0]]), 2)
    np.testing.assert_allclose(sorted(one.weights[0]), [0, 1])


# ---- SpaOTsc ------------------------------------------------------------------------------------------------------


def test_rank_correlation_is_spearman_for_every_cell_and_spot(tiny):
    visible = tiny.hidden().visible
    cells, spots = visible.sc_rows(visible.train_genes)[:, :5].copy(), visible.x_st[:, :4]
    cells[:, 2] = 0
    found = rank_correlation(cells, spots)
    expected = [[spearmanr(a, b).statistic if a.any() else 0 for b in spots.T] for a in cells.T]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def kl(x, y):
    return (x * np.log(x / y) - x + y).sum()


@pytest.mark.parametrize(("epsilon", "rho"), [(1.0, 1.0), (0.5, 2.0)])
def test_spaotsc_plan_minimises_the_objective(epsilon, rho):
    similarity = np.random.default_rng(0).uniform(-0.6, 0.9, size=(4, 3))
    closeness = np.exp(similarity)
    a, b = closeness.sum(axis=1) / closeness.sum(), closeness.sum(axis=0) / closeness.sum()
    cost = np.exp(1 - similarity) ** 2

    def objective(log_plan):
        plan = np.exp(log_plan.reshape(cost.shape))
        entropy = (plan * (np.log(plan) - 1)).sum()
        return (plan * cost).sum() + epsilon * entropy + rho * (kl(plan.sum(1), a) + kl(plan.sum(0), b))

    start = np.full(cost.size, -3.0)
    solved = minimize(objective, start, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000})
    found = transport_plan(similarity, epsilon, rho)
    np.testing.assert_allclose(found, np.exp(solved.x).reshape(cost.shape), rtol=1e-3, atol=2e-6)
    assert objective(np.log(found).ravel()) <= solved.fun + 1e-9


def test_a_plan_beyond_the_machine_is_refused():
    with pytest.raises(DataError, match=r"SpaOTsc: .*beyond the precision.*raise epsilon"):
        transport_plan(np.full((3, 2), -0.9), 1e-4, 1.0)


def test_a_spot_without_mass_gets_the_mean():
    np.testing.assert_allclose(to_columns(np.array([[3.0, 0.0], [1.0, 0.0]])), [[0.75, 0.5], [0.25, 0.5]])


# ---- novoSpaRc ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_cells", [40, 1300])  # above 1000 cells POT's own threshold never let it converge
def test_novosparc_plan_has_the_marginals_and_sinkhorns_form(n_cells):
    cost = np.random.default_rng(1).uniform(size=(n_cells, 30))
    plan = balance_plan(cost, 0.05)
    np.testing.assert_allclose(plan.sum(axis=1) * n_cells, 1, atol=5e-3)
    np.testing.assert_allclose(plan.sum(axis=0) * 30, 1, atol=5e-3)
    log_scaling = np.log(plan) + cost / 0.05  # log u + log v: of rank two, additive over rows and columns
    residual = log_scaling - log_scaling.mean(axis=0) - log_scaling.mean(axis=1, keepdims=True) + log_scaling.mean()
    assert np.abs(residual).max() < 1e-6


def test_hops_are_those_of_a_line_and_of_two_islands():
    line = hop_distances(np.arange(6, dtype=np.float32)[:, None] ** 1.01, 2)
    assert line.mean() == pytest.approx(0)
    assert np.ptp(line) == pytest.approx(1)
    np.testing.assert_allclose(line[0] - line[0, 0], np.arange(6) / 5)
    islands = np.array([0, 1.0, 2.1, 100, 101, 102.1], dtype=np.float32)[:, None]
    hops = hop_distances(islands, 2)
    assert hops[0, 5] == hops[0, 2] == hops.max()  # as far as the furthest that can be reached


def test_novosparc_structure_puts_neighbours_together(tiny):
    """Cells are spots: expression that tells only the ends of a line apart leaves the rest to the structure."""
    n = 20
    position = np.linspace(0, 1, n, dtype=np.float32)
    x_sc = np.stack([np.exp(-((position - c) ** 2) / 0.02) for c in np.linspace(0, 1, 8)]).astype(np.float32)
    visible = replace(
        tiny.hidden().visible,
        train_genes=("a", "h"),
        genes=tuple("abcdefgh"),
        x_st=x_sc[[0, 7]],
        x_sc=x_sc,
        coordinates=np.stack([position, position], axis=1),
    )
    pcc = {}
    for alpha in (0.5, 1.0):
        method = NovoSpaRc(alpha=alpha, epsilon=1e-3)
        method.fit(visible, 0)
        predicted = method.predict("bcdefg")
        pcc[alpha] = [np.corrcoef(row, true)[0, 1] for row, true in zip(predicted, x_sc[1:7], strict=True)]
    assert np.mean(pcc[0.5]) > np.mean(pcc[1.0]) + 0.03


def test_expression_cost_scales_each_side_by_its_maximum():
    cost = expression_cost(np.array([[0.0, 4.0]], dtype=np.float32), np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    np.testing.assert_allclose(cost, [[0, 0.5, 1], [1, 0.5, 0]])


# ---- stPlus -------------------------------------------------------------------------------------------------------


def test_stplus_learns_to_reconstruct_and_stops_at_its_best(tissue):
    _, hidden = tissue
    method = StPlus(width=64)
    method.fit(hidden.visible, 0)
    assert 5 < len(method.losses) < 200
    assert method.losses[-1] < 0.3 * method.losses[0]
    before, last = method.losses[-2:]
    assert abs(before - last) <= method.tolerance * before


def test_stplus_that_diverges_says_so(tissue):
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        StPlus(width=8, learning_rate=1e30).fit(tissue[1].visible, 0)


@pytest.mark.parametrize("method", [SpaGE(), StPlus(width=64), NovoSpaRc()], ids=lambda m: type(m).__name__)
def test_a_planted_signal_is_found(tissue, method):
    split, hidden = tissue
    method.fit(hidden.visible, 0)
    assert hidden.test.score(method.predict(split.test))["pcc"].mean() > 0.1
