"""Autoregressive steps: how a sequence is split (Algorithm 1), what may attend to what (Algorithm 2), and how much
each step weighs in the loss.

Source: Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751, Algorithms 1 and 2 and Fig. 10.

Shapes: B batch, L generated tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

CONDITION, CLEAN, NOISY = 0, 1, 2
AttentionMask = Literal["causal", "full"]


def sample_ar_steps(n_tokens: int, decay: float, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Split `n_tokens` into a random number of AR steps (Algorithm 1).

    The number of steps N is uniform on 1..n_tokens for decay 1, else P(N = i + 1) is proportional to decay^i. The cut
    points are N - 1 distinct integers of 1..n_tokens - 1. (Algorithm 1 writes [1, S]; a cut at S would make an empty
    step. The paper's public code reads no decay here.)

    Returns
    -------
    sizes, cumulative
        N step sizes, and their N + 1 cumulative sums starting at 0.
    """
    if n_tokens < 1:
        raise ValueError(f"n_tokens must be positive, got {n_tokens}")
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], got {decay}")
    weights = torch.full((n_tokens,), decay, dtype=torch.float64) ** torch.arange(n_tokens)
    n_steps = int(torch.multinomial(weights, 1, generator=generator)) + 1
    cuts = torch.randperm(n_tokens - 1, generator=generator)[: n_steps - 1] + 1
    cumulative = [0, *sorted(cuts.tolist()), n_tokens]
    sizes = [end - start for start, end in pairwise(cumulative)]
    return sizes, cumulative


def step_of_token(sizes: list[int]) -> Tensor:
    """(L,) AR step of each token, from 0."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def step_weights(step: Tensor, max_weight: float, min_weight: float) -> Tensor:
    """(B, L) loss weight of each token: linear over positions, a token takes the value of its step's first token.

    The first step weighs `max_weight`; a last step of a single token weighs `min_weight`.
    """
    n_tokens = step.shape[-1]
    position = torch.arange(n_tokens, device=step.device).expand_as(step)
    is_first = torch.ones_like(step, dtype=torch.bool)
    is_first[..., 1:] = step[..., 1:] != step[..., :-1]
    first_position = torch.cummax(torch.where(is_first, position, 0), dim=-1).values
    return max_weight + (min_weight - max_weight) * first_position / max(n_tokens - 1, 1)


def may_attend(
    query_kind: Tensor, query_step: Tensor, key_kind: Tensor, key_step: Tensor, mask: AttentionMask = "causal"
) -> Tensor:
    """True where a query may attend to a key (torch's convention, the opposite of the paper's 0/1).

    Condition tokens are open to all and see only each other; a noisy token sees the noisy tokens of its own step. The
    mask decides about the clean tokens:

    causal (Algorithm 2)
        A noisy token sees those of earlier steps, a clean token those of its own and earlier steps.
    full
        A noisy token sees those of all other steps, earlier and later, a clean token those of its own step. So every
        token to predict sees every other token of the sequence exactly once, clean or noisy, whatever the order of
        the steps. More cannot be open: a clean token that saw another step would carry that step's answer to the
        noisy tokens of it in the next block, and so would a noisy token of another step.

    Sequences, steps, targets and parameters are the same under both. Works on any broadcastable integer tensors, so
    it serves as boolean mask and as FlexAttention `mask_mod` alike.
    """
    same = key_step == query_step
    earlier = key_step < query_step
    to_condition = key_kind == CONDITION
    clean_to_clean = (query_kind == CLEAN) & (key_kind == CLEAN) & (same if mask == "full" else earlier | same)
    noisy_to_clean = (query_kind == NOISY) & (key_kind == CLEAN) & (~same if mask == "full" else earlier)
    noisy_to_noisy = (query_kind == NOISY) & (key_kind == NOISY) & same
    return to_condition | clean_to_clean | noisy_to_clean | noisy_to_noisy
