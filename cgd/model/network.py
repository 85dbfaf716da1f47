"""The whole network: autoencoder, tokens and CAT, its training loss and its reverse process.

Shapes: B sequences, L tokens, K latent, k content per token, n training genes, M target genes, E ensemble members.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgd.config import Config
from cgd.diffusion.sampler import sample
from cgd.diffusion.schedule import ForwardProcess
from cgd.diffusion.timesteps import TimestepSampler
from cgd.model.ar_steps import step_weights
from cgd.model.autoencoder import TwoHeadedAutoencoder
from cgd.model.cat import CAT, Prefix
from cgd.model.ridge import ridge_predict
from cgd.model.tokens import GeneTable, GeneTokens, LatentTokens, random_rotations
from cgd.random import make_generator


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
        self.tokens: GeneTokens | LatentTokens = (
            GeneTokens(config) if model.tokens == "gene" else LatentTokens(config)
        )
        self.cat = CAT(model, self.tokens.content_dim, config.runtime.attention)
        self.process = ForwardProcess(diffusion.schedule, diffusion.n_timesteps, diffusion.prediction_type)
        self.timesteps = TimestepSampler(diffusion.timestep_sampling, diffusion.per_step, diffusion.n_timesteps)
        for name in ("z", "code"):
            self.register_buffer(f"{name}_shift", torch.zeros(model.latent_dim))
            self.register_buffer(f"{name}_scale", torch.ones(model.latent_dim))

    @torch.no_grad()
    def standardise(self, z: Tensor, code: Tensor) -> None:
        """Store shift and scale of raw latents of the training genes, so that their variance is that of the noise."""
        self.z_shift.copy_(z.mean(0))
        self.z_scale.copy_(_scale(z, self.config.model.latent_scaling == "per_dim"))
        self.code_shift.copy_(code.mean(0))
        self.code_scale.copy_(_scale(code, per_dim=True))

    def encode_st(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw mean and log-variance (n, K) of ST expression (n, S)."""
        return self.autoencoder.encode_st(x)

    def encode_code(self, x: Tensor) -> Tensor:
        """Standardised C-latents (n, K) of scRNA-seq expression (n, C)."""
        return (self.autoencoder.encode_sc(x)[0] - self.code_shift) / self.code_scale

    def to_standard(self, z: Tensor) -> Tensor:
        return (z - self.z_shift) / self.z_scale

    def decode(self, z: Tensor) -> Tensor:
        """(..., S) expression of standardised latents (..., K)."""
        return self.autoencoder.decode(z * self.z_scale + self.z_shift)

    # ---- training ---------------------------------------------------------------------------------------------------

    def diffusion_loss(self, table: GeneTable, ridge_lambda: float, generators: dict[str, torch.Generator]) -> Tensor:
        """Weighted mean squared error of the predicted diffusion target over a batch of sequences."""
        sequence = self.tokens.training_sequence(table, ridge_lambda, generators["batch"])
        prefix = self._clean_prefix(sequence.content, sequence.position, sequence.condition, sequence.step)
        weight = step_weights(sequence.step, self.config.ar.max_weight, self.config.ar.min_weight)
        # without detaching, a jointly trained encoder could shrink its own target
        x_start = (sequence.content - sequence.center).detach()
        center = sequence.center.detach()
        total = x_start.new_zeros(())
        for _ in range(self.config.diffusion.timesteps_per_step):
            t = self.timesteps.sample(sequence.step, weight, generators["timestep"])
            noise = torch.randn(x_start.shape, generator=generators["noise"]).to(x_start.device)
            x_t = self.process.add_noise(x_start, noise, t)
            predicted = self.cat.denoise(prefix, x_t, center, sequence.position, sequence.step, self._unit(t))
            error = (predicted - self.process.target(x_start, noise, t)).square().mean(-1)
            total = total + (weight * error).sum() / weight.sum()
        return total / self.config.diffusion.timesteps_per_step

    def _clean_prefix(self, content: Tensor, position: Tensor, condition: Tensor, step: Tensor) -> Prefix:
        """Condition and clean tokens; the clean part ends where the longest of the last steps begins."""
        last_size = (step == step[:, -1:]).sum(1)
        n_clean = int((step.shape[1] - last_size).max())
        prefix = self.cat.start(condition)
        if n_clean == 0:
            return prefix
        return self.cat.extend(prefix, content[:, :n_clean], position[:, :n_clean], step[:, :n_clean])

    def autoencoder_loss(self, x_st: Tensor, x_sc: Tensor, generator: torch.Generator) -> Tensor:
        return self.autoencoder.loss(x_st, x_sc, self.config.train.kl_weight, generator)

    def _unit(self, t: Tensor) -> Tensor:
        return t.float() / self.config.diffusion.n_timesteps

    # ---- prediction -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self, context: GeneTable, targets: GeneTable, ridge_lambda: float, seed: int, n: int, draw: bool
    ) -> Tensor:
        """(n, M, K) standardised latents of the target genes.

        Parameters
        ----------
        context
            The training genes: with gene tokens they are the clean tokens; with latent tokens they serve the centre.
        targets
            The genes to predict; their `z` and `center` are not read.
        n
            Independent draws, or members of the ensemble whose mean is the posterior mean.
        draw
            True: run the reverse process. False: the network's x_start from pure noise at t = T.
        """
        members = []
        for member in range(n):
            # a stream per member: the first members are the same however many are asked for
            generator = make_generator(seed, "generate", str(draw), member)
            members.append(self._generate_one(context, targets, ridge_lambda, generator, draw))
        return torch.stack(members)

    def _generate_one(
        self, context: GeneTable, targets: GeneTable, ridge_lambda: float, generator: torch.Generator, draw: bool
    ) -> Tensor:
        if isinstance(self.tokens, LatentTokens):
            return self._generate_latent(self.tokens, context, targets, ridge_lambda, generator, draw)
        return self._generate_panel(self.tokens, context, targets, ridge_lambda, generator, draw)

    def _generate_panel(
        self, tokens: GeneTokens, context: GeneTable, targets: GeneTable, ridge_lambda: float,
        generator: torch.Generator, draw: bool,
    ) -> Tensor:  # fmt: skip
        """Measured genes are the clean context; the targets follow in groups of at most `panel_size`."""
        dim = tokens.content_dim
        rotation = torch.eye(dim)
        if self.config.train.rotate:
            rotation = random_rotations(1, dim, generator)[0]
        rotation = rotation.to(context.z.device)
        known = (context.z @ rotation)[None]
        step = torch.zeros(1, len(context.z), dtype=torch.long, device=known.device)
        prefix = self.cat.start(tokens.condition(context.code)[None])
        prefix = self.cat.extend(prefix, known, tokens.embed_position(context.code)[None], step)
        order = torch.arange(len(targets.code))
        if targets.order is not None:
            order = targets.order.argsort(descending=True).cpu()
        result = known.new_empty(len(order), dim)
        for group in order.split(self.config.train.panel_size):
            result[group] = self._generate_group(tokens, prefix, known, context, targets, group, ridge_lambda, generator, draw)
        return result @ rotation.T

    def _generate_group(
        self, tokens: GeneTokens, prefix: Prefix, known: Tensor, context: GeneTable, targets: GeneTable, group: Tensor,
        ridge_lambda: float, generator: torch.Generator, draw: bool,
    ) -> Tensor:  # fmt: skip
        features, parts = context.features, []
        for i, part in enumerate(group.tensor_split(min(self.config.sampling.n_ar_steps, len(group)))):
            position = tokens.embed_position(targets.code[part])[None]
            step = torch.full((1, len(part)), i + 1, device=known.device)
            center = torch.zeros(1, len(part), known.shape[-1], device=known.device)
            if self.config.model.center == "ridge":
                center = ridge_predict(features, known, targets.features[part], ridge_lambda)
            x = center + self._reverse(prefix, center, position, step, generator, draw)
            parts.append(x[0])
            prefix = self.cat.extend(prefix, x, position, step)
            known, features = torch.cat([known, x], 1), torch.cat([features, targets.features[part]])
        return torch.cat(parts)

    def _generate_latent(
        self, tokens: LatentTokens, context: GeneTable, targets: GeneTable, ridge_lambda: float,
        generator: torch.Generator, draw: bool,
    ) -> Tensor:  # fmt: skip
        """One sequence per target gene: its tokens are generated in AR steps, conditioned on its C-latent."""
        n = len(targets.code)
        center = torch.zeros(n, self.config.model.latent_dim, device=targets.code.device)
        if self.config.model.center == "ridge":
            center = ridge_predict(context.features, context.z[None], targets.features, ridge_lambda)[0]
        order = tokens.token_order(n, generator).to(center.device)
        split_center, position = tokens.split(center, order), tokens.embed_index(order)
        prefix, parts = self.cat.start(tokens.condition(targets.code)), []
        pieces = torch.arange(tokens.n_tokens).tensor_split(min(self.config.sampling.n_ar_steps, tokens.n_tokens))
        for i, part in enumerate(pieces):
            step = torch.full((n, len(part)), i, device=center.device)
            x = split_center[:, part] + self._reverse(prefix, split_center[:, part], position[:, part], step, generator, draw)
            parts.append(x)
            prefix = self.cat.extend(prefix, x, position[:, part], step)
        return tokens.join(torch.cat(parts, 1), order)

    def _reverse(
        self, prefix: Prefix, center: Tensor, position: Tensor, step: Tensor, generator: torch.Generator, draw: bool
    ) -> Tensor:
        """x_start (B, L, k) about `center`, by the reverse process or in one step from pure noise."""

        def denoise(x: Tensor, t: int) -> Tensor:
            unit = self._unit(torch.full(step.shape, t, device=step.device))
            return self.cat.denoise(prefix, x.to(center.device), center, position, step, unit).to(x.device)

        sampling, last = self.config.sampling, self.config.diffusion.n_timesteps
        if draw:
            x = sample(denoise, tuple(center.shape), self.process, sampling.sampler, sampling.n_steps, generator)
        else:
            noise = torch.randn(center.shape, generator=generator)
            x = self.process.to_x_start(denoise(noise, last), noise, torch.full(step.shape, last))
        return x.to(center.device)


def _scale(x: Tensor, per_dim: bool) -> Tensor:
    """Standard deviation of each column, or one for all; columns that do not vary are left as they are."""
    variance = x.var(0, correction=0)
    if not per_dim:
        variance = variance.mean().expand_as(variance)
    return torch.where(variance > 1e-10, variance, torch.ones_like(variance)).sqrt()
