"""A reduced SpatialScope: cell types, a score model of cells, and Langevin sampling of spots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgd.baselines.checks import check_enough_genes, check_fitted, check_known
from cgd.baselines.fitting import build, minimise
from cgd.baselines.mixture import Matrix, cell_type_means, poisson_mixture
from cgd.data.pair import locate
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.random import make_generator

_TITLE = "SpatialScope-style"


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


def sample_langevin(
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


@dataclass(frozen=True)
class _Spots:
    """The spots in the units of the cells, (n_spots, .) each."""

    mean: Tensor  # (., n_genes) log expression expected of the mixture of cell types
    observed: Tensor  # (., n_train) log expression of the training genes, without platform effects
    to_st: Matrix  # (., 1) factor from the cells' normalised counts to the spots'


@dataclass(frozen=True)
class _State:
    visible: VisiblePair
    seed: int
    known: list[int]  # positions of the training genes among all genes
    spots: _Spots
    network: ScoreNetwork


@dataclass
class SpatialScope:
    """A reduced form of SpatialScope (Wan et al., Nature Communications 2023; github.com/YangLabHKUST/SpatialScope,
    GPL-3.0), written from a description of the method; not SpatialScope itself, and no code is shared.

    What is kept: cell types in every spot from Poisson counts of the training genes with a factor per gene for the
    platform; a network of the score of log expression centred on the mean of the cell type, trained on scRNA-seq by
    denoising score matching with an L1 loss; annealed Langevin sampling of every spot in which the training genes are
    drawn to their observed values and the held-out genes move by the prior alone; the mean of three replicates.

    What is reduced: no segmentation of nuclei, no spatial prior over types and no Poisson-lognormal noise; types are
    k-means clusters, because no annotation is guaranteed; a spot is one pseudo-cell around the mean of its mixture of
    types, not several cells; the network is an MLP instead of a convolutional U-Net over the order of the genes;
    12 noise levels from 2 to 0.1 instead of 232 from 100 to 0.01, and 600 steps of 128 cells instead of 10 000
    epochs. What differs: the network sees the noise level (in the public code the line that adds it is commented
    out); the data term is that of Gaussian errors of the log expression, whose variance grows with the noise level,
    instead of clipped gradients of squared errors of counts; a last denoising step stands for the levels below
    `sigma_min`; and the types never see held-out ST values (in the benchmark harness of stDiff they do).

    The draws carry the variation of cells within a type, which a held-out gene's spots need not share: on dentate
    gyrus (first of five folds) the mean of the mixture alone has a PCC of 0.31, three replicates 0.12, while the
    training genes are followed (0.69). On hippocampus the mixture itself says little (0.02).

    Parameters
    ----------
    n_types
        Clusters of cells.
    width, depth
        Of the score network.
    n_steps, batch_size, learning_rate
        Of its training.
    n_levels, sigma_max, sigma_min
        Geometric noise levels, in units of log expression.
    steps_per_level, step_size
        Langevin steps at each level, and their size over sigma squared.
    n_replicates
        Chains averaged.
    fit_sd
        Standard deviation of the errors of the observed log expression.
    """

    n_types: int = 15
    width: int = 256
    depth: int = 3
    n_steps: int = 600
    batch_size: int = 128
    learning_rate: float = 1e-3
    n_levels: int = 12
    sigma_max: float = 2.0
    sigma_min: float = 0.1
    steps_per_level: int = 5
    step_size: float = 0.2
    n_replicates: int = 3
    fit_sd: float = 0.3
    losses: list[float] = field(default_factory=list, init=False, repr=False)
    _state: _State | None = field(default=None, init=False, repr=False)

    def fit(self, visible: VisiblePair, seed: int) -> None:
        """Find the types, decompose the spots, train the score network on the cells."""
        check_enough_genes(_TITLE, visible)
        known = locate(visible.train_genes, visible.genes)
        x_sc = cells_at_the_scale_of_spots(visible, known)
        means, labels = cell_type_means(x_sc, self.n_types, seed)
        spots = _decompose(visible, known, np.expm1(means.astype(np.float64)))
        network = build(lambda: ScoreNetwork(len(visible.genes), self.width, self.depth), seed)
        cells, of_cell = torch.from_numpy(x_sc), torch.from_numpy(means[labels])
        generators = {name: make_generator(seed, "spatialscope", name) for name in ("batch", "level", "noise")}
        loss = partial(self._compute_loss, network, cells, of_cell, generators)
        self.losses = minimise(network, loss, self.n_steps, self.learning_rate, _TITLE)
        self._state = _State(visible, seed, known, spots, network)

    def _compute_loss(
        self, network: ScoreNetwork, cells: Tensor, means: Tensor, generators: dict[str, torch.Generator]
    ) -> Tensor:
        """Mean absolute error of the predicted noise, noise levels log-uniform."""
        picked = torch.randint(len(cells), (self.batch_size,), generator=generators["batch"])
        low, high = np.log(self.sigma_min), np.log(self.sigma_max)
        sigma = (low + (high - low) * torch.rand(len(picked), 1, generator=generators["level"])).exp()
        noise = torch.randn((len(picked), cells.shape[1]), generator=generators["noise"])
        x = cells[picked] - means[picked] + sigma * noise
        return F.l1_loss(network(x, means[picked], sigma), noise)

    def predict(self, genes: Sequence[str]) -> FloatArray:
        """(len(genes), n_spots) mean over replicates of log-normalised expression."""
        state = check_fitted(_TITLE, self._state)
        noise = make_generator(state.seed, "spatialscope", "sample")
        with torch.inference_mode():
            chains = torch.stack([self._run_chain(state, noise) for _ in range(self.n_replicates)])
        return _express(state, genes, chains.mean(0))

    def draw(self, genes: Sequence[str], n: int) -> FloatArray:
        """(n, len(genes), n_spots) chains like the replicates of `predict`, each from a seed of its own."""
        state = check_fitted(_TITLE, self._state)
        generators = [make_generator(state.seed, "spatialscope", i) for i in range(n)]
        with torch.inference_mode():
            return np.stack([_express(state, genes, self._run_chain(state, noise)) for noise in generators])

    def _run_chain(self, state: _State, noise: torch.Generator) -> Tensor:
        """(n_spots, n_genes) deviation of log expression from the mean of the spot's types."""
        mean, known = state.spots.mean, state.known
        target = state.spots.observed - mean[:, known]

        def predict_noise(x: Tensor, sigma: float) -> Tensor:
            return state.network(x, mean, torch.full((len(x), 1), sigma))

        def fit_score(x: Tensor, sigma: float) -> Tensor:
            drift = torch.zeros_like(x)
            drift[:, known] = (target - x[:, known]) / (self.fit_sd**2 + sigma**2)
            return drift

        sigmas = np.geomspace(self.sigma_max, self.sigma_min, self.n_levels).tolist()
        x = sample_langevin(
            lambda x, sigma: -predict_noise(x, sigma) / sigma,
            fit_score,
            self.sigma_max * torch.randn(mean.shape, generator=noise),
            sigmas,
            self.steps_per_level,
            self.step_size,
            noise,
        )
        return x - sigmas[-1] * predict_noise(x, sigmas[-1])


