"""A reduced SpatialScope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgd.baselines.checks import check_enough_genes, check_fitted, check_known
from cgd.baselines.fitting import build, minimise
from cgd.baselines.mixture import cell_type_means, poisson_mixture
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.random import make_generator


class ScoreNetwork(nn.Module):
    """Predicts the noise in expression centred on the mean of its cell type; the score is minus that over sigma."""

    def __init__(self, n_genes: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_genes, width)
        self.embed_type = nn.Linear(n_genes, width)
        self.embed_sigma = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, n_genes)

    def forward(self, x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
        """(B, n_genes) noise in x (B, n_genes), given type means (B, n_genes) and noise levels (B, 1)."""
        shrunk = x / (1 + sigma.square()).sqrt()
        hidden = self.embed(shrunk) + self.embed_type(mean) + self.embed_sigma(sigma.log())
        for block in self.blocks:
            hidden = hidden + block(hidden)
        # what the noise is if expression were a unit normal, corrected
        return sigma / (1 + sigma.square()).sqrt() * shrunk + self.head(hidden)


def annealed_langevin(
    score: Callable[[Tensor, float], Tensor],
    fit_score: Callable[[Tensor, float], Tensor],
    start: Tensor,
    sigmas: Sequence[float],
    n_steps: int,
    step_size: float,
    noise: torch.Generator,
) -> Tensor:
    """Langevin sampling of prior times likelihood, from the highest noise level to the lowest.

    Parameters
    ----------
    score, fit_score
        Gradients of the log prior smoothed with noise sigma, and of the log likelihood at that level: (x, sigma) to
        the shape of x.
    start
        Where the chains begin.
    n_steps
        Steps at each level.
    step_size
        Step over sigma squared.
    """
    x = start
    for sigma in sigmas:
        eta = step_size * sigma**2
        for _ in range(n_steps):
            drift = score(x, sigma) + fit_score(x, sigma)
            x = x + eta * drift + (2 * eta) ** 0.5 * torch.randn(x.shape, generator=noise)
    return x


@dataclass
class SpatialScope:
    n_types: int = 15
    mixture: bool = True
    width: int = 256
    depth: int = 3
    n_steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    n_levels: int = 12
    sigma_max: float = 2.0
    sigma_min: float = 0.1
    steps_per_level: int = 5
    step_size: float = 0.2
    n_replicates: int = 3
    fit_sd: float = 0.3

    def fit(self, visible: VisiblePair, seed: int) -> None:
        self._visible, self._seed = visible, seed
        position = {gene: i for i, gene in enumerate(visible.genes)}
        self._known = np.array([position[gene] for gene in visible.train_genes])
        self._types, labels = cell_type_means(visible.x_sc.T, self.n_types, seed)
        self._sigmas = np.geomspace(self.sigma_max, self.sigma_min, self.n_levels)
        cells, types = torch.from_numpy(visible.x_sc.T.copy()), torch.from_numpy(self._types)
        means = types[torch.from_numpy(labels)]
        self._network = build(lambda: ScoreNetwork(cells.shape[1], self.width, self.depth), seed)
        generators = {name: make_generator(seed, "spatialscope", name) for name in ("batch", "level", "noise")}
        self.losses = minimise(
            self._network, lambda: self._loss(cells, means, generators), self.n_steps, self.learning_rate, "SpSc"
        )

    def _loss(self, cells: Tensor, means: Tensor, generators: dict[str, torch.Generator]) -> Tensor:
        picked = torch.randint(len(cells), (self.batch_size,), generator=generators["batch"])
        x, mean = cells[picked] - means[picked], means[picked]
        low, high = np.log(self.sigma_min), np.log(self.sigma_max)
        sigma = (low + (high - low) * torch.rand(len(x), 1, generator=generators["level"])).exp()
        noise = torch.randn(x.shape, generator=generators["noise"])
        return F.l1_loss(self._network(x + sigma * noise, mean, sigma), noise)

    def predict(self, genes: Sequence[str]) -> FloatArray:
        visible = self._visible
        counts = np.expm1(visible.x_st.astype(np.float64)).T
        profiles = np.expm1(self._types.astype(np.float64))
        weights, capture = poisson_mixture(counts, profiles[:, self._known])
        if not self.mixture:
            weights = weights * (weights == weights.max(1, keepdims=True))
        share = weights / weights.sum(1, keepdims=True)
        mean = share @ profiles
        total = mean[:, self._known].sum(1, keepdims=True)
        corrected = counts / capture
        observed = np.log1p(corrected / corrected.sum(1, keepdims=True) * total)
        drawn = self._draw(*(torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in (np.log1p(mean), observed)))
        self.mean_pred=np.log1p(mean)
        scale = np.median(corrected.sum(1)) / total
        expression = np.log1p(np.expm1(np.maximum(drawn.numpy(), 0)) * scale).T
        position = {gene: i for i, gene in enumerate(visible.genes)}
        rows = [position[g] for g in genes]
        self.base = self.mean_pred[:, rows].T
        return expression[rows].astype(np.float32)

    @torch.inference_mode()
    def _draw(self, mean: Tensor, observed: Tensor) -> Tensor:
        known = torch.from_numpy(self._known)
        target = observed - mean[:, known]

        def score(x: Tensor, sigma: float) -> Tensor:
            return -self._network(x, mean, torch.full((len(x), 1), sigma)) / sigma

        def fit_score(x: Tensor, sigma: float) -> Tensor:
            drift = torch.zeros_like(x)
            drift[:, known] = (target - x[:, known]) / (self.fit_sd**2 + sigma**2)
            return drift

        noise = make_generator(self._seed, "spatialscope", "sample")
        draws = []
        for _ in range(self.n_replicates):
            start = self._sigmas[0] * torch.randn(mean.shape, generator=noise)
            draws.append(
                annealed_langevin(score, fit_score, start, self._sigmas.tolist(), self.steps_per_level, self.step_size, noise)
            )
        return torch.stack(draws).mean(0) + mean
