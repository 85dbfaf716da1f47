"""The whole network: autoencoder, tokens and CAT, and its training loss.

Shapes: B sequences, L tokens, D width, K latent, k content per token, n training genes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from cgd.config import Config
from cgd.diffusion.schedule import ForwardProcess, TimestepSampler
from cgd.model.ar_steps import step_weights
from cgd.model.autoencoder import TwoHeadedAutoencoder
from cgd.model.cat import CAT, NoisyTokens, Prefix
from cgd.model.tokens import BatchDraw, GeneTokens, LatentTokens, TrainingTable


@dataclass(frozen=True)
class LossDraw:
    """All that is random in the diffusion loss of a batch, and the weight of its tokens.

    Of sequences that begin with context, L counts the tokens after it.

    Attributes
    ----------
    batch
        The sequences.
    weight
        (B, L) loss weight of each token.
    total_weight
        Sum of the whole batch's weights: the losses of its parts add up to that of the batch.
    dropped
        (B,) whose condition is replaced by the blank, or None.
    noise
        Timesteps (B, L) and noise (B, L, k), as often as timesteps are drawn for each AR step.
    """

    batch: BatchDraw
    weight: Tensor
    total_weight: Tensor
    dropped: Tensor | None
    noise: tuple[tuple[Tensor, Tensor], ...]

    def part(self, rows: slice) -> LossDraw:
        """The draw of some of the sequences."""
        dropped = None if self.dropped is None else self.dropped[rows]
        noise = tuple((t[rows], noise[rows]) for t, noise in self.noise)
        return LossDraw(self.batch.part(rows), self.weight[rows], self.total_weight, dropped, noise)


class Network(nn.Module):
    """CausalGeD's network.

    Parameters
    ----------
    config
        The whole configuration.
    n_spots, n_cells
        Sizes of the two heads.
    """

    z_shift: Tensor
    z_scale: Tensor
    code_shift: Tensor
    code_scale: Tensor

    def __init__(self, config: Config, n_spots: int, n_cells: int) -> None:
        super().__init__()
        self.config = config
        model, diffusion = config.model, config.diffusion
        self.autoencoder = TwoHeadedAutoencoder(model, n_spots, n_cells)
        self.tokens: GeneTokens | LatentTokens = GeneTokens(config) if model.tokens == "gene" else LatentTokens(config)
        self.cat = CAT(model, self.tokens.content_dim, config.runtime.attention, config.train.precision)
        self.process = ForwardProcess(diffusion.schedule, diffusion.n_timesteps, diffusion.prediction_type)
        self.timesteps = TimestepSampler(diffusion.timestep_sampling, diffusion.per_step, diffusion.n_timesteps)
        blank = torch.zeros(model.n_condition_tokens, model.width)
        self.blank = nn.Parameter(blank) if config.train.condition_drop else None
        for name in ("z", "code"):
            self.register_buffer(f"{name}_shift", torch.zeros(model.latent_dim))
            self.register_buffer(f"{name}_scale", torch.ones(model.latent_dim))

    @torch.no_grad()
    def fit_scales(self, z: Tensor, code: Tensor, residual: Tensor | None = None) -> None:
        """Store shift and scale of raw latents of the training genes, so that their variance is that of the noise.

        Parameters
        ----------
        z, code
            (n, K) raw S-latents and C-latents.
        residual
            (n, K) errors of `z` about the centre, for `latent_scaling = residual`; without a centre `z` is its own.
        """
        self.z_shift.copy_(z.mean(0))
        scaling = self.config.model.latent_scaling
        if scaling == "residual" and residual is not None:
            self.z_scale.copy_(residual.square().mean(0).sqrt().clamp_min(1e-5))
        else:
            self.z_scale.copy_(_measure_spread(z, per_dim=scaling != "global"))
        self.code_shift.copy_(code.mean(0))
        self.code_scale.copy_(_measure_spread(code, per_dim=True))

    def encode_code(self, x: Tensor) -> Tensor:
        """Standardised C-latents (n, K) of scRNA-seq expression (n, C)."""
        return (self.autoencoder.encode_sc(x)[0] - self.code_shift) / self.code_scale  # the mean: a code is not sampled

    def standardise(self, z: Tensor) -> Tensor:
        """Standardised latents of raw ones, (n, K) each."""
        return (z - self.z_shift) / self.z_scale

    def decode(self, z: Tensor) -> Tensor:
        """(..., S) expression of standardised latents (..., K)."""
        return self.autoencoder.decode(z * self.z_scale + self.z_shift)

    def draw(self, table: TrainingTable, generators: dict[str, torch.Generator]) -> LossDraw:
        """Draw a batch, its timesteps and its noise."""
        train, diffusion = self.config.train, self.config.diffusion
        batch = self.tokens.draw(table, generators["batch"])
        step = batch.step[:, batch.n_context :] - int(batch.n_context > 0)  # counted from 0 after the context
        weight = step_weights(step, self.config.ar.max_weight, self.config.ar.min_weight)
        dropped = None
        if self.blank is not None:
            dropped = torch.rand(len(batch.step), generator=generators["condition"]) < train.condition_drop
        shape = (*step.shape, self.tokens.content_dim)
        noise = tuple(
            (
                self.timesteps.sample(step, weight, generators["timestep"]),
                torch.randn(shape, generator=generators["noise"]),
            )
            for _ in range(diffusion.timesteps_per_step)
        )
        return LossDraw(batch, weight, weight.sum(), dropped, noise)

    def diffusion_loss(self, table: TrainingTable, ridge_lambda: float, draw: LossDraw) -> Tensor:
        """Weighted mean squared error of the predicted diffusion target; of a part of a batch, its part of that."""
        sequence = self.tokens.training_sequence(table, ridge_lambda, draw.batch)
        device = sequence.content.device
        condition = sequence.condition
        if draw.dropped is not None and self.blank is not None:
            condition = torch.where(draw.dropped.to(device)[:, None, None], self.blank, condition)  # (B, c, D)
        prefix = self._make_prefix(sequence.content, sequence.position, condition, sequence.step)
        generated = slice(draw.batch.n_context, None)
        # without detaching, a jointly trained encoder could shrink its own target
        x_start = ((sequence.content - sequence.center) / sequence.scale).detach()[:, generated]  # (B, L, k)
        center, position, step = (x[:, generated] for x in (sequence.center.detach(), sequence.position, sequence.step))
        weight, total = (draw.weight / draw.total_weight).to(device), x_start.new_zeros(())
        for t, noise in ((t.to(device), noise.to(device)) for t, noise in draw.noise):
            x_t = self.process.add_noise(x_start, noise, t)  # (B, L, k)
            predicted = self.predict(prefix, NoisyTokens(x_t, t, center, position, step))
            error = (predicted - self.process.target(x_start, noise, t)).square().mean(-1)  # (B, L)
            total = total + (weight * error).sum()
        return total / len(draw.noise)

    def _make_prefix(self, content: Tensor, position: Tensor, condition: Tensor, step: Tensor) -> Prefix:
        """Condition and clean tokens: those of every step that a later one may look at, under the full mask of all."""
        n_clean = step.shape[1]
        if self.config.model.attention_mask == "causal":
            n_clean -= int((step == step[:, -1:]).sum(1).min())  # the last step is clean for nobody
        prefix = self.cat.start(condition)
        if n_clean == 0:
            return prefix
        return self.cat.extend(prefix, content[:, :n_clean], position[:, :n_clean], step[:, :n_clean])

    # ---- generation -------------------------------------------------------------------------------------------------

    @property
    def _is_guided(self) -> bool:
        return self.config.sampling.guidance != 1

    def start(self, condition: Tensor) -> Prefix:
        """Prefix of the (B, c, D) condition tokens; with guidance that of B blanks follows in the same batch."""
        if self._is_guided and self.blank is not None:
            condition = torch.cat([condition, self.blank.expand_as(condition)])
        return self.cat.start(condition)

    def extend(self, prefix: Prefix, content: Tensor, position: Tensor, step: Tensor) -> Prefix:
        """A prefix of `start`, followed by clean tokens."""
        return self.cat.extend(prefix, self._double(content), self._double(position), self._double(step))

    def predict_guided(self, prefix: Prefix, tokens: NoisyTokens) -> Tensor:
        """`predict` with classifier-free guidance: from the prediction without the condition through that with it."""
        if not self._is_guided:
            return self.predict(prefix, tokens)
        doubled = NoisyTokens(*(self._double(getattr(tokens, field.name)) for field in fields(tokens)))
        with_condition, without = self.predict(prefix, doubled).chunk(2)  # (B, L, k) each, in the order of `start`
        return without + self.config.sampling.guidance * (with_condition - without)

    def _double(self, tokens: Tensor) -> Tensor:
        return torch.cat([tokens, tokens]) if self._is_guided else tokens

    def predict(self, prefix: Prefix, tokens: NoisyTokens) -> Tensor:
        """Predicted diffusion target (B, L, k): the best linear one for a unit normal x_start, corrected by the CAT.

        The CAT sees x_t through the linear estimate of x_start, which fades as t nears T: what it says there depends on
        the context alone and not on the noise that was drawn.
        """
        signal, _ = self.process.coefficients(tokens.t, tokens.x_t)  # (B, L, 1)
        share = tokens.t.float() / self.config.diffusion.n_timesteps  # (B, L)
        output = self.cat.denoise(prefix, replace(tokens, x_t=signal * tokens.x_t, t=share))  # (B, L, k)
        return self.process.precondition(output, tokens.x_t, tokens.t)  # (B, L, k)


def _measure_spread(x: Tensor, per_dim: bool) -> Tensor:
    """Standard deviation of each column, or one for all; columns that do not vary are left as they are."""
    variance = x.var(0, correction=0)
    if not per_dim:
        variance = variance.mean().expand_as(variance)
    return torch.where(variance > 1e-10, variance, torch.ones_like(variance)).sqrt()
