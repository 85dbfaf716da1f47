"""Reverse processes: ancestral DDPM over all T steps (the reference), DDIM, and DPM-Solver++ with few steps.

Shapes: x and what is predicted of it are (B, L, K): B batch, L tokens, K content per token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cgd.diffusion.schedule import ForwardProcess

Denoiser = Callable[[Tensor, int], Tensor]  # (x_t, t) -> the network's prediction, same shape as x_t


def sample(
    denoise: Denoiser,
    shape: tuple[int, ...],
    process: ForwardProcess,
    sampler: str,
    n_steps: int,
    noise: torch.Generator,
) -> Tensor:
    """Draw x_start of `shape` by running the reverse process from pure noise.

    Parameters
    ----------
    denoise
        The network at a timestep in 1..T.
    sampler
        `ddpm`, `ddim` or `dpm_solver`.
    n_steps
        Steps of ddim and dpm_solver; ddpm takes all T.
    noise
        Generator of the initial and the ancestral noise.
    """
    x = torch.randn(shape, generator=noise)
    if sampler == "ddpm":
        return _ddpm(denoise, x, process, noise)
    if sampler == "ddim":
        return _ddim(denoise, x, process, n_steps)
    if sampler == "dpm_solver":
        return _dpm_solver(denoise, x, process, n_steps)
    raise ValueError(f"sampler must be ddpm, ddim or dpm_solver, got {sampler!r}")


def _predict_x_start(denoise: Denoiser, x: Tensor, t: int, process: ForwardProcess) -> Tensor:
    prediction = denoise(x, t)
    return process.to_x_start(prediction, x, torch.full(x.shape[:-1], t))


def _ddpm(denoise: Denoiser, x: Tensor, process: ForwardProcess, generator: torch.Generator) -> Tensor:
    for t in range(process.n_timesteps, 0, -1):
        x_start = _predict_x_start(denoise, x, t, process)  # (B, L, K)
        beta, alpha_bar = process.betas[t - 1], process.alpha_bar[t - 1]
        previous = process.alpha_bar[t - 2] if t > 1 else torch.ones((), dtype=torch.float64)
        # mean and spread of q(x_{t-1} | x_t, x_start)
        on_start = previous.sqrt() * beta / (1 - alpha_bar)
        on_noisy = (1 - beta).sqrt() * (1 - previous) / (1 - alpha_bar)
        x = on_start.to(x.dtype) * x_start + on_noisy.to(x.dtype) * x  # (B, L, K)
        if t > 1:  # no noise is added to the result
            spread = (beta * (1 - previous) / (1 - alpha_bar)).sqrt().to(x.dtype)
            x = x + spread * torch.randn(x.shape, generator=generator)
    return x


def _ddim(denoise: Denoiser, x: Tensor, process: ForwardProcess, n_steps: int) -> Tensor:
    timesteps = torch.linspace(process.n_timesteps, 1, n_steps).round().long().tolist()
    for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
        x_start = _predict_x_start(denoise, x, t, process)
        if following == 0:
            return x_start
        signal, spread = process.coefficients(torch.tensor(t), x)
        noise = (x - signal * x_start) / spread  # (B, L, K), kept on the way to the following timestep: deterministic
        signal, spread = process.coefficients(torch.tensor(following), x)
        x = signal * x_start + spread * noise  # (B, L, K)
    return x


def _dpm_solver(denoise: Denoiser, x: Tensor, process: ForwardProcess, n_steps: int) -> Tensor:
    from diffusers import DPMSolverMultistepScheduler  # slow to import, and only needed here

    names = {"x_start": "sample", "noise": "epsilon", "v": "v_prediction"}
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=process.n_timesteps,
        trained_betas=process.betas.float().numpy(),
        prediction_type=names[process.prediction_type],
        algorithm_type="dpmsolver++",
        timestep_spacing="linspace",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(n_steps)
    for t in scheduler.timesteps:  # 0-based
        x = scheduler.step(denoise(x, int(t) + 1), t, x).prev_sample
    return x
