"""Forward process (Eq. 1-3): noise schedules, the closed-form marginal, the three prediction types, and which timesteps
training draws (ablation E, Table II).

Timesteps run from 1 to T. Shapes: arrays over timesteps are (T,), index t - 1; (...) is batch and tokens, B batch, L
tokens, K content.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["x_start", "noise", "v"]


def make_betas(schedule: str, n_timesteps: int) -> Tensor:
    """(T,) float64 betas, increasing (Eq. 1). `cosine` is Nichol and Dhariwal's; the linear range is Ho et al.'s for
    T = 1000, scaled with 1000 / T so that the end of the process is noise for every T."""
    if schedule == "cosine":
        u = torch.arange(n_timesteps + 1, dtype=torch.float64) / n_timesteps
        alpha_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)  # unclamped, the last beta is 1
    scale = 1000 / n_timesteps
    low, high = min(1e-4 * scale, 0.5), min(0.02 * scale, 0.999)
    if schedule == "linear":
        return torch.linspace(low, high, n_timesteps, dtype=torch.float64)
    if schedule == "quadratic":
        return torch.linspace(low**0.5, high**0.5, n_timesteps, dtype=torch.float64).square()
    raise ValueError(f"schedule must be cosine, linear or quadratic, got {schedule!r}")


class ForwardProcess:
    """Closed form x_t = sqrt(abar_t) x_start + sqrt(1 - abar_t) noise, and conversions between predictions.

    What the network predicts is fixed here, for training and sampling alike: one cannot train with one prediction
    type and sample with another. (Public code for this task exists that trains a noise predictor and samples it as
    x_start.)
    """

    def __init__(self, schedule: str, n_timesteps: int, prediction_type: PredictionType) -> None:
        self.n_timesteps = n_timesteps
        self.prediction_type = prediction_type
        self.betas = make_betas(schedule, n_timesteps)
        self.alpha_bar = torch.cumprod(1 - self.betas, 0)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to broadcast over the last axis of `like`."""
        alpha_bar = self.alpha_bar.to(t.device)[t - 1]  # (...)
        signal, noise = alpha_bar.sqrt()[..., None], (1 - alpha_bar).sqrt()[..., None]  # (..., 1)
        return signal.to(like.dtype), noise.to(like.dtype)

    def add_noise(self, x_start: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of x_start (..., K) at integer timesteps t (...)."""
        a, b = self.coefficients(t, x_start)
        return a * x_start + b * noise  # (..., K)

    def target(self, x_start: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is asked to predict."""
        if self.prediction_type == "x_start":
            return x_start
        if self.prediction_type == "noise":
            return noise
        a, b = self.coefficients(t, x_start)
        return a * noise - b * x_start  # (..., K), the velocity

    def precondition(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction when `output`, in units of v, corrects the best linear one of a unit normal x_start."""
        a, b = self.coefficients(t, x_t)
        if self.prediction_type == "x_start":
            return a * x_t - b * output
        if self.prediction_type == "noise":
            return b * x_t + a * output
        return output

    def to_x_start(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_start implied by the network's prediction at x_t."""
        if self.prediction_type == "x_start":
            return prediction
        a, b = self.coefficients(t, x_t)
        if self.prediction_type == "noise":
            return (x_t - b * prediction) / a
        return a * x_t - b * prediction


class TimestepSampler:
    """Draws a timestep for each token, one per AR step or one per sample.

    Parameters
    ----------
    strategy
        `full`: from all T. `1/n`: from an evenly spaced 1/n of them. `adaptive`: each AR step has a grid whose size is
        proportional to the step's weight in the loss, so that earlier, heavier steps see more distinct noise levels.
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
