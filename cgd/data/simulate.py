"""A simulated tissue with a known regulatory graph, measured in place (ST) and dissociated (scRNA-seq).

Every cell, whether measured in place or dissociated, is drawn from one tissue: smooth fields place the cell types,
regulators vary between types, over space within a type and from cell to cell, and a directed acyclic graph carries
their activity to the targets. What a held-out gene looks like in space therefore follows from the other genes and the
scRNA-seq, up to the counting noise of the two technologies.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from cgd.errors import ConfigError, closest

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Technology:
    """How a technology turns the expression of cells into counts.

    Attributes
    ----------
    capture
        Mean share of a cell's molecules that is counted.
    capture_sd
        Standard deviation of log capture between spots or cells.
    gene_sd
        Standard deviation of log capture between genes (probe or primer efficiency).
    dropout
        Probability that a gene is lost in a spot whatever its expression.
    dispersion
        Overdispersion of the negative binomial: variance = mean + dispersion * mean^2.
    cells_per_spot
        Mean number of cells a spot mixes; 1 for imaging with single-cell resolution.
    grid
        Spots on a hexagonal grid instead of at the cells' own positions.
    """

    capture: float
    capture_sd: float
    gene_sd: float
    dropout: float
    dispersion: float
    cells_per_spot: float = 1.0
    grid: bool = False


TECHNOLOGIES: dict[str, Technology] = {
    "visium": Technology(0.05, 0.30, 0.5, 0.10, 0.10, cells_per_spot=6.0, grid=True),
    "starmap": Technology(0.20, 0.30, 0.7, 0.25, 0.25),
    "osmfish": Technology(0.50, 0.25, 0.5, 0.10, 0.20),
    "merfish": Technology(0.60, 0.25, 0.5, 0.05, 0.15),
    "seqfish": Technology(0.90, 0.20, 0.5, 0.02, 0.15),
}
SC_TECHNOLOGY = Technology(0.20, 0.35, 0.3, 0.10, 0.20)

MOLECULES_PER_GENE = 8.0  # median over genes of the mean number in a cell
TYPE_SD, NICHE_SD, CELL_SD = 0.9, 0.5, 0.5  # of a regulator: between types, over space within a type, between cells
FIELD_LENGTH = 0.22  # of the smooth fields, in units of the tissue's side
N_WAVES = 64  # of which a smooth field is a sum
TYPE_CONTRAST = 3.5  # of the fields that place cell types: higher is purer neighbourhoods


@dataclass(frozen=True)
class Simulation:
    """Result of `simulate_pair`.

    Attributes
    ----------
    adata_st
        (n_spots, n_genes) counts, CSR float32; `obsm["spatial"]`, `obs["cell_type"]` (the most frequent of the spot).
    adata_sc
        (n_cells, n_genes) counts, CSR float32; `obs["cell_type"]`.
    graph
        The regulatory graph: columns regulator, target, weight (change of the target's log expression per unit of
        the regulator's). Also in `uns["regulatory_graph"]` of both.
    """

    adata_st: ad.AnnData
    adata_sc: ad.AnnData
    graph: pd.DataFrame


def simulate_pair(
    n_spots: int = 400,
    n_cells: int = 500,
    n_genes: int = 150,
    n_regulators: int = 20,
    n_cell_types: int = 6,
    technology: str = "visium",
    seed: int = 0,
) -> Simulation:
    """Simulate a matched ST and scRNA-seq pair over the same genes.

    Parameters
    ----------
    n_spots, n_cells
        Observations of the two modalities.
    n_genes
        Genes measured in both, `n_regulators` of them regulators.
    n_regulators
        Regulators, which may regulate each other along the order of their names, and every other gene.
    n_cell_types
        Cell types of the tissue.
    technology
        A key of `TECHNOLOGIES`, for the ST side.
    seed
        The same arguments and seed give the same counts bit for bit.

    Raises
    ------
    ConfigError
        An argument out of range or an unknown technology.
    """
    arguments = dict(locals())
    _check(arguments)
    rng = np.random.default_rng(seed)
    tissue = _Tissue.grow(rng, n_genes, n_regulators, n_cell_types)
    adata_st = _measure_spots(rng, tissue, TECHNOLOGIES[technology], n_spots)
    adata_sc = _measure_cells(rng, tissue, SC_TECHNOLOGY, n_cells)
    graph = tissue.graph()
    for adata, settings in ((adata_st, TECHNOLOGIES[technology]), (adata_sc, SC_TECHNOLOGY)):
        adata.uns["regulatory_graph"] = graph.copy()
        adata.uns["provenance"] = json.dumps({"simulated": True, **arguments, "settings": asdict(settings)})
    return Simulation(adata_st, adata_sc, graph)


def _check(arguments: dict[str, Any]) -> None:
    lowest = {"n_spots": 2, "n_cells": 2, "n_genes": 2, "n_regulators": 1, "n_cell_types": 1, "seed": 0}
    for name, low in lowest.items():
        value = arguments[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f"simulate_pair: {name} must be a whole number of at least {low}, found {value!r}")
    if arguments["n_regulators"] >= arguments["n_genes"]:
        raise ConfigError(
            f"simulate_pair: n_regulators ({arguments['n_regulators']}) must be below n_genes "
            f"({arguments['n_genes']}), so that targets are left; raise n_genes or lower n_regulators"
        )
    if arguments["technology"] not in TECHNOLOGIES:
        wrong = str(arguments["technology"])
        raise ConfigError(f"simulate_pair: unknown technology '{wrong}'; {closest(wrong, TECHNOLOGIES)}")


@dataclass(frozen=True)
class _Fields:
    """Smooth random functions of the position: sums of plane waves, unit variance over draws."""

    frequencies: Matrix  # (n_fields, N_WAVES, 2)
    phases: Matrix  # (n_fields, N_WAVES)

    @classmethod
    def draw(cls, rng: np.random.Generator, n_fields: int) -> _Fields:
        frequencies = rng.normal(0.0, 1.0 / FIELD_LENGTH, (n_fields, N_WAVES, 2))
        return cls(frequencies, rng.uniform(0.0, 2 * np.pi, (n_fields, N_WAVES)))

    def evaluate(self, positions: Matrix) -> Matrix:
        """(n_positions, n_fields) values at (n_positions, 2) positions in the unit square."""
        angles = np.einsum("pd,fwd->pfw", positions, self.frequencies) + self.phases
        return np.sqrt(2.0 / N_WAVES) * np.cos(angles).sum(axis=2)


@dataclass(frozen=True)
class _Tissue:
    """The common origin of both modalities."""

    type_fields: _Fields  # where each type lives
    niche_fields: _Fields  # how each regulator varies over space within a type
    type_activity: Matrix  # (n_cell_types, n_regulators)
    among_regulators: Matrix  # (n_regulators, n_regulators), strictly upper triangular: a graph without cycles
    to_targets: Matrix  # (n_regulators, n_targets)
    log_level: Matrix  # (n_genes,) log molecules per cell at zero activity

    @classmethod
    def grow(cls, rng: np.random.Generator, n_genes: int, n_regulators: int, n_cell_types: int) -> _Tissue:
        return cls(
            type_fields=_Fields.draw(rng, n_cell_types),
            niche_fields=_Fields.draw(rng, n_regulators),
            type_activity=rng.normal(0.0, TYPE_SD, (n_cell_types, n_regulators)),
            among_regulators=np.triu(_random_edges(rng, n_regulators, n_regulators, max_parents=1), k=1),
            to_targets=_random_edges(rng, n_regulators, n_genes - n_regulators, max_parents=3),
            log_level=rng.normal(np.log(MOLECULES_PER_GENE), 0.8, n_genes),
        )

    def cells(self, rng: np.random.Generator, positions: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
        """Types (n,) and expected molecules (n, n_genes) of cells at (n, 2) positions."""
        fields = self.type_fields.evaluate(positions)
        appeal = TYPE_CONTRAST * fields + rng.gumbel(size=fields.shape)
        types = appeal.argmax(axis=1)  # a draw from the softmax of the fields
        own = CELL_SD * rng.normal(size=(len(positions), len(self.to_targets)))
        activity = self.type_activity[types] + NICHE_SD * self.niche_fields.evaluate(positions) + own
        for r in range(1, activity.shape[1]):
            activity[:, r] += (activity[:, :r] * self.among_regulators[:r, r]).sum(axis=1)
        # einsum and not @: a multi-threaded product may round differently, and then the counts differ
        driven = np.einsum("nr,rt->nt", activity, self.to_targets)
        log_rate = self.log_level + np.hstack([activity, driven])
        return types, np.exp(np.minimum(log_rate, np.log(MOLECULES_PER_GENE) + 5.0))

    def gene_names(self) -> list[str]:
        n_regulators, n_targets = self.to_targets.shape
        names = [f"Reg{i:03d}" for i in range(n_regulators)]
        return names + [f"Target{i:04d}" for i in range(n_targets)]

    def graph(self) -> pd.DataFrame:
        weights = np.hstack([self.among_regulators, self.to_targets])
        names = np.array(self.gene_names(), dtype=object)
        regulator, target = np.nonzero(weights)
        return pd.DataFrame(
            {"regulator": names[regulator], "target": names[target], "weight": weights[regulator, target]}
        )


def _random_edges(rng: np.random.Generator, n_regulators: int, n_targets: int, max_parents: int) -> Matrix:
    """(n_regulators, n_targets) weights: 1 to `max_parents` regulators each, two thirds of them activating."""
    n_parents = rng.integers(1, max_parents + 1, n_targets)
    rank = rng.random((n_regulators, n_targets)).argsort(axis=0).argsort(axis=0)
    sign = np.where(rng.random((n_regulators, n_targets)) < 2 / 3, 1.0, -1.0)
    size = rng.uniform(0.4, 1.0, (n_regulators, n_targets)) / np.sqrt(n_parents)
    return np.where(rank < n_parents, sign * size, 0.0)


def _measure_spots(rng: np.random.Generator, tissue: _Tissue, technology: Technology, n_spots: int) -> ad.AnnData:
    positions = _hexagonal_grid(n_spots) if technology.grid else rng.random((n_spots, 2))
    n_mixed = 1 + rng.poisson(technology.cells_per_spot - 1, n_spots)
    spot = np.repeat(np.arange(n_spots), n_mixed)
    types, molecules = tissue.cells(rng, positions[spot])
    mixed = np.add.reduceat(molecules, np.concatenate([[0], np.cumsum(n_mixed)[:-1]]), axis=0)
    per_type = np.zeros((n_spots, len(tissue.type_activity)))
    np.add.at(per_type, (spot, types), 1.0)
    adata = _adata(tissue, _count(rng, mixed, technology), per_type.argmax(axis=1), "spot")
    adata.obsm["spatial"] = positions
    return adata


def _measure_cells(rng: np.random.Generator, tissue: _Tissue, technology: Technology, n_cells: int) -> ad.AnnData:
    """Cells from anywhere in the tissue, their positions lost."""
    types, molecules = tissue.cells(rng, rng.random((n_cells, 2)))
    return _adata(tissue, _count(rng, molecules, technology), types, "cell")


def _hexagonal_grid(n_spots: int) -> Matrix:
    """(n_spots, 2) positions in the unit square, row by row."""
    n_columns = int(np.ceil(np.sqrt(n_spots)))
    row, column = np.divmod(np.arange(n_spots), n_columns)
    x = (column + 0.5 * (row % 2) + 0.25) / (n_columns + 0.5)
    return np.column_stack([x, (row + 0.5) / (row.max() + 1)])


def _count(rng: np.random.Generator, molecules: Matrix, technology: Technology) -> sp.csr_matrix:
    """Negative-binomial counts of (n, n_genes) expected molecules, some genes of a spot lost to dropout."""
    n, n_genes = molecules.shape
    of_spot = rng.lognormal(-(technology.capture_sd**2) / 2, technology.capture_sd, (n, 1))
    of_gene = rng.lognormal(-(technology.gene_sd**2) / 2, technology.gene_sd, n_genes)
    mean = technology.capture * of_spot * of_gene * molecules
    counts = rng.poisson(rng.gamma(1.0 / technology.dispersion, technology.dispersion * mean))
    counts[rng.random(counts.shape) < technology.dropout] = 0
    return sp.csr_matrix(counts.astype(np.float32))


def _adata(tissue: _Tissue, counts: sp.csr_matrix, types: npt.NDArray[np.int64], kind: str) -> ad.AnnData:
    names = np.array([f"type_{k}" for k in range(len(tissue.type_activity))])
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(names[types], categories=names)},
        index=[f"{kind}_{i}" for i in range(counts.shape[0])],
    )
    return ad.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=tissue.gene_names()))
