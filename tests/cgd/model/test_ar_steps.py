"""Algorithms 1 and 2 of the paper: its printed example, the distribution of the steps, and the weights of the loss."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from token_layouts import attention_mask, sequence_layout

from cgd.model.ar_steps import (
    sample_ar_steps,
    step_of_token,
    step_weights,
)

ALPHA = 1e-4  # of the chi-square tests; the seeds are fixed, so they pass or fail for ever

# Fig. 10: s = 7, c = 2, sizes [2, 2, 3]; columns c c | v v v v | s s s s s s s; 0 may attend, 1 is masked
PAPER_MASK = [
    [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1],
    [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1],
    [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0],
]


def algorithm_2(sizes, c):
    """The paper's pseudo-code, line by line."""
    cs = np.concatenate([[0], np.cumsum(sizes)])
    s = int(cs[-1])
    v = s - sizes[-1]
    ctx = c + v
    mask = np.ones((ctx + s, ctx + s), dtype=int)
    mask[:, :c] = 0
    v_t_v, s_t_v, s_t_s = np.ones((v, v)), np.ones((s, v)), np.ones((s, s))
    for i in range(len(sizes) - 1):
        v_t_v[cs[i] : cs[i + 1], : cs[i + 1]] = 0
        s_t_v[cs[i + 1] : cs[i + 2], : cs[i + 1]] = 0
    for i in range(len(sizes)):
        s_t_s[cs[i] : cs[i + 1], cs[i] : cs[i + 1]] = 0
    mask[c:ctx, c:ctx], mask[ctx:, c:ctx], mask[ctx:, ctx:] = v_t_v, s_t_v, s_t_s
    return mask


def draw(n, n_tokens, decay, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [sample_ar_steps(n_tokens, decay, generator) for _ in range(n)]


# ---- Algorithm 2 --------------------------------------------------------------------------------------------------


def test_the_mask_of_the_papers_example():
    assert attention_mask([2, 2, 3], n_condition=2).tolist() == PAPER_MASK


@pytest.mark.parametrize("n_condition", [0, 1, 4])
def test_the_mask_is_algorithm_2_for_other_sizes(n_condition):
    for sizes in ([1], [5], [1, 1, 1], [4, 1], [1, 4], [3, 2, 1, 2]):
        np.testing.assert_array_equal(attention_mask(sizes, n_condition).numpy(), algorithm_2(sizes, n_condition))
    for sizes, _ in draw(20, 9, 0.8):
        np.testing.assert_array_equal(attention_mask(sizes, n_condition).numpy(), algorithm_2(sizes, n_condition))


def test_the_layout_of_the_papers_example():
    kind, step = sequence_layout(step_of_token([2, 2, 3])[None], n_condition=2, n_clean=4)
    assert kind.tolist() == [[0] * 2 + [1] * 4 + [2] * 7]
    assert step.tolist() == [[-1, -1, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2]]


# ---- Algorithm 1 --------------------------------------------------------------------------------------------------


def test_the_papers_split_has_its_sizes_and_sums_in_any_draw():
    drawn = [(sizes, cumulative) for sizes, cumulative in draw(2000, 7, 1.0) if sizes == [2, 2, 3]]
    assert drawn
    assert all(cumulative == [0, 2, 4, 7] for _, cumulative in drawn)


@pytest.mark.parametrize("decay", [0.05, 0.7, 1.0])
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 12])
def test_every_split_covers_the_tokens_and_no_step_is_empty(n_tokens, decay):
    for sizes, cumulative in draw(300, n_tokens, decay):
        assert min(sizes) >= 1
        assert sum(sizes) == n_tokens
        assert cumulative == [0, *np.cumsum(sizes)]
        assert step_of_token(sizes).tolist() == [i for i, size in enumerate(sizes) for _ in range(size)]


def expected_share(decay, n_tokens):
    """Lines 1 to 7 of Algorithm 1."""
    if decay == 1.0:
        return np.full(n_tokens, 1 / n_tokens)
    return decay ** np.arange(n_tokens) * (1 - decay) / (1 - decay**n_tokens)


@pytest.mark.parametrize(("decay", "other"), [(0.7, 0.75), (1.0, 0.95)])
def test_the_number_of_steps_has_the_papers_distribution(decay, other):
    n, n_tokens = 20_000, 7
    counts = np.bincount([len(sizes) for sizes, _ in draw(n, n_tokens, decay)], minlength=n_tokens + 1)[1:]
    assert chisquare(counts, n * expected_share(decay, n_tokens)).pvalue > ALPHA
    assert chisquare(counts, n * expected_share(other, n_tokens)).pvalue < ALPHA


def test_the_cut_points_are_any_subset_with_equal_chance():
    cuts = Counter(tuple(c[1:-1]) for sizes, c in draw(20_000, 6, 1.0) if len(sizes) == 3)
    assert set(cuts) == set(combinations(range(1, 6), 2))
    assert chisquare(list(cuts.values())).pvalue > ALPHA


def test_draws_follow_the_generator_alone():
    torch.manual_seed(1)
    first = draw(50, 12, 0.8)
    torch.manual_seed(2)
    assert draw(50, 12, 0.8) == first
    assert draw(50, 12, 0.8, seed=1) != first


@pytest.mark.parametrize(("n_tokens", "decay"), [(0, 0.8), (5, 0.0), (5, 1.1)])
def test_arguments_out_of_range(n_tokens, decay):
    with pytest.raises(ValueError, match="n_tokens must be positive, got 0" if n_tokens == 0 else "decay must be in"):
        sample_ar_steps(n_tokens, decay, torch.Generator())


# ---- weights ------------------------------------------------------------------------------------------------------


def test_weights_of_the_papers_example():
    step = step_of_token([2, 2, 3])[None]
    expected = [1.0] * 2 + [1 - 0.5 * 2 / 6] * 2 + [1 - 0.5 * 4 / 6] * 3  # linear over positions 0..6
    np.testing.assert_allclose(step_weights(step, 1.0, 0.5)[0], expected, rtol=1e-6)


def test_weights_run_from_the_highest_to_the_lowest():
    one_each = step_weights(torch.arange(5)[None], 2.0, 0.4)[0]
    np.testing.assert_allclose(one_each, np.linspace(2.0, 0.4, 5), rtol=1e-6)
    assert step_weights(torch.zeros(1, 5, dtype=torch.long), 2.0, 0.4).tolist() == [[2.0] * 5]
    assert step_weights(torch.zeros(1, 1, dtype=torch.long), 2.0, 0.4).tolist() == [[2.0]]


def test_weights_are_per_sample():
    steps = torch.stack([step_of_token([1, 3]), step_of_token([3, 1])])
    batch = step_weights(steps, 1.0, 0.1)
    for row, step in zip(batch, steps, strict=True):
        assert row.tolist() == step_weights(step[None], 1.0, 0.1)[0].tolist()
    assert batch[0].tolist() != batch[1].tolist()
