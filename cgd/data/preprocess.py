"""Pre-processing (paper IV-A). Nothing here reads an ST value: totals and filters of the ST side need the split
and happen where the held-out genes are already hidden (`cgd.data.protocol.hide`)."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, svds

from cgd.config import DataConfig
from cgd.data.graph import Edges
from cgd.data.pair import Pair, locate
from cgd.errors import DataError

MAX_COMPONENTS = 80  # of the cells; model.kernel_components chooses among them


@dataclass(frozen=True)
class PreparedPair:
    """A pair ready to be split; read-only and shared by all trials on a data set.

    Attributes
    ----------
    name, sha256
        Name and content hash of the data set.
    panel
        Shared genes kept, in ST order.
    st_counts
        (n_spots, n_panel) CSC float32 raw counts.
    st_totals
        (n_spots,) counts over every gene the ST measures; for the truth only, a method never gets it.
    sc_expression
        (n_cells, n_sc_genes) CSC float32, Eq. 4 normalised.
    sc_totals
        (n_cells,) counts over every gene of the scRNA-seq.
    sc_genes
        Every gene of the scRNA-seq detected in a kept cell.
    cell_components
        (n_cells, k) orthonormal principal components of the cells over every gene of the scRNA-seq, the largest first.
    coordinates
        (n_spots, 2 or 3).
    spot_names
        As in the ST's `obs_names`.
    notes
        What was dropped or matched, in sentences.
    graph
        Regulatory graph that the data carry, None without one.
    """

    name: str
    sha256: str
    panel: tuple[str, ...]
    st_counts: sp.csc_matrix
    st_totals: np.ndarray
    sc_expression: sp.csc_matrix
    sc_totals: np.ndarray
    sc_genes: tuple[str, ...]
    cell_components: np.ndarray
    coordinates: np.ndarray
    spot_names: tuple[str, ...]
    notes: tuple[str, ...]
    graph: Edges | None = None

    @property
    def n_spots(self) -> int:
        return int(self.st_counts.shape[0])

    @property
    def n_cells(self) -> int:
        return int(self.sc_expression.shape[0])

    def sc_dense(self, genes: tuple[str, ...] | list[str]) -> np.ndarray:
        """(len(genes), n_cells) float32 scRNA-seq expression of `genes`."""
        return self.sc_expression[:, locate(genes, self.sc_genes)].toarray().T.copy()


def log_normalise(counts: sp.spmatrix, totals: np.ndarray, scale: float) -> sp.spmatrix:
    """Eq. 4: log(scale * counts / totals + 1), rows are spots or cells; zeros stay zeros, so sparse stays sparse."""
    safe = np.where(totals > 0, totals, 1.0)
    scaled = sp.diags(scale / safe).dot(counts).astype(np.float32)
    scaled.data = np.log1p(scaled.data)
    return scaled


def restore_counts(x: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """(n_genes, n) raw counts back from what `log_normalise` made of them at the scale of the median total, to the
    precision of float32."""
    return (np.expm1(x.astype(np.float64)) * (totals / np.median(totals))).astype(np.float32)


def prepare(pair: Pair, config: DataConfig) -> PreparedPair:
    """Filter cells, normalise the scRNA-seq and choose the panel.

    Variable genes are ranked in the scRNA-seq alone: the paper does not say where, and ranking them in the ST would
    use the values of the held-out genes.

    Raises
    ------
    DataError
        No cell passes the filter, or no shared gene is detected in the cells left.
    """
    notes = pair.matching.lines()
    sc, dropped = _filter_cells(pair, config)
    if dropped:
        notes.append(f"{dropped} of {pair.adata_sc.n_obs} cells dropped (data.min_genes_per_cell)")
    totals = np.asarray(sc.X.sum(axis=1)).ravel()
    expression = log_normalise(sc.X, totals, float(np.median(totals))).tocsc()
    detected = np.asarray((expression > 0).sum(axis=0)).ravel() > 0
    sc_genes = tuple(np.asarray(sc.var_names)[detected])
    expression = expression[:, np.flatnonzero(detected)]
    panel = _choose_panel(pair, expression, sc_genes, config, notes)
    return PreparedPair(
        name=pair.name,
        sha256=pair.sha256,
        panel=panel,
        st_counts=pair.adata_st.X.tocsc()[:, locate(panel, pair.adata_st.var_names)],
        st_totals=np.asarray(pair.adata_st.X.sum(axis=1)).ravel(),
        sc_expression=expression,
        sc_totals=totals,
        sc_genes=sc_genes,
        cell_components=_cell_components(expression),
        coordinates=np.asarray(pair.adata_st.obsm["spatial"]),
        spot_names=tuple(map(str, pair.adata_st.obs_names)),
        notes=tuple(notes),
        graph=pair.graph,
    )


def _filter_cells(pair: Pair, config: DataConfig) -> tuple[ad.AnnData, int]:
    detected = np.diff(pair.adata_sc.X.indptr)
    threshold = config.min_genes_per_cell
    if threshold == "auto":
        threshold = min(500, int(0.02 * pair.adata_sc.n_vars))
    keep = detected >= max(threshold, 1)
    if not keep.any():
        raise DataError(
            f"{pair.name}: no cell has {threshold} detected genes (largest: {detected.max()} of "
            f"{pair.adata_sc.n_vars} measured); lower data.min_genes_per_cell"
        )
    return pair.adata_sc[keep], int((~keep).sum())


def _cell_components(expression: sp.csc_matrix) -> np.ndarray:
    """(n_cells, k <= MAX_COMPONENTS) leading left-singular vectors of the genes standardised over the cells.

    The centring is implicit, so the matrix stays sparse.
    """
    n_cells, n_genes = expression.shape
    n = min(MAX_COMPONENTS, n_cells - 1, n_genes - 1)
    mean = np.asarray(expression.mean(axis=0), dtype=np.float64).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0), dtype=np.float64).ravel() - np.square(mean)
    if n < 1 or not (variance > 1e-6).any():
        return np.zeros((n_cells, 0), dtype=np.float32)
    scaled = (expression @ sp.diags(1 / np.sqrt(np.maximum(variance, 1e-6)))).astype(np.float64).tocsr()
    shift = mean / np.sqrt(np.maximum(variance, 1e-6))
    centred = LinearOperator(
        (n_cells, n_genes),
        matvec=lambda x: scaled @ x.ravel() - shift @ x.ravel(),
        rmatvec=lambda y: scaled.T @ y.ravel() - shift * y.sum(),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).standard_normal(min(n_cells, n_genes))
    left, singular, _ = svds(centred, k=n, v0=start)
    order = np.argsort(-singular)  # svds promises no order
    kept = order[singular[order] > 1e-6 * singular.max(initial=1e-12)]
    return np.ascontiguousarray(left[:, kept], dtype=np.float32)


def _choose_panel(
    pair: Pair, expression: sp.csc_matrix, sc_genes: tuple[str, ...], config: DataConfig, notes: list[str]
) -> tuple[str, ...]:
    usable = set(sc_genes)
    shared = [gene for gene in pair.genes if gene in usable]
    if len(shared) < len(pair.genes):
        notes.append(f"{len(pair.genes) - len(shared)} shared genes are detected in no cell and cannot be predicted")
    if not shared:
        raise DataError(f"{pair.name}: none of the {len(pair.genes)} shared genes is detected in the scRNA-seq")
    n_keep = max(int(np.ceil(config.hvg_fraction * len(shared))), config.min_panel)
    if n_keep >= len(shared):
        return tuple(shared)
    import scanpy as sc  # slow to import, and only needed here

    candidates = ad.AnnData(expression[:, locate(shared, sc_genes)].tocsr())
    ranking = sc.pp.highly_variable_genes(candidates, flavor="seurat", n_top_genes=n_keep, inplace=False)
    notes.append(f"{n_keep} of {len(shared)} shared genes kept, most variable in the scRNA-seq first")
    return tuple(gene for gene, keep in zip(shared, ranking["highly_variable"], strict=True) if keep)
