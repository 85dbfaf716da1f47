"""Floors of draws: their names and shapes, that they see no truth, and the components of a residual."""

import numpy as np
import pytest
from scipy.stats import poisson

from cgd.audit import _add_noise
from cgd.data.protocol import hide
from cgd.draw_floors import N_DRAWS, draw_floors, find_residual_components
from cgd.metrics.draws import score_draws_by_gene
from cgd.metrics.facts import DRAW_FLOORS
from cgd.metrics.floors import gene_mean


def draw_all(tiny, prepared):
    config = tiny.config()
    hidden = hide(prepared, tiny.split, config)
    return hidden, draw_floors(hidden, prepared, tiny.split, config)


@pytest.fixture(scope="module")
def drawn(tiny):
    return draw_all(tiny, tiny.prepared)


def test_every_floor_of_the_table_draws_the_test_genes(tiny, drawn):
    hidden, floors = drawn
    assert list(floors) == list(DRAW_FLOORS)
    for name, draws in floors.items():
        assert draws.shape == (N_DRAWS, len(tiny.split.test), len(hidden.visible.spot_names)), name
        assert np.isfinite(draws).all(), name
        assert (draws.std(axis=0) > 0).any(axis=1).all(), name


def test_floors_of_counts_are_never_below_zero(drawn):
    _, floors = drawn
    lowest = {name: draws.min() for name, draws in floors.items()}
    assert lowest.pop("gaussian_center") < 0
    assert set(lowest.values()) == {0.0}


def test_noise_in_place_of_the_truth_changes_replicates_alone(tiny, drawn):
    _, noisy = draw_all(tiny, _add_noise(tiny.prepared, tiny.split.test, 0))
    changed = {name for name, draws in drawn[1].items() if draws.tobytes() != noisy[name].tobytes()}
    assert changed == {"replicate"}


def test_a_second_run_draws_the_same_bits(tiny, drawn):
    _, again = draw_all(tiny, tiny.prepared)
    assert [name for name, draws in drawn[1].items() if draws.tobytes() != again[name].tobytes()] == []


def test_counts_around_the_genes_mean_have_no_pattern(drawn):
    hidden, floors = drawn
    mean = gene_mean(hidden.measured, hidden.test.genes)
    assert np.ptp(mean, axis=1).max() == 0
    levels = floors["counts_gene_mean"].mean(axis=(0, 2))
    assert list(levels.argsort()) == list(mean[:, 0].argsort())


def test_replicates_are_nearer_to_the_truth_than_any_floor(drawn):
    hidden, floors = drawn
    crps = {
        name: score_draws_by_gene(draws, hidden.test.truth, hidden.visible.coordinates)["crps"].mean()
        for name, draws in floors.items()
    }
    assert min(crps, key=crps.get) == "replicate"


# ---- the components of a residual ---------------------------------------------------------------------------------

N_GENES, N_SPOTS = 120, 90


def test_planted_components_are_found_with_their_length():
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(N_SPOTS) / N_SPOTS * 2 * np.pi * np.array([[1], [2]]))
    planted = waves / np.linalg.norm(waves, axis=1, keepdims=True) * np.array([[8.0], [4.0]])
    residuals = rng.normal(size=(N_GENES, 2)) @ planted + 0.3 * rng.normal(size=(N_GENES, N_SPOTS))
    found = find_residual_components(residuals, 0)
    assert found.shape == (2, N_SPOTS)
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths, [8.0, 4.0], rtol=0.25)
    cosine = np.abs((found / lengths[:, None]) @ (planted / [[8.0], [4.0]]).T)
    np.testing.assert_allclose(np.diag(cosine), 1.0, atol=0.1)


@pytest.mark.parametrize("kind", ["gaussian", "counts"])
@pytest.mark.parametrize("seed", [0, 1])
def test_pure_noise_has_no_component(kind, seed):
    rng = np.random.default_rng(seed)
    levels = rng.lognormal(0, 1, (N_GENES, 1))
    residuals = levels * rng.normal(size=(N_GENES, N_SPOTS))
    if kind == "counts":
        residuals = np.log1p(poisson.rvs(np.broadcast_to(levels, residuals.shape), random_state=rng))
        residuals = residuals - residuals.mean(axis=1, keepdims=True)
    assert len(find_residual_components(residuals, seed)) <= 1  # shuffles are few: one may stand out by chance
    length = np.linalg.norm(find_residual_components(residuals, seed), axis=1).sum()
    assert length < 0.3 * np.sqrt((residuals**2).sum() / N_GENES)
