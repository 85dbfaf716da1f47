"""Causal attention over token layouts: one rule (`ar_steps.may_attend`), two implementations.

Shapes: B batch, Q queries, N keys, H heads, D width, d = D / H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgd.model.ar_steps import may_attend


@dataclass(frozen=True)
class Layout:
    """Kind and AR step of a run of tokens, (B, N) each."""

    kind: Tensor
    step: Tensor

    def join(self, other: Layout) -> Layout:
        return Layout(torch.cat([self.kind, other.kind], 1), torch.cat([self.step, other.step], 1))


def boolean_mask(queries: Layout, keys: Layout) -> Tensor:
    """(B, 1, Q, N), True where attention is allowed."""
    allowed = may_attend(
        queries.kind[:, :, None], queries.step[:, :, None], keys.kind[:, None, :], keys.step[:, None, :]
    )
    return allowed[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, queries: Layout, keys: Layout, backend: str) -> Tensor:
    """(B, H, Q, d) attention output; `backend` is `sdpa` (boolean mask) or `flex` (FlexAttention block mask)."""
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=boolean_mask(queries, keys))
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask_mod(batch: Tensor, head: Tensor, q_index: Tensor, k_index: Tensor) -> Tensor:
        return may_attend(
            queries.kind[batch, q_index],
            queries.step[batch, q_index],
            keys.kind[batch, k_index],
            keys.step[batch, k_index],
        )

    block_mask = create_block_mask(mask_mod, q.shape[0], None, q.shape[2], k.shape[2], device=str(q.device))
    if q.is_cuda:
        return _compiled_flex()(q, k, v, block_mask=block_mask)
    return flex_attention(q, k, v, block_mask=block_mask)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


class CausalSelfAttention(nn.Module):
    """Multi-head attention whose keys and values can be kept for later queries."""

    def __init__(self, width: int, n_heads: int, backend: str) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.backend = backend
        self.to_qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, queries: Layout, past: tuple[Tensor, Tensor] | None, keys: Layout
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from `x` (B, Q, D) to the kept tokens and to `x` itself.

        `keys` is the layout of the kept tokens followed by `x`. Returns the output (B, Q, D) and the keys and values
        (B, H, N, d) of all of them.
        """
        batch, n_queries, width = x.shape
        qkv = self.to_qkv(x).view(batch, n_queries, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, Q, d)
        if past is not None:
            k, v = (
                torch.cat([past[0].expand(batch, -1, -1, -1), k], 2),
                torch.cat([past[1].expand(batch, -1, -1, -1), v], 2),
            )
        mixed = attend(q, k, v, queries, keys, self.backend)
        return self.out(mixed.transpose(1, 2).reshape(batch, n_queries, width)), (k, v)
