"""Generating the latents of target genes: AR steps around the reverse process.

The condition, the clean context and the ridge centre are computed once and serve every timestep, and the centre every
member of an ensemble.

Shapes: n context genes, M target genes, L tokens, K latent, k content per token, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cgd.diffusion.sampler import sample
from cgd.model.cat import NoisyTokens, Prefix
from cgd.model.network import Network
from cgd.model.tokens import GeneTable, GeneTokens, LatentTokens, TrainingTable, random_rotations
from cgd.parallel import ALONE, Parallel
from cgd.random import make_generator
from cgd.regression.conditional import predict_from_context


@torch.no_grad()
def generate(
    network: Network,
    context: TrainingTable,
    targets: GeneTable,
    ridge_lambda: float,
    seed: int,
    n: int,
    draw: bool,
    parallel: Parallel = ALONE,
) -> Tensor:
    """(n, M, K) standardised latents of the target genes.

    Parameters
    ----------
    context
        The training genes: with gene tokens they are the clean tokens; with latent tokens they serve the centre.
    targets
        The genes to predict.
    seed
        Root seed. Each member has its own stream: the first members are the same however many are asked for.
    n
        Independent draws, or members of the ensemble whose mean is the posterior mean.
    draw
        True: run the reverse process. False: the network's x_start from pure noise at t = T.
    parallel
        The processes that share the members out among themselves; each has all of them in the end.
    """
    kind = _PanelGeneration if isinstance(network.tokens, GeneTokens) else _LatentGeneration
    generation = kind(network, context, targets, ridge_lambda, draw)
    own = range(n)[parallel.share(n)]
    members = torch.zeros(n, len(targets.code), context.z.shape[1], device=context.z.device)
    for i in own:
        members[i] = generation.generate_member(make_generator(seed, "generate", str(draw), i))
    parallel.add_up([members])
    return members


class _Generation:
    """What the members of an ensemble share."""

    def __init__(
        self, network: Network, context: TrainingTable, targets: GeneTable, ridge_lambda: float, draw: bool
    ) -> None:
        self.network, self.context, self.targets = network, context, targets
        self.ridge_lambda, self.draw = ridge_lambda, draw
        self.center, self.scale = self._find_center(context.features, context.z[None], targets.features)

    def _find_center(self, features: Tensor, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Centre (1, M, K) of the targets and the spread (1, M, 1) of the latents about it."""
        if self.network.config.model.center == "none":
            return z.new_zeros(1, len(targets), z.shape[-1]), z.new_ones(1, len(targets), 1)
        center, variance = predict_from_context(features, z, targets, self.ridge_lambda)
        return center, variance.sqrt()[None]  # (1, M, K), (1, M, 1)

    def _reverse(
        self, prefix: Prefix, center: Tensor, position: Tensor, step: Tensor, generator: torch.Generator
    ) -> Tensor:
        """x_start (B, L, k) about `center`, by the reverse process or in one step from pure noise."""
        network, sampling = self.network, self.network.config.sampling

        def denoise(x: Tensor, t: int) -> Tensor:
            timestep = torch.full(step.shape, t, device=step.device)
            tokens = NoisyTokens(x.to(center.device), timestep, center, position, step)
            return network.predict_guided(prefix, tokens).to(x.device)  # noise is drawn on the CPU, whatever the device

        if self.draw:
            shape = tuple(center.shape)
            x = sample(denoise, shape, network.process, sampling.sampler, sampling.n_steps, generator)
        else:
            noise, last = torch.randn(center.shape, generator=generator), network.process.n_timesteps  # (B, L, k)
            x = network.process.to_x_start(denoise(noise, last), noise, torch.full(step.shape, last))
        return x.to(center.device)


class _PanelGeneration(_Generation):
    """Measured genes are the clean context; the targets follow in groups of at most `panel_size`."""

    def generate_member(self, generator: torch.Generator) -> Tensor:
        tokens, context, config = self._tokens(), self.context, self.network.config
        rotation = torch.eye(tokens.content_dim)
        if config.train.rotate:
            rotation = random_rotations(1, tokens.content_dim, generator)[0]  # as in training: each member sees its own
        rotation = rotation.to(context.z.device)
        known = (context.z @ rotation)[None]  # (1, n, K)
        step = torch.zeros(1, len(context.z), dtype=torch.long, device=known.device)
        prefix = self.network.start(tokens.condition(context.code)[None])
        prefix = self.network.extend(prefix, known, tokens.embed_position(context.code)[None], step)
        order = torch.arange(len(self.targets.code))
        if self.targets.order is not None:
            order = self.targets.order.argsort(descending=True, stable=True).cpu()
        result = known.new_empty(len(order), tokens.content_dim)
        for group in order.split(config.train.panel_size):
            result[group] = self._generate_group(prefix, known, group, rotation, generator)
        return result @ rotation.T  # (M, K), turned back

    def _generate_group(
        self, prefix: Prefix, known: Tensor, group: Tensor, rotation: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Rotated latents of a group of targets, generated in `n_ar_steps` AR steps."""
        tokens, targets, features = self._tokens(), self.targets, self.context.features
        pieces = group.tensor_split(min(self.network.config.sampling.n_ar_steps, len(group)))
        parts: list[Tensor] = []
        for i, part in enumerate(pieces):
            position = tokens.embed_position(targets.code[part])[None]
            step = torch.full((1, len(part)), i + 1, device=known.device)
            if i == 0:
                center, scale = self.center[:, part] @ rotation, self.scale[:, part]
            else:  # the genes generated so far are context now
                done = group[: sum(map(len, pieces[:i]))]
                grown = torch.cat([features, targets.features[done]])
                center, scale = self._find_center(
                    grown, torch.cat([known, *(p[None] for p in parts)], 1), targets.features[part]
                )
            x = center + scale * self._reverse(prefix, center, position, step, generator)  # (1, part, K)
            parts.append(x[0])
            if i + 1 < len(pieces):
                prefix = self.network.extend(prefix, x, position, step)
        return torch.cat(parts)

    def _tokens(self) -> GeneTokens:
        assert isinstance(self.network.tokens, GeneTokens)
        return self.network.tokens


class _LatentGeneration(_Generation):
    """One sequence per target gene: its tokens are generated in AR steps, conditioned on its C-latent."""

    def generate_member(self, generator: torch.Generator) -> Tensor:
        tokens, n = self.network.tokens, len(self.targets.code)
        assert isinstance(tokens, LatentTokens)
        order = tokens.token_order(n, generator).to(self.center.device)
        centers, position = tokens.split(self.center[0], order), tokens.embed_index(order)
        prefix = self.network.start(tokens.condition(self.targets.code))
        n_steps = min(self.network.config.sampling.n_ar_steps, tokens.n_tokens)
        pieces, parts = torch.arange(tokens.n_tokens).tensor_split(n_steps), []
        for i, part in enumerate(pieces):
            step = torch.full((n, len(part)), i, device=centers.device)
            x = centers[:, part] + self._reverse(
                prefix, centers[:, part], position[:, part], step, generator
            )  # (M, ., k)
            parts.append(x)
            if i + 1 < len(pieces):
                prefix = self.network.extend(prefix, x, position[:, part], step)
        return tokens.join(torch.cat(parts, 1), order)
