"""What a method may see, and what only the metric may see.

`hide` cuts a prepared pair into a `VisiblePair`, which carries no ST value of a held-out gene, and `HiddenGenes`,
which can score a prediction but is never handed to a method: leakage is impossible by structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from cgd.calibration import score_quantiles
from cgd.config import Config
from cgd.data.graph import Edges
from cgd.data.pair import locate
from cgd.data.preprocess import PreparedPair, log_normalise, restore_counts
from cgd.data.split import GeneSplit
from cgd.errors import DataError
from cgd.metrics.draws import compute_moran, score_crps
from cgd.metrics.facts import SCORES
from cgd.metrics.gene import gene_metrics

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VisiblePair:
    """All that a method may see. Gene-major arrays: a row is a gene.

    Attributes
    ----------
    name
        Name of the data set.
    train_genes
        Genes whose ST values are visible.
    x_st
        (n_train, n_spots) log-normalised ST expression; totals are over the training genes alone.
    genes
        Every gene of the scRNA-seq that can be asked for; contains `train_genes`.
    x_sc
        (n_genes, n_cells) log-normalised scRNA-seq expression.
    coordinates
        (n_spots, 2) positions, units of the data set.
    spot_names
        Names of the spots, as in the ST.
    st_totals
        (n_spots,) counts over the training genes: `x_st = log1p(median(st_totals) * counts / st_totals)`.
    sc_totals
        (n_cells,) counts over every gene of the scRNA-seq; likewise.
    cell_components
        (n_cells, k) principal components of the cells over every gene of the scRNA-seq.
    graph
        Which gene regulates which, where the data say so (simulated ones do); names alone, no expression.
    """

    name: str
    train_genes: tuple[str, ...]
    x_st: FloatArray
    genes: tuple[str, ...]
    x_sc: FloatArray
    coordinates: FloatArray
    spot_names: tuple[str, ...]
    st_totals: FloatArray
    sc_totals: FloatArray
    cell_components: FloatArray
    graph: Edges | None = None

    def sc_rows(self, genes: tuple[str, ...] | list[str]) -> FloatArray:
        """(len(genes), n_cells) scRNA-seq expression of `genes`, in that order."""
        return self.x_sc[locate(genes, self.genes)]

    def measure_exposure(self) -> FloatArray:
        """(n_spots,) totals of the spots over their median."""
        return (self.st_totals / np.median(self.st_totals)).astype(np.float32)

    def st_counts(self) -> FloatArray:
        """(n_train, n_spots) raw counts of the training genes."""
        return restore_counts(self.x_st, self.st_totals)

    def sc_counts(self, genes: tuple[str, ...] | list[str]) -> FloatArray:
        """(len(genes), n_cells) raw counts of `genes` in the scRNA-seq."""
        return restore_counts(self.sc_rows(genes), self.sc_totals)


class HiddenGenes:
    """The truth of one part of a split. It scores predictions, calibrates intervals and gives nothing else away.

    Parameters
    ----------
    genes
        Genes of the part.
    truth
        (n_genes, n_spots) log-normalised ST expression.
    hidden
        (n_genes, n_spots) True where the `published` protocol hides the entry; None under `heldout_genes`.
    min_spot_fraction
        Genes detected in a smaller share of the spots are not scored: their row of the table is NaN.
    """

    def __init__(
        self, genes: tuple[str, ...], truth: FloatArray, hidden: npt.NDArray[np.bool_] | None, min_spot_fraction: float
    ) -> None:
        self.genes = genes
        self.truth = truth
        self.hidden = hidden
        self._scored = ((truth > 0).mean(axis=1) >= min_spot_fraction) & (truth > 0).any(axis=1)

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(n_genes,) which genes are scored."""
        return self._scored

    def score(self, prediction: FloatArray) -> pd.DataFrame:
        """Per-gene metrics of a (n_genes, n_spots) prediction: columns gene, pcc, ssim, rmse, js, spearman.

        Under `published` everything but the hidden entries is copied from the truth before scoring; `copied_share`
        and the metrics over the hidden entries alone (`hidden_*`) stand beside.
        """
        if self.hidden is None:
            return self._table(gene_metrics(prediction, self.truth))
        pasted = np.where(self.hidden, prediction, self.truth)
        table = self._table(gene_metrics(pasted, self.truth))
        alone = self._table(_score_hidden(prediction, self.truth, self.hidden))
        table = table.join(alone.drop(columns="gene").add_prefix("hidden_"))
        table["copied_share"] = np.where(self._scored, 1 - self.hidden.mean(axis=1), np.nan)
        return table

    def score_heldout(self, prediction: FloatArray) -> pd.DataFrame:
        """Per-gene metrics with nothing copied, whatever the protocol: what early stopping looks at."""
        return self._table(gene_metrics(prediction, self.truth))

    def conformity(self, center: npt.ArrayLike, scale: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(n_scored, P) how far the truth lies from `center`, in units of `scale`: quantiles over the spots of each
        scored gene, in which no spot can be told from another. What intervals are calibrated with.

        Parameters
        ----------
        center, scale
            (n_genes, n_spots); `scale` is positive.
        """
        scored = self._scored
        return score_quantiles(self.truth[scored], np.asarray(center)[scored], np.asarray(scale)[scored])

    def pick_scored(self, most: int) -> npt.NDArray[np.intp]:
        """Places of at most `most` scored genes, drawn at random and the same each time."""
        places = np.flatnonzero(self._scored)
        return np.sort(np.random.default_rng(0).permutation(places)[:most])

    def measure_crps(
        self, draws: FloatArray, genes: npt.NDArray[np.intp], spots: npt.NDArray[np.intp] | slice = slice(None)
    ) -> float:
        """Mean continuous ranked probability score of draws (n, len(genes), len(spots)) of the genes at some places."""
        return float(score_crps(draws, self.truth[genes][:, spots]).mean())

    def measure_moran_excess(self, draws: FloatArray, genes: npt.NDArray[np.intp], graph: sp.csr_matrix) -> float:
        """By how much Moran's I of draws (n, len(genes), n_spots) is above the truth's, mean over the genes."""
        return float(compute_moran(draws, graph).mean() - compute_moran(self.truth[genes], graph).mean())

    def _table(self, metrics: dict[str, npt.NDArray[np.float64]]) -> pd.DataFrame:
        table = pd.DataFrame(metrics)
        table[~self._scored] = np.nan
        table.insert(0, "gene", list(self.genes))
        return table


def _score_hidden(
    prediction: FloatArray, truth: FloatArray, hidden: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.float64]]:
    """Metrics over the hidden entries alone; their number differs by gene, hence the loop. NaN below 3 entries."""
    columns = {name: np.full(len(truth), np.nan) for name in SCORES}
    for gene, mask in enumerate(hidden):
        if mask.sum() >= 3:  # of two entries every correlation is 1 or -1
            for name, value in gene_metrics(prediction[gene, mask][None], truth[gene, mask][None]).items():
                columns[name][gene] = value[0]
    return columns


@dataclass(frozen=True)
class HiddenPair:
    """Result of `hide`: what a method gets, and the two scorers it does not get.

    `measured` shows the validation genes as well: what a prediction may use once they have stopped the training.
    """

    visible: VisiblePair
    measured: VisiblePair
    val: HiddenGenes
    test: HiddenGenes
    spots: npt.NDArray[np.bool_]  # (n_spots of the data set,) True where the spot is kept
    notes: tuple[str, ...]


def hide(prepared: PreparedPair, split: GeneSplit, config: Config) -> HiddenPair:
    """Remove the ST values of the validation and test genes.

    Totals, the scale N and the spot filter use the training genes alone. The truth of the test genes is normalised
    with the totals of every gene the ST measures, so that it is the same in each fold; that of the validation genes
    with totals without the test genes, because its score decides when training stops.

    Raises
    ------
    DataError
        No spot, or fewer than two training genes, have counts left.
    """
    counts = prepared.st_counts[:, locate(split.train, prepared.panel)].tocsr()
    keep = np.diff(counts.indptr) >= config.data.min_genes_per_spot
    if not keep.any():
        raise DataError(
            f"{prepared.name}: no spot has {config.data.min_genes_per_spot} detected training genes; "
            "lower data.min_genes_per_spot"
        )
    visible = _show(prepared, split.train, keep)
    n_detected, n_train = len(visible.train_genes), len(split.train)
    if n_detected < 2:
        raise DataError(f"{prepared.name}: {n_detected} of {n_train} training genes have ST counts; need 2")
    measured = _show(prepared, (*split.train, *split.val), keep, visible.x_sc)
    notes = _hide_notes(int((~keep).sum()), n_train - n_detected)
    val, test = _hide_genes(prepared, split, keep, config, "val"), _hide_genes(prepared, split, keep, config, "test")
    return HiddenPair(visible=visible, measured=measured, val=val, test=test, spots=keep, notes=notes)


def _show(
    prepared: PreparedPair, genes: tuple[str, ...], spots: npt.NDArray[np.bool_], x_sc: FloatArray | None = None
) -> VisiblePair:
    """What is seen where the ST measured `genes` at `spots`, and no other gene."""
    counts = prepared.st_counts[:, locate(genes, prepared.panel)].tocsr()[spots]
    detected = np.asarray((counts > 0).sum(axis=0)).ravel() > 0
    totals = np.asarray(counts.sum(axis=1)).ravel()
    x_st = log_normalise(counts, totals, float(np.median(totals))).toarray().T[detected]
    return VisiblePair(
        name=prepared.name,
        train_genes=tuple(gene for gene, there in zip(genes, detected, strict=True) if there),
        x_st=np.ascontiguousarray(x_st, dtype=np.float32),
        genes=prepared.panel,
        x_sc=prepared.sc_dense(prepared.panel) if x_sc is None else x_sc,
        coordinates=prepared.coordinates[spots].astype(np.float32),
        spot_names=tuple(name for name, kept in zip(prepared.spot_names, spots, strict=True) if kept),
        st_totals=totals.astype(np.float32),
        sc_totals=prepared.sc_totals.astype(np.float32),
        cell_components=prepared.cell_components,
        graph=prepared.graph,
    )


def _hide_notes(n_spots: int, n_genes: int) -> tuple[str, ...]:
    notes = []
    if n_spots:
        notes.append(f"{n_spots} spots dropped: too few detected training genes (data.min_genes_per_spot)")
    if n_genes:
        notes.append(f"{n_genes} training genes dropped: detected in no spot")
    return tuple(notes)


def _hide_genes(
    prepared: PreparedPair, split: GeneSplit, keep: np.ndarray, config: Config, part: Literal["val", "test"]
) -> HiddenGenes:
    genes, totals = getattr(split, part), prepared.st_totals
    if part == "val":  # what decides when training stops must not depend on a test gene, through totals neither
        seen = locate((*split.train, *split.val), prepared.panel)
        totals = np.asarray(prepared.st_counts[:, seen].sum(axis=1)).ravel()
    scale = float(np.median(totals[totals > 0]))
    counts = prepared.st_counts[:, locate(genes, prepared.panel)].tocsr()[keep]
    truth = log_normalise(counts, totals[keep], scale).toarray().T
    truth = np.ascontiguousarray(truth, dtype=np.float32)
    hidden = None
    if config.evaluation.protocol == "published" and part == "test":
        # one mask per split: the same entries are hidden from every method, level and seed
        rng = np.random.default_rng([config.split.seed, split.fold])
        hidden = (truth > 0) & (rng.random(truth.shape) < config.evaluation.hidden_fraction)
    return HiddenGenes(genes, truth, hidden, config.evaluation.min_spot_fraction)
