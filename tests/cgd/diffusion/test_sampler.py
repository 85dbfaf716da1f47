"""The reverse processes recover a Gaussian whose denoiser is known exactly, for every prediction type."""

import pytest
import torch

from cgd.diffusion.sampler import sample
from cgd.diffusion.schedule import ForwardProcess

MEAN, STD = 1.5, 0.5
TYPES = ("x_start", "noise", "v")


def analytic_denoiser(process, calls=None):
    """What a perfect network predicts for x_start ~ N(MEAN, STD^2)."""

    def denoise(x, t):
        if calls is not None:
            calls.append(t)
        a, b = process.coefficients(torch.full(x.shape[:-1], t), x)
        gain = a * STD**2 / (a**2 * STD**2 + b**2)
        x_start = MEAN + gain * (x - a * MEAN)
        return process.target(x_start, (x - a * x_start) / b, torch.full(x.shape[:-1], t))

    return denoise


def draw(sampler, prediction_type, n_timesteps, n_steps, schedule="cosine", n=20_000, seed=0):
    process = ForwardProcess(schedule, n_timesteps, prediction_type)
    generator = torch.Generator().manual_seed(seed)
    return sample(analytic_denoiser(process), (n, 1), process, sampler, n_steps, generator)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("schedule", ["cosine", "linear", "quadratic"])
def test_ddpm_recovers_the_gaussian(prediction_type, schedule):
    """Standard errors are 0.007 (mean) and 1 % (spread); discretising takes another 1 % off the spread."""
    x = draw("ddpm", prediction_type, 1000, 2, schedule, n=5000)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.025)
    assert x.std().item() == pytest.approx(STD, rel=0.04)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize(("sampler", "n_steps"), [("ddim", 50), ("dpm_solver", 20)])
def test_samplers_of_few_steps_recover_it_nearly(prediction_type, sampler, n_steps):
    x = draw(sampler, prediction_type, 1000, n_steps)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x.std().item() == pytest.approx(STD, rel=0.08)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_more_steps_come_closer(sampler):
    errors = [abs(draw(sampler, "x_start", 1000, n).std().item() - STD) for n in (3, 30)]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver"])
@pytest.mark.parametrize(("n_timesteps", "n_steps"), [(3, 2), (50, 2), (50, 25), (50, 49)])
def test_draws_are_finite_and_near_for_every_allowed_step_count(prediction_type, sampler, n_timesteps, n_steps):
    x = draw(sampler, prediction_type, n_timesteps, n_steps, n=2000)
    assert torch.isfinite(x).all()
    assert x.mean().item() == pytest.approx(MEAN, abs=0.1)
    assert x.std().item() <= 1.2 * STD


def timesteps_of(sampler, n_timesteps, n_steps):
    process, calls = ForwardProcess("cosine", n_timesteps, "x_start"), []
    sample(analytic_denoiser(process, calls), (2, 1), process, sampler, n_steps, torch.Generator().manual_seed(0))
    return calls


def test_ddpm_takes_each_timestep_once_and_others_as_asked():
    assert timesteps_of("ddpm", 40, 5) == list(range(40, 0, -1))
    for sampler in ("ddim", "dpm_solver"):
        calls = timesteps_of(sampler, 40, 5)
        assert len(calls) == 5
        assert calls[0] == 40
        assert calls == sorted(set(calls), reverse=True)
        assert min(calls) >= 1
    assert timesteps_of("ddim", 40, 40) == list(range(40, 0, -1))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver"])
def test_the_generator_decides_every_draw(sampler):
    torch.manual_seed(1)
    first = draw(sampler, "x_start", 50, 5, n=10)
    torch.manual_seed(2)
    assert torch.equal(draw(sampler, "x_start", 50, 5, n=10), first)
    assert not torch.equal(draw(sampler, "x_start", 50, 5, n=10, seed=1), first)


def test_an_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="sampler must be ddpm, ddim or dpm_solver, got 'euler'"):
        draw("euler", "x_start", 50, 5, n=1)
