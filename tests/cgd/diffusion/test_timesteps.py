"""Which timesteps training draws: the grids of Table II, and one draw per AR step or per sample."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from cgd.diffusion.schedule import TimestepSampler
from cgd.model.ar_steps import step_of_token, step_weights

T = 60
STEP = step_of_token([2, 2, 3])[None]
WEIGHT = step_weights(STEP, 1.0, 0.1)


def draw(strategy, per_step="independent", n=20_000, n_timesteps=T, seed=0):
    """(n, 7) timesteps of the paper's example."""
    sampler = TimestepSampler(strategy, per_step, n_timesteps)
    generator = torch.Generator().manual_seed(seed)
    return sampler.sample(STEP.expand(n, -1), WEIGHT.expand(n, -1), generator).numpy()


@pytest.mark.parametrize(("strategy", "n_distinct"), [("full", 60), ("1/2", 30), ("1/3", 20), ("1/4", 15), ("1/20", 3)])
def test_the_grid_is_evenly_spaced_holds_t_and_is_drawn_evenly(strategy, n_distinct):
    drawn, counts = np.unique(draw(strategy)[:, 0], return_counts=True)
    np.testing.assert_array_equal(drawn, T * np.arange(1, n_distinct + 1) / n_distinct)
    assert chisquare(counts).pvalue > 1e-4


def test_a_grid_finer_than_t_is_t_itself():
    assert set(draw("1/100", n=50).ravel()) == {T}


@pytest.mark.parametrize("strategy", ["full", "1/4", "adaptive"])
def test_tokens_of_one_ar_step_share_their_timestep(strategy):
    for per_step in ("shared", "independent"):
        t = draw(strategy, per_step, n=200)
        assert ((t >= 1) & (t <= T)).all()
        for step in range(3):
            of_step = t[:, STEP[0].numpy() == step]
            assert (of_step == of_step[:, :1]).all()


def test_shared_draws_once_per_sample_and_independent_per_step():
    shared, independent = draw("full", "shared"), draw("full", "independent")
    assert (shared == shared[:, :1]).all()
    assert np.mean(independent[:, 0] == independent[:, 2]) == pytest.approx(1 / T, abs=0.005)
    assert abs(np.corrcoef(independent[:, 0], independent[:, 6])[0, 1]) < 0.03


def test_adaptive_gives_heavier_steps_more_distinct_timesteps():
    t = draw("adaptive")
    distinct = [len(np.unique(t[:, token])) for token in (0, 2, 4)]
    np.testing.assert_array_equal(distinct, np.ceil(T * WEIGHT[0, [0, 2, 4]].double().numpy()))
    assert distinct[0] == T
    assert distinct[0] > distinct[1] > distinct[2]
    assert t.max(axis=0).tolist() == [T] * 7


def test_draws_follow_the_generator():
    np.testing.assert_array_equal(draw("full", n=9), draw("full", n=9))
    assert not np.array_equal(draw("full", n=9), draw("full", n=9, seed=1))
