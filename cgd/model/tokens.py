"""The two readings of the paper's "token", both turned into the same sequence for the CAT.

III-B c calls kappa_s "the subset of genes processed as a token" and "the subset of latent tokens". `GeneTokens` is the
first: a sequence is a panel of genes. `LatentTokens` is the second (that of the paper's public code): a sequence is one
gene's latent, cut into pieces.

Shapes: B batch, L tokens, D width, K latent width, k content per token, c condition tokens, n training genes,
m genes mixed into one token, r features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cgd.config import Config
from cgd.model.ar_steps import sample_ar_steps, step_of_token
from cgd.regression.conditional import causal_ridge, other_steps_ridge


@dataclass(frozen=True)
class GeneTable:
    """What the scRNA-seq says of a list of genes.

    Attributes
    ----------
    code
        (n, K) standardised C-latents.
    features
        (n, r) scRNA-seq features of the kernel.
    order
        (n,) score that orders gene tokens, highest first; None for a random order.
    """

    code: Tensor
    features: Tensor
    order: Tensor | None

    def select(self, index: Tensor) -> GeneTable:
        """The genes at some places (m,)."""
        return GeneTable(self.code[index], self.features[index], None if self.order is None else self.order[index])


@dataclass(frozen=True)
class TrainingTable(GeneTable):
    """Genes measured in the ST too.

    Attributes
    ----------
    z
        (n, K) standardised S-latents.
    center
        (n, K) leave-one-out ridge prediction of `z`, where sequences are centred on it.
    """

    z: Tensor
    center: Tensor | None = None


@dataclass(frozen=True)
class Sequence:
    """A batch of sequences in AR order, ready for the CAT.

    Attributes
    ----------
    content, center
        (B, L, k) what is generated, and the centre its diffusion starts from.
    scale
        (B, L, 1) or (B, L, k) expected spread of the content about the centre.
    position
        (B, L, D) position codes.
    condition
        (B, c, D) condition tokens.
    step
        (B, L) AR step of each token.
    """

    content: Tensor
    center: Tensor
    scale: Tensor
    position: Tensor
    condition: Tensor
    step: Tensor


@dataclass(frozen=True)
class BatchDraw:
    """The random choices of a batch of sequences, from which any part of it can be computed anywhere.

    Attributes
    ----------
    index, weight
        (B, L, m) genes mixed into each token and their weights; with latent tokens (B, 1, m), the same for all tokens.
    step
        (B, L) AR step of each token.
    rotation
        (B, K, K) of the S-latent of each panel, or None.
    token_order
        (B, L) order in which latent tokens are generated, or None.
    n_context
        How many tokens at the start are clean context alone and not generated.
    """

    index: Tensor
    weight: Tensor
    step: Tensor
    rotation: Tensor | None = None
    token_order: Tensor | None = None
    n_context: int = 0

    def part(self, rows: slice) -> BatchDraw:
        """The draw of some of the sequences."""
        rotation, order = self.rotation, self.token_order
        return BatchDraw(
            self.index[rows],
            self.weight[rows],
            self.step[rows],
            None if rotation is None else rotation[rows],
            None if order is None else order[rows],
            self.n_context,
        )


def random_rotations(batch: int, dim: int, generator: torch.Generator) -> Tensor:
    """(batch, dim, dim) orthogonal matrices, uniform (QR of a Gaussian with the signs fixed)."""
    q, r = torch.linalg.qr(torch.randn(batch, dim, dim, generator=generator))
    return q * torch.diagonal(r, dim1=1, dim2=2).sign()[:, None, :]


def draw_steps(batch: int, n_tokens: int, decay: float, generator: torch.Generator) -> Tensor:
    """(B, L) AR step of each token, drawn again for each sample (Algorithm 1)."""
    return torch.stack([step_of_token(sample_ar_steps(n_tokens, decay, generator)[0]) for _ in range(batch)])


def draw_mixtures(
    batch: int, n_tokens: int, size: int, n_genes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Disjoint groups of `size` genes and their weights, (B, L, m) each.

    The map from cells to spots is nearly linear, so a mixture of genes is a valid gene, and there are too many of them
    to memorise. No gene stands in two tokens of a sequence: nothing of a target is in its context. The squares of the
    weights sum to 1, which keeps the noise level of a mixture that of a gene.
    """
    order = torch.rand(batch, n_genes, generator=generator).argsort(1)
    index = order[:, : n_tokens * size].view(batch, n_tokens, size)  # (B, L, m)
    if size == 1:
        return index, torch.ones(batch, n_tokens, 1)
    weight = torch.randn(batch, n_tokens, size, generator=generator)
    return index, weight / weight.norm(dim=-1, keepdim=True)


