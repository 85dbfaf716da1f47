"""Diffusion transformer with adaLN-Zero (Peebles and Xie, arXiv:2212.09748): what stDiff and SpaDiT are built of.

Shapes: B batch, L tokens, D width; a condition is (B, L, D), or (B, 1, D) where all tokens share it.
"""

from __future__ import annotations

from torch import Tensor, nn

from cgd.model.attention import SelfAttention
from cgd.model.embedding import sinusoid


class TimeEmbedding(nn.Module):
    """(..., D) code of timesteps in 1..T."""

    def __init__(self, width: int, n_timesteps: int) -> None:
        super().__init__()
        self.width, self.n_timesteps = width, n_timesteps
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoid(t / self.n_timesteps, self.width))  # (..., D)


class DiTBlock(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the condition; the gates start at zero."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = SelfAttention(width, n_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulate = _zero_linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulate(condition).chunk(6, -1)  # (B, ., D) each
        mixed, _ = self.attention(self.norm_attention(x) * (1 + scale) + shift, None, None)  # (B, L, D), all see all
        x = x + gate * mixed  # (B, L, D)
        return x + mlp_gate * self.mlp(self.norm_mlp(x) * (1 + mlp_scale) + mlp_shift)  # (B, L, D)


class FinalLayer(nn.Module):
    """Modulated norm and a linear map that starts at zero: (B, L, D) to (B, L, n_out)."""

    def __init__(self, width: int, n_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = _zero_linear(width, 2 * width)
        self.head = nn.Linear(width, n_out)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulate(condition).chunk(2, -1)  # (B, ., D) each
        return self.head(self.norm(x) * (1 + scale) + shift)  # (B, L, n_out)


def _zero_linear(n_in: int, n_out: int) -> nn.Sequential:
    linear = nn.Linear(n_in, n_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)
