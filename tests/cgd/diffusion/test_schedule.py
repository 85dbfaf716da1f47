"""The forward process: Eq. 1 composed step by step, and the three prediction types as views of one thing."""

import numpy as np
import pytest
import torch

from cgd.diffusion.schedule import ForwardProcess, make_betas

SCHEDULES = ("cosine", "linear", "quadratic")
TYPES = ("x_start", "noise", "v")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n_timesteps", [2, 10, 50, 1000, 2000])
def test_betas_increase_and_the_process_ends_in_noise(schedule, n_timesteps):
    betas = make_betas(schedule, n_timesteps)
    assert betas.shape == (n_timesteps,)
    assert betas.dtype == torch.float64
    assert (betas > 0).all()
    assert (betas < 0.999 + 1e-9).all()
    rising = betas[betas < 0.999 - 1e-9]  # cosine is clipped at the end
    assert (rising.diff() > 0).all()
    assert (betas.diff() >= 0).all()
    assert len(rising) >= n_timesteps - 1 or schedule == "cosine"
    assert torch.cumprod(1 - betas, 0)[-1] < 2e-3


def test_betas_known_from_the_literature():
    linear = make_betas("linear", 1000)
    np.testing.assert_allclose([linear[0], linear[-1]], [1e-4, 0.02])
    alpha_bar = torch.cumprod(1 - make_betas("cosine", 1000), 0)
    u = np.arange(1, 900) / 1000
    expected = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alpha_bar[:899], expected, rtol=1e-9)


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="schedule must be cosine, linear or quadratic, got 'sigmoid'"):
        make_betas("sigmoid", 10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_closed_form_is_eq_1_composed(schedule):
    """q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t): mean and variance after each step."""
    process = ForwardProcess(schedule, 60, "x_start")
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(process.betas.tolist(), start=1):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        signal, spread = process.coefficients(torch.tensor(t), torch.zeros(1, dtype=torch.float64))
        assert signal.item() == pytest.approx(mean, rel=1e-9)
        assert spread.item() == pytest.approx(np.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("t", [1, 20, 60])
def test_noised_samples_have_the_moments_of_eq_1_step_by_step(t):
    n = 40_000
    process, generator = ForwardProcess("linear", 60, "x_start"), torch.Generator().manual_seed(0)
    x_start = 2 + 0.5 * torch.randn(n, 1, generator=generator)
    stepwise = x_start
    for beta in process.betas[:t].float():
        stepwise = (1 - beta).sqrt() * stepwise + beta.sqrt() * torch.randn(n, 1, generator=generator)
    at_once = process.add_noise(x_start, torch.randn(n, 1, generator=generator), torch.full((n,), t))
    assert at_once.mean().item() == pytest.approx(stepwise.mean().item(), abs=0.025)
    assert at_once.std().item() == pytest.approx(stepwise.std().item(), rel=0.02)


def test_each_token_is_noised_at_its_own_timestep():
    process, generator = ForwardProcess("cosine", 50, "x_start"), torch.Generator().manual_seed(0)
    x_start, noise = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    t = torch.randint(1, 51, (3, 4), generator=generator)
    x_t = process.add_noise(x_start, noise, t)
    for b in range(3):
        for i in range(4):
            abar = process.alpha_bar[t[b, i] - 1].item()
            expected = abar**0.5 * x_start[b, i] + (1 - abar) ** 0.5 * noise[b, i]
            torch.testing.assert_close(x_t[b, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction_type", TYPES)
def test_x_start_is_recovered_from_a_perfect_prediction_at_any_t(schedule, prediction_type):
    process, generator = ForwardProcess(schedule, 50, prediction_type), torch.Generator().manual_seed(0)
    t = torch.arange(1, 51)
    x_start, noise = (torch.randn(50, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    x_t = process.add_noise(x_start, noise, t)
    recovered = process.to_x_start(process.target(x_start, noise, t), x_t, t)
    torch.testing.assert_close(recovered, x_start, rtol=1e-6, atol=1e-6)


def test_targets_are_what_their_names_say():
    x_start, noise, t = torch.full((1, 1), 3.0), torch.full((1, 1), 5.0), torch.tensor([7])
    a, b = ForwardProcess("linear", 20, "v").coefficients(t, x_start)
    expected = {"x_start": 3.0, "noise": 5.0, "v": (a * 5 - b * 3).item()}
    for prediction_type in TYPES:
        target = ForwardProcess("linear", 20, prediction_type).target(x_start, noise, t)
        assert target.item() == pytest.approx(expected[prediction_type])


@pytest.mark.parametrize("prediction_type", TYPES)
def test_an_output_in_units_of_v_becomes_the_prediction_type(prediction_type):
    """A perfect v gives the perfect target; a silent network the best linear guess of a unit normal x_start."""
    process, generator = ForwardProcess("cosine", 50, prediction_type), torch.Generator().manual_seed(0)
    t = torch.arange(1, 51)
    x_start, noise = (torch.randn(50, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    x_t = process.add_noise(x_start, noise, t)
    v = ForwardProcess("cosine", 50, "v").target(x_start, noise, t)
    perfect = process.precondition(v, x_t, t)
    torch.testing.assert_close(perfect, process.target(x_start, noise, t))
    signal, _ = process.coefficients(t, x_t)
    silent = process.to_x_start(process.precondition(torch.zeros_like(x_t), x_t, t), x_t, t)
    torch.testing.assert_close(silent, signal * x_t, rtol=1e-6, atol=1e-6)  # E[x_start | x_t]