class GeneTokens(nn.Module):
    """A sequence is a panel of genes; a gene's position code is a projection of its scRNA profile.

    The condition is `c` learned summaries of the reference: each attends over the C-latents of the training genes.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        model = config.model
        self.content_dim = model.latent_dim
        self.embed_position = nn.Linear(model.latent_dim, model.width)
        self.summary_query = nn.Parameter(torch.randn(model.n_condition_tokens, model.latent_dim) * 0.02)
        self.embed_summary = nn.Linear(model.latent_dim, model.width)

    def condition(self, code: Tensor) -> Tensor:
        """(c, D) condition tokens from the C-latents (n, K) of the training genes."""
        attention = (self.summary_query @ code.T / code.shape[1] ** 0.5).softmax(-1)  # (c, n)
        return self.embed_summary(attention @ code + self.summary_query)  # (c, D)

    def draw(self, table: TrainingTable, generator: torch.Generator) -> BatchDraw:
        """A batch of random panels of (mixtures of) training genes."""
        train, n_genes = self.config.train, len(table.z)
        largest = max(1, min(train.mixture_size, n_genes // 4))  # leaves genes for at least four tokens
        size = int(torch.randint(1, largest + 1, (1,), generator=generator))
        n_tokens = min(train.panel_size, n_genes // size)
        index, weight = draw_mixtures(train.batch_size, n_tokens, size, n_genes, generator)
        n_context = int(train.context_share * n_tokens)
        parts = [_arrange(index[:, part], weight[:, part], table.order) for part in _cut(n_context)]
        index, weight = (torch.cat(halves, 1) for halves in zip(*parts, strict=True))
        rotation = random_rotations(train.batch_size, self.content_dim, generator) if train.rotate else None
        step = draw_steps(train.batch_size, n_tokens - n_context, self.config.ar.decay, generator)
        if n_context:  # the context is the step before the first
            step = torch.cat([torch.zeros(train.batch_size, n_context, dtype=step.dtype), step + 1], 1)
        return BatchDraw(index, weight, step, rotation, n_context=n_context)

    def training_sequence(self, table: TrainingTable, ridge_lambda: float, draw: BatchDraw) -> Sequence:
        """The panels that were drawn."""
        device = table.z.device
        index, weight, step = draw.index.to(device), draw.weight.to(device), draw.step.to(device)
        content, code, features = (_mix(rows, index, weight) for rows in (table.z, table.code, table.features))
        if draw.rotation is not None:
            content = content @ draw.rotation.to(device)  # (B, L, K): the ridge rotates along, so the task is the same
        if self.config.model.center == "ridge":
            # the centre knows what the transformer may see
            center_on = causal_ridge if self.config.model.attention_mask == "causal" else other_steps_ridge
            center, variance = center_on(features, content, step, ridge_lambda)  # (B, L, K), (B, L, 1)
            scale = variance.sqrt()
        else:
            center, scale = torch.zeros_like(content), torch.ones_like(content[..., :1])
        condition = self.condition(table.code).expand(len(content), -1, -1)  # (B, c, D)
        return Sequence(content, center, scale, self.embed_position(code), condition, step)


def _cut(n: int) -> tuple[slice, slice]:
    """The first `n` places and the others."""
    return slice(n), slice(n, None)


def _mix(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(B, L, dim) weighted sums of rows (n, dim) by index and weight (B, L, m)."""
    return torch.einsum("blm,blmd->bld", weight, rows[index])


