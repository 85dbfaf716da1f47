"""The sinusoidal code of a timestep."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid(t: Tensor, width: int) -> Tensor:
    """(..., width) sinusoidal code of t in (0, 1]."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device) / half)  # (half,)
    angle = 1000.0 * t[..., None].float() * frequency  # (..., half); the same for every T, as t is a share of it
    code = torch.cat([angle.sin(), angle.cos()], -1)  # (..., 2 half)
    return nn.functional.pad(code, (0, width - code.shape[-1]))  # an odd width lacks one column
