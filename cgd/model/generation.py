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
from cgd.regression.conditional import find_weights, predict_from_context


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
        self.is_centred = network.config.model.center == "ridge"

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
    """Measured genes are the clean context; the targets follow in `n_ar_steps` AR steps, or in as many as keep each at
    no more than `panel_size` genes. Every step sees what was drawn in the steps before it."""

    def __init__(
        self, network: Network, context: TrainingTable, targets: GeneTable, ridge_lambda: float, draw: bool
    ) -> None:
        super().__init__(network, context, targets, ridge_lambda, draw)
        config, n = network.config, len(targets.code)
        order = torch.arange(n)
        if targets.order is not None:
            order = targets.order.argsort(descending=True, stable=True).cpu()
        n_steps = min(n, max(config.sampling.n_ar_steps, -(-n // config.train.panel_size)))
        self.steps = order.tensor_split(n_steps)
        self.regressions = [self._regress(step) for step in range(n_steps)]

    def _regress(self, step: int) -> tuple[Tensor, Tensor] | None:
        """What a step's centre is in the latents of all genes before it, and the spread (1, m, 1) about it."""
        if not self.is_centred:
            return None
        before = torch.cat([self.context.features, *(self.targets.features[part] for part in self.steps[:step])])
        weights, variance = find_weights(before, self.targets.features[self.steps[step]], self.ridge_lambda)
        return weights.to(self.context.z.dtype), variance.sqrt()[None].to(self.context.z.dtype)

    def generate_member(self, generator: torch.Generator) -> Tensor:
        tokens, context, targets = self.network.tokens, self.context, self.targets
        assert isinstance(tokens, GeneTokens)
        rotation = torch.eye(tokens.content_dim)
        if self.network.config.train.rotate:
            rotation = random_rotations(1, tokens.content_dim, generator)[0]  # as in training: each member sees its own
        rotation = rotation.to(context.z.device)
        known = (context.z @ rotation)[None]  # (1, n, K), and what is drawn
        step = torch.zeros(1, len(context.z), dtype=torch.long, device=known.device)
        prefix = self.network.start(tokens.condition(context.code)[None])
        prefix = self.network.extend(prefix, known, tokens.embed_position(context.code)[None], step)
        result = known.new_empty(len(targets.code), tokens.content_dim)
        for i, part in enumerate(self.steps):
            position = tokens.embed_position(targets.code[part])[None]
            step = torch.full((1, len(part)), i + 1, device=known.device)
            center, scale = self._find_center(i, known)
            x = center + scale * self._reverse(prefix, center, position, step, generator)  # (1, part, K)
            result[part] = x[0]
            if i + 1 < len(self.steps):
                prefix = self.network.extend(prefix, x, position, step)
                known = torch.cat([known, x], 1)
        return result @ rotation.T  # (M, K), turned back

    def _find_center(self, step: int, known: Tensor) -> tuple[Tensor, Tensor]:
        """Centre (1, m, K) of a step's genes and the spread of the latents about it."""
        regression = self.regressions[step]
        if regression is None:
            n = len(self.steps[step])
            return known.new_zeros(1, n, known.shape[-1]), known.new_ones(1, n, 1)
        weights, scale = regression
        return torch.einsum("nm,bnk->bmk", weights, known), scale


class _LatentGeneration(_Generation):
    """One sequence per target gene: its tokens are generated in AR steps, conditioned on its C-latent."""

    def __init__(
        self, network: Network, context: TrainingTable, targets: GeneTable, ridge_lambda: float, draw: bool
    ) -> None:
        super().__init__(network, context, targets, ridge_lambda, draw)
        self.center = context.z.new_zeros(len(targets.code), context.z.shape[1])  # (M, K)
        if self.is_centred:
            self.center = predict_from_context(context.features, context.z[None], targets.features, ridge_lambda)[0][0]

    def generate_member(self, generator: torch.Generator) -> Tensor:
        tokens, n = self.network.tokens, len(self.targets.code)
        assert isinstance(tokens, LatentTokens)
        order = tokens.token_order(n, generator).to(self.center.device)
        centers, position = tokens.split(self.center, order), tokens.embed_index(order)
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
