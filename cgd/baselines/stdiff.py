"""stDiff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cgd.baselines.fitting import build, minimise
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.diffusion.sampler import sample
from cgd.diffusion.schedule import ForwardProcess
from cgd.model.dit import DiTBlock, FinalLayer, TimeEmbedding
from cgd.random import make_generator


class CellDenoiser(nn.Module):
    """Predicts the noise of a set of cells; the cells are the tokens, so a prediction depends on its batch-mates."""

    def __init__(self, n_genes: int, width: int, depth: int, n_heads: int, n_timesteps: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_genes, width)
        self.embed_condition = nn.Linear(n_genes, width)
        self.embed_time = TimeEmbedding(width, n_timesteps)
        self.blocks = nn.ModuleList(DiTBlock(width, n_heads) for _ in range(depth))
        self.final = FinalLayer(width, n_genes)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, n_genes) of noisy cells (B, n_genes), timesteps (B,) and masked cells (B, n_genes)."""
        c = (self.embed_time(t) + self.embed_condition(condition))[None]
        tokens = self.embed(x)[None]
        for block in self.blocks:
            tokens = block(tokens, c)
        return self.final(tokens, c)[0]


@dataclass
class StDiff:
    width: int = 128
    depth: int = 2
    n_heads: int = 4
    n_timesteps: int = 1500
    n_steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    sampler: str = "ddim"
    n_sampling_steps: int = 25
    added_count: float = 10.0

    def fit(self, visible: VisiblePair, seed: int) -> None:
        self._visible, self._seed = visible, seed
        trained = set(visible.train_genes)
        self._known = torch.tensor([gene in trained for gene in visible.genes])
        cells = torch.from_numpy(self._scaled_cells(visible))
        shape = (self.width, self.depth, self.n_heads, self.n_timesteps)
        self._network = build(lambda: CellDenoiser(len(visible.genes), *shape), seed)
        self._process = ForwardProcess("cosine", self.n_timesteps, "noise")
        generators = {name: make_generator(seed, "stdiff", name) for name in ("batch", "timestep", "noise")}
        self.losses = minimise(
            self._network, lambda: self._loss(cells, generators), self.n_steps, self.learning_rate, "stDiff"
        )

    def _scaled_cells(self, visible: VisiblePair) -> FloatArray:
        counts = visible.sc_counts(list(visible.genes)).T
        both = np.concatenate([counts, counts + self.added_count])
        totals = np.maximum(both.sum(1, keepdims=True), 1e-6)
        both = np.log1p(both / totals * np.median(totals[: len(counts)]))
        return (both / np.maximum(both.max(1, keepdims=True), 1e-6) * 2 - 1).astype(np.float32)

    def _loss(self, cells: Tensor, generators: dict[str, torch.Generator]) -> Tensor:
        # without replacement: the attention would find the values of a cell in its duplicate
        x_start = cells[torch.randperm(len(cells), generator=generators["batch"])[: self.batch_size]]
        t = torch.randint(1, self.n_timesteps + 1, (len(x_start),), generator=generators["timestep"])
        noise = torch.randn(x_start.shape, generator=generators["noise"])
        x_t = self._process.add_noise(x_start, noise, t)
        predicted = self._predict_noise(x_t, t, x_start)
        return (predicted - noise)[:, ~self._known].square().mean()

    def _predict_noise(self, x_t: Tensor, t: Tensor, values: Tensor) -> Tensor:
        x = torch.where(self._known, values, x_t)
        condition = torch.where(self._known, values, -1.0)
        return self._process.precondition(self._network(x, t, condition), x_t, t)

    def predict(self, genes: Sequence[str]) -> FloatArray:
        spots, largest = self._scaled_spots()
        noise = make_generator(self._seed, "stdiff", "sample")
        with torch.inference_mode():
            drawn = torch.cat([self._draw(batch, noise) for batch in spots.split(self.batch_size)])
        expression = ((drawn.clamp(-1, 1) + 1) / 2 * largest).T.numpy()
        position = {gene: i for i, gene in enumerate(self._visible.genes)}
        return expression[[position[gene] for gene in genes]].astype(np.float32)

    def _scaled_spots(self) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self._visible.x_st).T
        largest = x.amax(1, keepdim=True).clamp_min(1e-6)
        position = {gene: i for i, gene in enumerate(self._visible.genes)}
        spots = torch.full((len(x), len(self._visible.genes)), -1.0)
        spots[:, [position[gene] for gene in self._visible.train_genes]] = x / largest * 2 - 1
        return spots, largest

    def _draw(self, spots: Tensor, noise: torch.Generator) -> Tensor:
        def denoise(x: Tensor, t: int) -> Tensor:
            times = torch.full((len(x),), t)
            x_start = self._process.to_x_start(self._predict_noise(x, times, spots), x, times)
            return x_start.clamp(-1, 1)

        process = ForwardProcess("cosine", self.n_timesteps, "x_start")
        drawn = sample(denoise, tuple(spots.shape), process, self.sampler, self.n_sampling_steps, noise)
        return torch.where(self._known, spots, drawn)
