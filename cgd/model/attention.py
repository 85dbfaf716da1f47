"""Attention over token layouts: one rule (`ar_steps.may_attend`), two implementations.

Shapes: B batch, Q queries, N keys, H heads, D width, d = D / H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgd.model.ar_steps import AttentionMask, may_attend

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    Mask = Tensor | BlockMask | None


@dataclass(frozen=True)
class Layout:
    """Kind and AR step of a run of tokens, (B, N) each."""

    kind: Tensor
    step: Tensor

    def join(self, other: Layout) -> Layout:
        return Layout(torch.cat([self.kind, other.kind], 1), torch.cat([self.step, other.step], 1))


def boolean_mask(queries: Layout, keys: Layout, rule: AttentionMask = "causal") -> Tensor:
    """(B, 1, Q, N), True where attention is allowed."""
    allowed = may_attend(
        queries.kind[:, :, None], queries.step[:, :, None], keys.kind[:, None, :], keys.step[:, None, :], rule
    )
    return allowed[:, None]


def make_mask(queries: Layout, keys: Layout, backend: str, rule: AttentionMask = "causal") -> Mask:
    """The rule for `backend`: a boolean tensor for `sdpa`, a block mask for `flex`. All blocks of a CAT share it.

    None where everything may be seen: on a CPU, attention under a mask takes twice as long. On a GPU it is not asked,
    as the answer would have to be waited for.
    """
    if backend == "sdpa":
        mask = boolean_mask(queries, keys, rule)
        return None if mask.device.type == "cpu" and bool(mask.all()) else mask
    from torch.nn.attention.flex_attention import create_block_mask

    def mask_mod(batch: Tensor, head: Tensor, q_index: Tensor, k_index: Tensor) -> Tensor:
        return may_attend(
            queries.kind[batch, q_index],
            queries.step[batch, q_index],
            keys.kind[batch, k_index],
            keys.step[batch, k_index],
            rule,
        )

    (n_batch, n_queries), device = queries.kind.shape, str(queries.kind.device)
    return create_block_mask(mask_mod, n_batch, None, n_queries, keys.kind.shape[1], device=device)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """(B, H, Q, d) attention output under a mask of `make_mask`."""
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if q.is_cuda:
        return _compile_flex()(q, k, v, block_mask=mask)
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v, block_mask=mask)


@cache
def _compile_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


class SelfAttention(nn.Module):
    """Multi-head attention whose keys and values can be kept for later queries."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Mask
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from `x` (B, Q, D) to the kept tokens and to `x` itself.

        `mask` is over the kept tokens followed by `x`. Returns the output (B, Q, D) and the keys and values
        (B, H, N, d) of all of them.
        """
        batch, n_queries, width = x.shape
        qkv = self.to_qkv(x).view(batch, n_queries, 3, self.n_heads, width // self.n_heads)  # (B, Q, 3, H, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, Q, d) each
        if past is not None:
            # a prefix of one sequence may serve a whole batch
            k, v = (torch.cat([p.expand(batch, -1, -1, -1), new], 2) for p, new in zip(past, (k, v), strict=True))
        mixed = attend(q, k, v, mask)  # (B, H, Q, d)
        return self.out(mixed.transpose(1, 2).reshape(batch, n_queries, width)), (k, v)  # (B, Q, D)
