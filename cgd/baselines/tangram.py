"""Tangram: place clusters of cells on spots by gradient descent, read unmeasured genes off the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from cgd.baselines.checks import check_enough_genes, select_rows
from cgd.baselines.guest import guest_code, package_seed
from cgd.data.protocol import FloatArray, VisiblePair
from cgd.errors import ConfigError, DataError

with guest_code():  # the import sets the root logger to INFO and hides every warning of the process
    from tangram.mapping_optimizer import Mapper

_TITLE = "Tangram"
_MODES = ("clusters", "cells")


@dataclass
class Tangram:
    """Tangram (Biancalani et al., Nature Methods 2021; github.com/broadinstitute/Tangram, BSD-3-Clause).

    The package's optimiser, with its defaults, on log-normalised expression. Around it: the clusters are those of
    k-means, where the published comparisons use Leiden's; genes reach it in a fixed order, where the package puts them
    in a set, so that sums differ between processes; the density of the spots is that of the matrix that is mapped, as
    in the package, so of the training genes alone.

    Mean PCC of held-out genes over five folds: 0.211 on mouse cortex osmFISH and 0.319 on dentate gyrus Visium; of the
    first fold alone 0.262 on hippocampus seqFISH, 0.112 on V1 STARmap and 0.067 on HER2ST. An earlier run of the
    package with 20 clusters of k-means, with other folds, genes and CP10k in place of the median total, had 0.195
    (osmFISH), 0.178 (STARmap) and 0.242 (HER2ST, its 1000 most variable genes).

    Parameters
    ----------
    mode
        "clusters" maps clusters of cells, "cells" each cell: n_cells x n_spots parameters, minutes to hours.
    n_clusters
        Of k-means; at most the number of cells.
    epochs
        Adam steps.
    learning_rate
        Of Adam.
    density_weight
        Weight of the divergence of the mapped cells from the spots' share of the expression of the training genes.
    """

    mode: str = "clusters"
    n_clusters: int = 20
    epochs: int = 1000
    learning_rate: float = 0.1
    density_weight: float = 1.0
    _visible: VisiblePair | None = field(default=None, init=False, repr=False)
    _groups: sp.csr_matrix | None = field(default=None, init=False, repr=False)
    _mapping: FloatArray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ConfigError(f"Tangram's mode must be one of {', '.join(_MODES)}, got '{self.mode}'")

    def fit(self, visible: VisiblePair, seed: int) -> None:
        """Learn which share of each group of cells lies on which spot. Raises DataError on unusable genes."""
        check_enough_genes(_TITLE, visible)
        with guest_code():  # k-means warns of duplicate cells, of which it makes fewer clusters
            groups = self._group(visible, seed)
        cells = groups @ visible.sc_rows(visible.train_genes).T
        usable = (cells > 0).any(axis=0) & (visible.x_st > 0).any(axis=1)
        if not usable.any():
            raise DataError(f"{_TITLE}: no training gene of {visible.name} is detected in both the cells and the spots")
        shares = groups.sum(axis=1).A1 / groups.shape[1] if self.mode == "clusters" else None
        with guest_code():
            mapper = Mapper(
                S=cells[:, usable],
                G=visible.x_st[usable].T,
                d=visible.x_st.sum(axis=0) / visible.x_st.sum(),  # as the package has it: of the matrix that is mapped
                d_source=shares,
                lambda_d=self.density_weight,
                random_state=package_seed(seed, "tangram"),  # the package takes 0 for no seed
            )
            mapping, _ = mapper.train(self.epochs, learning_rate=self.learning_rate, print_each=None)
        self._visible, self._groups, self._mapping = visible, groups, mapping

    def predict(self, genes: Sequence[str]) -> FloatArray:
        """(len(genes), n_spots) expression mapped on the spots; its mean over spots is the gene's mean over cells."""
        rows = select_rows(_TITLE, self._visible, genes)
        assert self._groups is not None
        assert self._mapping is not None
        mapped = (self._groups @ rows.T).T @ self._mapping
        return np.asarray(mapped * (self._mapping.shape[1] / rows.shape[1]), dtype=np.float32)

    def _group(self, visible: VisiblePair, seed: int) -> sp.csr_matrix:
        """(n_groups, n_cells) 1 where the cell is of the group."""
        n_cells = visible.x_sc.shape[1]
        labels = np.arange(n_cells)
        if self.mode == "clusters":
            labels = cluster_cells(visible.x_sc.T, self.n_clusters, package_seed(seed, "clusters"))
        ones = np.ones(n_cells, dtype=np.float32)
        return sp.csr_matrix((ones, (labels, np.arange(n_cells))))


def cluster_cells(x: FloatArray, n_clusters: int, seed: int) -> np.ndarray:
    """(n_cells,) labels from 0 without gaps: k-means on the first 50 principal components of (n_cells, n_genes) x."""
    n_components = min(50, *x.shape)
    scores = PCA(n_components, svd_solver="randomized", random_state=seed).fit_transform(x)
    labels = KMeans(min(n_clusters, len(x)), n_init=10, random_state=seed).fit_predict(scores)
    return np.unique(labels, return_inverse=True)[1]
