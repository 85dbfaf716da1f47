"""What the cells that a spot resembles express: a second opinion on a gene's pattern beside the regression over genes.

Each spot attends to the cells by the cosine of their standardised profiles over the training genes; a gene's pattern
is what the attended cells express of it. A regression over genes asks which measured genes a gene behaves like; this
asks where its cells are. Where the cells of the scRNA-seq are those of the tissue the two err differently and their
blend is better than either; where they are not the map is worthless. How much of it is blended in is chosen by how well
training genes are predicted that neither was given.

Shapes: n training genes, G genes, S spots, C cells, k components.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cgd.model.refinement import standardise
from cgd.regression.svd import thin_svd

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # of the map, beside 1 of the regression
_DOUBLINGS = 3  # attention of sharpness 5, 10 and 20 is averaged
_SHARPNESS = 5.0
_DEPTH = 10  # leading components of the cells along which profiles are compared too
_RANK = 128  # the map is smooth: what further components hold is mostly noise
_FOLDS = 10
_MAX_SPOTS = 1500  # the share and the components are found on no more spots than this, drawn at random
_CHUNK = 2**18  # spots x cells attended at once, so that they stay in a processor's cache ...
_LEAST_ROWS = 64  # ... except for very many cells


@dataclass(frozen=True)
class CellMap:
    """A map from cells to spots, factored.

    Attributes
    ----------
    components
        (C, k) orthonormal: what of a gene's expression over the cells the map carries over.
    patterns
        (k, S) where it carries them.
    share
        Weight of the map's standardised pattern beside the regression's.
    """

    components: Tensor
    patterns: Tensor
    share: float

    @classmethod
    def fit(cls, x_sc: Tensor, x_st: Tensor, left_out: Tensor) -> CellMap | None:
        """From the training genes alone; None where the map does not help.

        Parameters
        ----------
        x_sc, x_st
            (n, C) and (n, S) expression of the training genes.
        left_out
            (n, S) the regression's prediction of each training gene from the others.
        """
        cells, spots = standardise(x_sc), standardise(x_st)
        some = _draw_spots(spots.shape[1], spots.device)
        basis = _find_leading(cells, _DEPTH)
        share = _choose_share(x_sc, cells, spots[:, some], left_out[:, some], basis)
        if not share:
            return None
        attention = torch.cat(list(_attend(cells, spots[:, some], basis)))
        components = _find_leading((attention - attention.mean(0)).T, _RANK)
        patterns = torch.cat([rows @ components for rows in _attend(cells, spots, basis)]).T
        return cls(components, (patterns - patterns.mean(1, keepdim=True)).contiguous(), share)

    def embed(self, x_sc: Tensor) -> Tensor:
        """(G, k) what the map carries over of any genes' expression (G, C): with `patterns` their pattern."""
        return x_sc @ self.components


def _draw_spots(n_spots: int, device: torch.device) -> Tensor:
    """The same for every seed: what is found on them is no part of the noise between seeds."""
    drawn = np.random.default_rng(0).permutation(n_spots)[:_MAX_SPOTS]
    return torch.from_numpy(np.sort(drawn)).to(device)


def _find_leading(x: Tensor, n: int) -> Tensor:
    """(rows, up to n) leading left-singular vectors of x."""
    return thin_svd(x, 1e-10, n)[0].float().contiguous()


def _attend(cells: Tensor, spots: Tensor, basis: Tensor) -> Iterator[Tensor]:
    """Rows of the (S, C) attention, chunk after chunk; each sums to 1.

    The mean over profiles as they are and along the components, and over sharpness.
    """
    views = [
        (_scale_columns(cells), _scale_columns(spots)),
        (_scale_columns(basis.T @ cells), _scale_columns(basis.T @ spots)),
    ]
    size = max(_LEAST_ROWS, _CHUNK // cells.shape[1])
    for start in range(0, spots.shape[1], size):
        total = cells.new_zeros(())
        for of_cells, of_spots in views:
            weight = torch.exp(_SHARPNESS * (of_spots[:, start : start + size].T @ of_cells - 1))  # (chunk, C)
            for _ in range(_DOUBLINGS):
                total = total + weight / weight.sum(1, keepdim=True)
                weight = weight.square()  # of twice the sharpness, without another exponential
        yield total / (len(views) * _DOUBLINGS)


def _scale_columns(x: Tensor) -> Tensor:
    """Columns of unit length, so that inner products are cosines; 0 stays 0."""
    return x / x.norm(dim=0, keepdim=True).clamp_min(1e-9)


def _choose_share(x_sc: Tensor, cells: Tensor, spots: Tensor, left_out: Tensor, basis: Tensor) -> float:
    """The share with the best mean PCC over training genes that the map was not given; 0 with fewer than 3 genes.

    The regression's own penalties were chosen on these genes, which flatters it: if anything the share is too small.
    """
    n_genes = len(spots)
    if n_genes < 3:
        return 0.0
    mapped = torch.empty_like(spots)
    order = torch.from_numpy(np.random.default_rng(0).permutation(n_genes)).to(spots.device)
    for fold in range(min(_FOLDS, n_genes)):
        out = order[fold::_FOLDS]
        keep = torch.ones(n_genes, dtype=torch.bool, device=spots.device)
        keep[out] = False
        rows, attention = x_sc[out], _attend(cells[keep], spots[keep], basis[keep])
        mapped[out] = torch.cat([rows @ chunk.T for chunk in attention], 1)
    truth, mapped, regressed = (standardise(x) for x in (spots, mapped, left_out))
    scores = [float((standardise(regressed + share * mapped) * truth).mean()) for share in SHARES]
    return SHARES[int(np.argmax(scores))]
