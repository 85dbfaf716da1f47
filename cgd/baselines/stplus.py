"""stPlus: one autoencoder over spots and cells, and the cells nearest to a spot in its hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from cgd.baselines.checks import check_enough_genes, select_rows
from cgd.baselines.neighbours import Neighbours, nearest_cells
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.errors import TrainingDiverged
from cgd.random import make_generator

_TITLE = "stPlus"


@dataclass
class StPlus:
    """Reference-based enhancement of spatial transcriptomics (Chen et al., Bioinformatics 2021;
    github.com/xy-chen16/stPlus, MIT).

    Written from the description. Weights stay in memory, so that no earlier run's are found, and the other genes of
    the scRNA-seq are those of the panel that are held out. As published, the cells' embedding sees these genes and the
    spots', which have zeros there, does not.

    Mean PCC of held-out genes over five folds: 0.257 on mouse cortex osmFISH and 0.294 on dentate gyrus Visium; of the
    first fold alone 0.055 on hippocampus seqFISH, 0.106 on V1 STARmap and 0.011 on HER2ST. An earlier run of the
    authors' package, with other folds, genes and CP10k in place of the median total, had 0.178 (osmFISH), 0.110
    (STARmap) and 0.160 (HER2ST, its 1000 most variable genes).

    Parameters
    ----------
    width
        Units of the hidden layer.
    n_other_genes
        Genes of the scRNA-seq without visible ST values that are reconstructed too, most variable first.
    batch_size
        Spots and cells per step.
    learning_rate
        None for 4e-3 below 10 000 cells and 8e-5 above.
    weight_decay
        Of Adam.
    tolerance
        Training ends with the first epoch whose loss differs from the last one's by less than this share.
    max_epochs
        Or after so many; 10 000 in the authors' code, whose rule for stopping ended training
        after 16 on osmFISH and 26 on dentate gyrus Visium.
    n_kept
        Epochs of the lowest loss whose predictions are averaged.
    n_neighbours
        Cells averaged per spot, with the weights of SpaGE.
    """

    width: int = 1000
    n_other_genes: int = 2000
    batch_size: int = 512
    learning_rate: float | None = None
    weight_decay: float = 2e-4
    tolerance: float = 4e-3
    max_epochs: int = 200
    n_kept: int = 5
    n_neighbours: int = 50
    losses: list[float] = field(default_factory=list, init=False, repr=False)
    _visible: VisiblePair | None = field(default=None, init=False, repr=False)
    _neighbours: list[Neighbours] = field(default_factory=list, init=False, repr=False)

    def fit(self, visible: VisiblePair, seed: int) -> None:
        """Train, and find each spot's cells with each epoch that is kept. `losses` holds the mean loss per epoch."""
        check_enough_genes(_TITLE, visible)
        table = _Table.build(visible, self.n_other_genes)
        kept = self._train(table, seed)
        self._neighbours = [self._find_nearest(table, encoder) for encoder in kept]
        self._visible = visible

    def predict(self, genes: Sequence[str]) -> FloatArray:
        """(len(genes), n_spots) log-normalised expression, at the scale of the cells'."""
        rows = select_rows(_TITLE, self._visible, genes)
        return np.mean([neighbours.average(rows) for neighbours in self._neighbours], axis=0, dtype=np.float32)

    def _train(self, table: _Table, seed: int) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the encoder after the `n_kept` epochs of the lowest loss, the lowest first."""
        encoder = _linear(table.n_genes, self.width, make_generator(seed, "stplus", "encoder"))
        decoder = _linear(self.width, table.n_genes, make_generator(seed, "stplus", "decoder"))
        rate = self.learning_rate or (4e-3 if table.n_cells < 10_000 else 8e-5)
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=rate, weight_decay=self.weight_decay)
        order, kept = make_generator(seed, "stplus", "order"), []
        self.losses = []
        for _ in range(self.max_epochs):
            self.losses.append(self._run_epoch(table, encoder, decoder, optimizer, order))
            if self._has_settled():
                break
            kept.append((self.losses[-1], encoder.weight.detach().clone(), encoder.bias.detach().clone()))
            kept = sorted(kept, key=lambda entry: entry[0])[: self.n_kept]
        return [(weight, bias) for _, weight, bias in kept]

    def _run_epoch(
        self,
        table: _Table,
        encoder: nn.Linear,
        decoder: nn.Linear,
        optimizer: torch.optim.Optimizer,
        order: torch.Generator,
    ) -> float:
        losses = []
        for rows in torch.randperm(len(table.x), generator=order).split(self.batch_size):
            loss = table.compute_loss(rows, encoder, decoder)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mean = float(np.mean(losses))
        if not np.isfinite(mean):
            raise TrainingDiverged(f"{_TITLE}: the loss became {mean}; lower learning_rate")
        return mean

    def _has_settled(self) -> bool:
        if len(self.losses) < 2:
            return False
        before, now = self.losses[-2:]
        return abs(before - now) <= self.tolerance * before

    def _find_nearest(self, table: _Table, encoder: tuple[Tensor, Tensor]) -> Neighbours:
        hidden = functional.relu(functional.linear(table.x, *encoder)).numpy()
        return nearest_cells(hidden[: table.n_spots], hidden[table.n_spots :], self.n_neighbours)


@dataclass(frozen=True)
class _Table:
    """Spots, then cells, over the training genes, then the other genes, which are zero for spots.

    `cell_weight` is c of the loss, `zero_weight` the q with which errors at zeros count.
    """

    x: Tensor
    n_spots: int
    n_train: int
    zero_weight: float
    cell_weight: float

    @classmethod
    def build(cls, visible: VisiblePair, n_other: int) -> _Table:
        """Without other genes the loss has its first term alone."""
        train = set(visible.train_genes)
        others = [gene for gene in visible.genes if gene not in train]
        rows = visible.sc_rows(others)
        variable = np.sort(np.argsort(-rows.var(axis=1), kind="stable")[:n_other])
        cells = np.concatenate([visible.sc_rows(visible.train_genes), rows[variable]])
        n_train, n_spots, n_cells = *visible.x_st.shape, cells.shape[1]
        spots = np.concatenate([visible.x_st, np.zeros((len(variable), n_spots), np.float32)])
        return cls(
            x=torch.from_numpy(np.ascontiguousarray(np.concatenate([spots, cells], axis=1).T)),
            n_spots=n_spots,
            n_train=n_train,
            zero_weight=float((cells != 0).mean()),
            cell_weight=n_train / max(len(variable), 1) * n_spots / n_cells,
        )

    @property
    def n_genes(self) -> int:
        return int(self.x.shape[1])

    @property
    def n_cells(self) -> int:
        return len(self.x) - self.n_spots

    def compute_loss(self, rows: Tensor, encoder: nn.Linear, decoder: nn.Linear) -> Tensor:
        """Summed over a batch: spots must be reconstructed in the training genes, and cells, seen in the training
        genes alone as spots are, in the others."""
        x, n = self.x[rows], self.n_train
        hidden = functional.relu(functional.linear(x[:, :n], encoder.weight[:, :n], encoder.bias))
        spots, cells = (rows < self.n_spots).nonzero().ravel(), (rows >= self.n_spots).nonzero().ravel()
        seen = functional.relu(functional.linear(hidden[spots], decoder.weight[:n], decoder.bias[:n]))
        others = functional.relu(functional.linear(hidden[cells], decoder.weight[n:], decoder.bias[n:]))
        true = x[cells, n:]
        errors = torch.where(true == 0, self.zero_weight, 1.0) * (others - true).square()
        return (seen - x[spots, :n]).square().sum() + self.cell_weight * errors.sum()


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A layer with torch's usual initial values, drawn from a generator of its own."""
    layer = nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -(n_in**-0.5), n_in**-0.5, generator=generator)
    return layer