def _express(state: _State, genes: Sequence[str], deviation: Tensor) -> FloatArray:
    """(len(genes), n_spots) log-normalised expression at the scale of the spots, of the (n_spots, n_genes) deviation of
    log expression from the mean of the spot's types."""
    asked = check_known(_TITLE, state.visible, genes)
    drawn = (state.spots.mean + deviation).clamp_min(0).numpy()
    expression = np.log1p(np.expm1(drawn) * state.spots.to_st).T
    return expression[locate(asked, state.visible.genes)].astype(np.float32)


def cells_at_the_scale_of_spots(visible: VisiblePair, known: list[int]) -> FloatArray:
    """(n_cells, n_genes) log1p of the cells' normalised counts times one factor, with which the training genes add up
    to as much in a mean cell as in a spot. A panel can be one part in three hundred of a cell: without the factor log
    expression is near zero, its spread below every noise level, and the data term says nothing."""
    counts = np.expm1(visible.x_sc.astype(np.float64)).T
    per_cell = counts[:, known].sum(axis=1).mean()
    factor = np.median(visible.st_totals) / per_cell if per_cell > 0 else 1.0
    return np.log1p(counts * factor).astype(np.float32)


def _decompose(visible: VisiblePair, known: list[int], profiles: Matrix) -> _Spots:
    """Spots as mixtures of types with the `profiles` (n_types, n_genes), normalised counts of the scRNA-seq."""
    counts = np.expm1(visible.x_st.astype(np.float64)).T
    weights, platform = poisson_mixture(counts, profiles[:, known])
    mean = weights / weights.sum(axis=1, keepdims=True) @ profiles
    corrected = counts / platform
    # a spot's training genes add up to what they do in its mixture of cells, and back
    to_sc = mean[:, known].sum(axis=1, keepdims=True) / np.maximum(corrected.sum(axis=1, keepdims=True), 1e-6)
    return _Spots(
        mean=torch.from_numpy(np.log1p(mean).astype(np.float32)),
        observed=torch.from_numpy(np.log1p(corrected * to_sc).astype(np.float32)),
        to_st=1 / np.maximum(to_sc, 1e-6),
    )
