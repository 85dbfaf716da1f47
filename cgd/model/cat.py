"""Causality Aware Transformer (paper III-B c, d): one transformer for autoregression and diffusion.

Source: Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751, III-B and Fig. 2.

Shapes: B batch, L generated tokens, v clean tokens, c condition tokens, Q queries, D width, K content per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cgd.config import ModelConfig
from cgd.model.ar_steps import CLEAN, CONDITION, NOISY
from cgd.model.attention import Layout, SelfAttention, make_mask
from cgd.model.embedding import sinusoid

if TYPE_CHECKING:
    from cgd.model.attention import Mask


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the condition and clean tokens, per block: computed once, used at every timestep."""

    past: tuple[tuple[Tensor, Tensor], ...]
    layout: Layout


@dataclass(frozen=True)
class NoisyTokens:
    """What the diffusion target is predicted of.

    Attributes
    ----------
    x_t
        (B, L, K) noisy content.
    t
        (B, L) timestep: in 1..T for `Network.predict`, as a share of T for the CAT.
    center
        (B, L, K) centre that the content is noise around.
    position
        (B, L, D) position code.
    step
        (B, L) AR step.
    """

    x_t: Tensor
    t: Tensor
    center: Tensor
    position: Tensor
    step: Tensor


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = SelfAttention(width, n_heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Mask
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, kept = self.attention(self.norm_attention(x), past, mask)  # (B, Q, D)
        x = x + self.dropout(mixed)  # (B, Q, D)
        return x + self.dropout(self.mlp(self.norm_mlp(x))), kept  # (B, Q, D)


class CAT(nn.Module):
    """Predicts the diffusion target of noisy tokens from condition, clean and noisy tokens.

    Clean tokens never see noisy ones and the timestep enters through the noisy tokens alone ("time-embedded noisy
    tokens", III-B d), so everything in front of them is independent of t and can be kept (`Prefix`).

    Parameters
    ----------
    config
        Model section of the configuration.
    content_dim
        K: values per token.
    backend
        Attention implementation, `sdpa` or `flex`.
    precision
        `fp32`, or `bf16` for autocast in the blocks; weights, norms and the residual stream stay fp32.
    """

    def __init__(self, config: ModelConfig, content_dim: int, backend: str = "sdpa", precision: str = "fp32") -> None:
        super().__init__()
        width = config.width
        self.precision = precision
        self.backend = backend
        self.rule = config.attention_mask
        self.embed_clean = nn.Linear(content_dim, width)
        self.embed_noisy = nn.Linear(2 * content_dim, width)
        self.embed_time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.kind = nn.Embedding(3, width)
        self.blocks = nn.ModuleList(Block(width, config.n_heads, config.dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, content_dim)
        nn.init.zeros_(self.head.weight)  # an untrained model predicts the centre of the diffusion
        nn.init.zeros_(self.head.bias)

    def compile_blocks(self) -> None:
        """Let torch compile the blocks when they are first used; their parameters keep their names."""
        for block in self.blocks:
            block.compile(dynamic=True)

    def start(self, condition: Tensor) -> Prefix:
        """Prefix of the (B, c, D) condition tokens."""
        batch, n_condition, _ = condition.shape
        step = torch.full((batch, n_condition), -1, device=condition.device)  # (B, c), before every AR step
        layout = Layout(torch.full_like(step, CONDITION), step)
        return self._extend(condition + self.kind.weight[CONDITION], layout, None)

    def extend(self, prefix: Prefix, content: Tensor, position: Tensor, step: Tensor) -> Prefix:
        """`prefix` followed by clean tokens: content (B, v, K), position code (B, v, D), AR step (B, v)."""
        x = self.embed_clean(content) + position + self.kind.weight[CLEAN]  # (B, v, D)
        return self._extend(x, Layout(torch.full_like(step, CLEAN), step), prefix)

    def _extend(self, x: Tensor, layout: Layout, prefix: Prefix | None) -> Prefix:
        _, past, joined = self._run(x, layout, prefix)
        return Prefix(past, joined)

    def denoise(self, prefix: Prefix, tokens: NoisyTokens) -> Tensor:
        """Predicted diffusion target (B, L, K) of noisy tokens that follow a prefix."""
        x = self.embed_noisy(torch.cat([tokens.x_t, tokens.center], -1))  # (B, L, D)
        x = x + tokens.position + self.kind.weight[NOISY]  # (B, L, D)
        x = x + self.embed_time(sinusoid(tokens.t, x.shape[-1]))  # (B, L, D)
        x, _, _ = self._run(x, Layout(torch.full_like(tokens.step, NOISY), tokens.step), prefix)  # (B, L, D)
        return self.head(self.norm(x))  # (B, L, K)

    def _run(
        self, x: Tensor, layout: Layout, prefix: Prefix | None
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...], Layout]:
        keys = layout if prefix is None else _expand(prefix.layout, x.shape[0]).join(layout)
        mask = make_mask(layout, keys, self.backend, self.rule)
        kept = []
        # weights and norms stay float32: only what autocast covers is bfloat16
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            for i, block in enumerate(self.blocks):
                x, key_value = block(x, None if prefix is None else prefix.past[i], mask)
                kept.append(key_value)
        return x, tuple(kept), keys


def _expand(layout: Layout, batch: int) -> Layout:
    return Layout(layout.kind.expand(batch, -1), layout.step.expand(batch, -1))
