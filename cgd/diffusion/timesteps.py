"""Which timesteps training draws (ablation E, Table II).

`full` draws from all T. `1/n` draws from an evenly spaced 1/n of them. `adaptive` gives each AR step a grid whose size
is proportional to the step's weight in the loss, so earlier (heavier) steps see more distinct noise levels.

Shapes: B batch, L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


class TimestepSampler:
    """Draws a timestep for each token, one per AR step or one per sample.

    Parameters
    ----------
    strategy
        `full`, `1/n` or `adaptive`.
    per_step
        `shared`: all AR steps of a sample use the same draw; `independent`: one draw per AR step.
    n_timesteps
        T.
    """

    def __init__(self, strategy: str, per_step: str, n_timesteps: int) -> None:
        self.adaptive = strategy == "adaptive"
        self.per_step = per_step
        self.n_timesteps = n_timesteps
        divisor = 1 if strategy in ("full", "adaptive") else int(strategy.removeprefix("1/"))
        self.grid_size = max(n_timesteps // divisor, 1)

    def sample(self, step: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
        """(B, L) timesteps in 1..T; tokens of the same sample and AR step get the same one.

        Parameters
        ----------
        step
            (B, L) AR step of each token.
        weight
            (B, L) loss weight of each token's AR step.
        """
        batch, n_tokens = step.shape
        n_draws = 1 if self.per_step == "shared" else n_tokens
        draws = torch.rand(batch, n_draws, generator=generator).to(step.device)  # (B, 1 or L)
        uniform = draws.expand(-1, n_tokens) if n_draws == 1 else draws.gather(1, step)  # (B, L)
        size = torch.full_like(weight, self.grid_size, dtype=torch.float64)  # (B, L) timesteps to choose among
        if self.adaptive:
            share = weight.double() / weight.double().amax(1, keepdim=True)
            size = (size * share).ceil()
        # the i-th of n evenly spaced timesteps is round(T * i / n), i = 1..n: the grid always holds T itself
        index = torch.floor(uniform.double() * size) + 1  # (B, L)
        return (self.n_timesteps * index / size).round().long().clamp(1, self.n_timesteps)
