"""SpaDiT in its strict form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgd.baselines.fitting import build, minimise
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.diffusion.sampler import sample
from cgd.diffusion.schedule import ForwardProcess, PredictionType
from cgd.model.dit import DiTBlock, FinalLayer, TimeEmbedding
from cgd.random import make_generator


class RowDenoiser(nn.Module):
    """Predicts the diffusion target of ST rows of genes; the tokens are patches of the axis of the spots."""

    def __init__(
        self, n_spots: int, n_cells: int, n_tokens: int, width: int, depth: int, n_heads: int, n_timesteps: int
    ) -> None:
        super().__init__()
        self.n_spots = n_spots
        self.patch = -(-n_spots // n_tokens)
        n_patches = -(-n_spots // self.patch)
        self.padding = n_patches * self.patch - n_spots
        self.embed = nn.Linear(self.patch, width)
        self.position = nn.Parameter(0.02 * torch.randn(n_patches, width))
        self.embed_gene = nn.Linear(n_cells, width)
        self.embed_pooled = nn.Linear(n_cells, width)
        self.spread = nn.Linear(width, n_patches * width)
        self.embed_time = TimeEmbedding(width, n_timesteps)
        self.blocks = nn.ModuleList(DiTBlock(width, n_heads) for _ in range(depth))
        self.final = FinalLayer(width, self.patch)

    def forward(self, x: Tensor, t: Tensor, gene: Tensor, pooled: Tensor) -> Tensor:
        """(B, n_spots) of noisy rows (B, n_spots), timesteps (B,), sc rows (B, n_cells) and their mean (n_cells,)."""
        code = self.embed_gene(gene)
        condition = (self.embed_time(t) + code + self.embed_pooled(pooled))[:, None]
        patches = F.pad(x, (0, self.padding)).unflatten(1, (-1, self.patch))
        tokens = self.embed(patches) + self.position + self.spread(code).unflatten(1, self.position.shape)
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self.final(tokens, condition).flatten(1)[:, : self.n_spots]


@dataclass
class SpaDiT:
    width: int = 128
    depth: int = 2
    n_heads: int = 4
    n_tokens: int = 16
    n_timesteps: int = 10
    prediction_type: PredictionType = "x_start"
    n_steps: int = 400
    batch_size: int = 32
    learning_rate: float = 1e-3

    def fit(self, visible: VisiblePair, seed: int) -> None:
        self._visible, self._seed = visible, seed
        x_st = torch.from_numpy(visible.x_st)
        self._centre, self._scale = x_st.mean(), x_st.std().clamp_min(1e-6)
        x_sc = torch.from_numpy(visible.x_sc)
        self._x_sc = (x_sc - x_sc.mean()) / x_sc.std().clamp_min(1e-6)
        self._pooled = self._x_sc.mean(0)
        self._x_sc = self._x_sc - self._pooled
        rows = (x_st - self._centre) / self._scale
        conditions = self._x_sc[self._positions(visible.train_genes)]
        self._process = ForwardProcess("cosine", self.n_timesteps, self.prediction_type)
        shape = (self.n_tokens, self.width, self.depth, self.n_heads, self.n_timesteps)
        self._network = build(lambda: RowDenoiser(rows.shape[1], conditions.shape[1], *shape), seed)
        generators = {name: make_generator(seed, "spadit", name) for name in ("batch", "timestep", "noise")}
        self.losses = minimise(
            self._network, lambda: self._loss(rows, conditions, generators), self.n_steps, self.learning_rate, "SpaDiT"
        )

    def _positions(self, genes: Sequence[str]) -> list[int]:
        position = {gene: i for i, gene in enumerate(self._visible.genes)}
        return [position[gene] for gene in genes]

    def _loss(self, rows: Tensor, conditions: Tensor, generators: dict[str, torch.Generator]) -> Tensor:
        picked = torch.randint(len(rows), (self.batch_size,), generator=generators["batch"])
        x_start = rows[picked]
        t = torch.randint(1, self.n_timesteps + 1, (len(x_start),), generator=generators["timestep"])
        noise = torch.randn(x_start.shape, generator=generators["noise"])
        predicted = self._network(self._process.add_noise(x_start, noise, t), t, conditions[picked], self._pooled)
        return F.mse_loss(predicted, self._process.target(x_start, noise, t))

    def predict(self, genes: Sequence[str]) -> FloatArray:
        trained = set(self._visible.train_genes)
        drawn = [gene for gene in self._visible.genes if gene not in trained]
        drawn += [gene for gene in self._visible.train_genes if gene in set(genes)]
        generator = make_generator(self._seed, "spadit", "sample")
        rows = self._draw(self._x_sc[self._positions(drawn)], generator) * self._scale + self._centre
        place = {gene: i for i, gene in enumerate(drawn)}
        return rows.clamp_min(0).numpy()[[place[gene] for gene in genes]]

    @torch.inference_mode()
    def _draw(self, conditions: Tensor, generator: torch.Generator) -> Tensor:
        def denoise(x: Tensor, t: int) -> Tensor:
            chunks = zip(x.split(256), conditions.split(256), strict=True)
            return torch.cat([self._network(a, torch.full((len(a),), t), b, self._pooled) for a, b in chunks])

        shape = (len(conditions), self._visible.x_st.shape[1])
        return sample(denoise, shape, self._process, "ddpm", self.n_timesteps, generator)
