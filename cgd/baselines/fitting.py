"""What the generative baselines share: a network from a seed, and a loop that lowers its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from cgd.diffusion.schedule import ForwardProcess
from cgd.errors import TrainingDiverged
from cgd.random import derive_seed

Net = TypeVar("Net", bound=nn.Module)


def build(make: Callable[[], Net], seed: int) -> Net:
    """A network whose initial weights depend on `seed` alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        return make()


def add_random_noise(
    process: ForwardProcess, x_start: Tensor, generators: Mapping[str, torch.Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t (n,) and the noise of `x_start` (n, .); drawn from the generators `timestep` and `noise`."""
    t = torch.randint(1, process.n_timesteps + 1, (len(x_start),), generator=generators["timestep"])
    noise = torch.randn(x_start.shape, generator=generators["noise"])
    return process.add_noise(x_start, noise, t), t, noise


def minimise(
    network: nn.Module, loss: Callable[[], Tensor], n_steps: int, learning_rate: float, title: str
) -> list[float]:
    """AdamW without weight decay, gradients clipped at norm 1, the rate falling linearly to zero.

    Parameters
    ----------
    loss
        Loss of a fresh minibatch.
    title
        Of the method, for the error message.

    Returns
    -------
    list of float
        Loss at each step.

    Raises
    ------
    TrainingDiverged
        The loss stopped being finite.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / n_steps)
    history: list[float] = []
    network.train()
    for step in range(n_steps):
        value = loss()
        history.append(value.item())
        if not torch.isfinite(value):
            raise TrainingDiverged(f"{title}: the loss is {history[-1]} at step {step}; lower learning_rate")
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    network.eval()
    return history
