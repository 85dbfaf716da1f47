"""Sequences [condition | clean | noisy] of Algorithm 2, and its mask as the paper writes it."""

import torch

from cgd.model.ar_steps import CLEAN, CONDITION, NOISY, may_attend, step_of_token


def sequence_layout(step, n_condition, n_clean):
    """Kind and step (B, c + v + L) of every token, from the AR steps (B, L); condition tokens have step -1."""
    batch, n_tokens = step.shape
    kinds = [(CONDITION, n_condition), (CLEAN, n_clean), (NOISY, n_tokens)]
    kind = torch.cat([torch.full((batch, n), value) for value, n in kinds], 1)
    return kind, torch.cat([torch.full((batch, n_condition), -1), step[:, :n_clean], step], 1)


def attention_mask(sizes, n_condition):
    """(c + v + L, c + v + L) mask in the paper's convention: 0 may attend, 1 is masked."""
    step = step_of_token(sizes)[None]
    kind, steps = sequence_layout(step, n_condition, step.shape[1] - sizes[-1])
    allowed = may_attend(kind[:, :, None], steps[:, :, None], kind[:, None, :], steps[:, None, :])
    return (~allowed[0]).long()
