"""SpaOTsc: unbalanced optimal transport from cells to spots, on rank correlation over the shared genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ot.unbalanced import sinkhorn_unbalanced
from scipy.stats import rankdata

from cgd.baselines.checks import check_enough_genes, select_rows
from cgd.baselines.neighbours import Matrix
from cgd.baselines.transport import refuse_vanished_kernel, to_columns
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.metrics.floors import standardise_rows

_TITLE = "SpaOTsc"


@dataclass
class SpaOTsc:
    """Spatially optimal transporting of single cells (Cang and Nie, Nature Communications 2020;
    github.com/zcang/SpaOTsc, MIT).

    Written from the description, on POT's unbalanced Sinkhorn, in the setting with which the benchmark of Li et al.
    (Nature Methods 2022) predicts genes: no structural (Gromov) term, which is why coordinates are not used.

    Mean PCC of held-out genes over five folds: 0.219 on mouse cortex osmFISH and 0.322 on dentate gyrus Visium; of the
    first fold alone 0.060 on hippocampus seqFISH, 0.107 on V1 STARmap and 0.041 on HER2ST. An earlier run of the
    same problem, with other folds, genes and CP10k in place of the median total, had 0.183 (osmFISH), 0.136 (STARmap)
    and 0.175 (HER2ST, its 1000 most variable genes).

    Parameters
    ----------
    epsilon
        Weight of the entropy of the plan. The plan of the published value is nearly flat.
    rho
        Weight of the divergences between the plan's marginals and the similarities' (`spot_and_cell_weights`).
    """

    epsilon: float = 1.0
    rho: float = 1.0
    _visible: VisiblePair | None = field(default=None, init=False, repr=False)
    _plan: FloatArray | None = field(default=None, init=False, repr=False)

    def fit(self, visible: VisiblePair, seed: int) -> None:
        """Solve for the plan. Deterministic: `seed` is not used."""
        check_enough_genes(_TITLE, visible)
        similarity = rank_correlation(visible.sc_rows(visible.train_genes), visible.x_st)
        self._plan = to_columns(transport_plan(similarity, self.epsilon, self.rho))
        self._visible = visible

    def predict(self, genes: Sequence[str]) -> FloatArray:
        """(len(genes), n_spots) log-normalised expression, at the scale of the cells'."""
        rows = select_rows(_TITLE, self._visible, genes)
        assert self._plan is not None
        return rows @ self._plan


def rank_correlation(cells: FloatArray, spots: FloatArray) -> Matrix:
    """(n_cells, n_spots) Spearman correlation over genes of (n_genes, n_cells) and (n_genes, n_spots); 0 for a cell
    or spot in which all genes are equal."""
    ranks = [standardise_rows(rankdata(x.T, axis=1)) for x in (cells, spots)]
    return np.clip(ranks[0] @ ranks[1].T / len(cells), -1.0, 1.0)


def transport_plan(similarity: Matrix, epsilon: float, rho: float) -> Matrix:
    """(n_cells, n_spots) G that minimises <G, C^2> + epsilon sum G (log G - 1) + rho (KL(G 1 | a) + KL(G' 1 | b)) with
    C = exp(1 - similarity); a and b are the sums of exp(similarity) over spots and over cells, scaled to sum 1.

    Raises
    ------
    DataError
        The kernel exp(-C^2 / epsilon) vanished.
    """
    closeness = np.exp(similarity)
    a, b = (closeness.sum(axis=axis) / closeness.sum() for axis in (1, 0))
    cost = np.square(np.e / closeness)
    reference = np.broadcast_to(1.0, cost.shape)  # the entropy, and not a divergence from a b', POT's own choice
    with refuse_vanished_kernel(_TITLE):
        return sinkhorn_unbalanced(a, b, cost, epsilon, rho, reg_type="kl", c=reference)