def _arrange(index: Tensor, weight: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sort the tokens of each sequence by descending score; a mixture's score is weighted by its squared weights."""
    if order is None:
        return index, weight
    score = (weight.square() * order.cpu()[index]).sum(-1)  # (B, L)
    rank = score.argsort(dim=1, descending=True, stable=True)[..., None].expand_as(index)  # (B, L, m)
    return index.gather(1, rank), weight.gather(1, rank)


class LatentTokens(nn.Module):
    """A sequence is one gene's latent cut into L = K / token_dim tokens; the condition is its C-latent."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        model = config.model
        self.content_dim = model.token_dim
        self.n_tokens = model.latent_dim // model.token_dim
        self.n_condition = model.n_condition_tokens
        self.embed_index = nn.Embedding(self.n_tokens, model.width)
        self.embed_condition = nn.Linear(model.latent_dim, model.n_condition_tokens * model.width)

    def condition(self, code: Tensor) -> Tensor:
        """(B, c, D) condition tokens from C-latents (B, K)."""
        return self.embed_condition(code).view(len(code), self.n_condition, -1)  # (B, c, D)

    def token_order(self, batch: int, generator: torch.Generator) -> Tensor:
        """(B, L) order in which the tokens are generated; the leading latent dimensions first under `variance`."""
        if self.config.ar.token_order == "variance":
            return torch.arange(self.n_tokens).expand(batch, -1)
        return torch.rand(batch, self.n_tokens, generator=generator).argsort(1)

    def split(self, latent: Tensor, order: Tensor) -> Tensor:
        """(B, K) latents -> (B, L, k) tokens in the given order."""
        tokens = latent.view(len(latent), self.n_tokens, self.content_dim)  # (B, L, k)
        return tokens.gather(1, order[..., None].expand_as(tokens))  # (B, L, k)

    def join(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Undo `split`: (B, L, k) -> (B, K)."""
        natural = torch.empty_like(tokens).scatter(1, order[..., None].expand_as(tokens), tokens)
        return natural.flatten(1)

    def draw(self, table: TrainingTable, generator: torch.Generator) -> BatchDraw:
        """A batch of random (mixtures of) training genes."""
        train, n_genes = self.config.train, len(table.z)
        size = int(torch.randint(1, min(train.mixture_size, n_genes) + 1, (1,), generator=generator))
        index, weight = draw_mixtures(train.batch_size, 1, size, n_genes, generator)
        order = self.token_order(train.batch_size, generator)
        step = draw_steps(train.batch_size, self.n_tokens, self.config.ar.decay, generator)
        return BatchDraw(index, weight, step, token_order=order)

    def training_sequence(self, table: TrainingTable, ridge_lambda: float, draw: BatchDraw) -> Sequence:
        """The genes that were drawn.

        The permutation of the tokens needs no undoing before the loss: content, centre and position codes are permuted
        alike and the loss is a mean over tokens.
        """
        assert draw.token_order is not None
        device = table.z.device
        index, weight = draw.index.squeeze(1).to(device), draw.weight.squeeze(1).to(device)
        rows = (table.z, table.code, torch.zeros_like(table.z) if table.center is None else table.center)
        z, code, center = (torch.einsum("bm,bmd->bd", weight, row[index]) for row in rows)  # (B, K) each
        order = draw.token_order.to(device)
        return Sequence(
            self.split(z, order),
            self.split(center, order),
            torch.ones_like(z[:, :1, None]),
            self.embed_index(order),
            self.condition(code),
            draw.step.to(device),
        )
