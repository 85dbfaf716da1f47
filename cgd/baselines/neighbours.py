"""The nearest cells of each spot and the weights with which their expression is averaged, as in SpaGE and stPlus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cgd.data.protocol import FloatArray

Matrix = npt.NDArray[np.float64]
_BLOCK = 512  # spots whose distances to all cells are held at once


@dataclass(frozen=True)
class Neighbours:
    """The k nearest cells of each spot.

    Attributes
    ----------
    cells
        (n_spots, k) indices of the cells.
    weights
        (n_spots, k), rows sum to 1.
    """

    cells: npt.NDArray[np.intp]
    weights: Matrix

    def average(self, rows: FloatArray) -> FloatArray:
        """(n_genes, n_cells) expression in cells -> (n_genes, n_spots) weighted mean over each spot's cells."""
        weights = self.weights.astype(np.float32)
        predicted = np.empty((len(rows), len(self.cells)), dtype=np.float32)
        for gene, row in enumerate(rows):  # not all at once: n_genes * n_spots * k values need not fit in memory
            predicted[gene] = np.einsum("sk,sk->s", row[self.cells], weights)
        return predicted


def nearest_cells(spots: npt.NDArray[Any], cells: npt.NDArray[Any], n_neighbours: int) -> Neighbours:
    """The cells at the smallest cosine distance d, weighted by (1 - d / sum d) / (k' - 1) over the k' with d < 1.

    The published formula is undefined in corners that real spots reach, for which this holds: a spot with one such
    cell takes it whole, a spot with none and a spot with only identical cells (sum d = 0) take the plain mean.

    Parameters
    ----------
    spots, cells
        (n_spots, d) and (n_cells, d), the same space, float32 or float64; a zero vector is at distance 1 of everything.
    n_neighbours
        k; no more than there are cells.
    """
    k = min(n_neighbours, len(cells))
    unit_spots, unit_cells = _unit_rows(spots), _unit_rows(cells)
    blocks = [unit_spots[i : i + _BLOCK] @ unit_cells.T for i in range(0, len(spots), _BLOCK)]
    found = [_largest(block, k) for block in blocks]
    indices = np.concatenate([index for index, _ in found])
    distances = np.clip(1.0 - np.concatenate([similarity for _, similarity in found]).astype(np.float64), 0.0, 2.0)
    return Neighbours(indices, _weights(distances))


def _largest(similarity: npt.NDArray[Any], k: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    index = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return index, np.take_along_axis(similarity, index, axis=1)


def _weights(distances: Matrix) -> Matrix:
    near = distances < 1  # a cell at 1 or more says nothing, or the opposite
    total = np.where(near, distances, 0.0).sum(axis=1, keepdims=True)
    n_near = near.sum(axis=1, keepdims=True)
    safe_total = np.where(total > 0, total, 1.0)
    weights = np.where(near, 1.0 - distances / safe_total, 0.0) / np.maximum(n_near - 1, 1)
    weights = np.where(n_near == 1, near, weights)
    # 0 / 0 in the formula: no near cell, or near cells all at distance 0
    undefined = (n_near == 0) | ((total == 0) & (n_near > 1))
    plain = np.where(n_near == 0, 1.0, near) / np.where(n_near == 0, near.shape[1], n_near)
    return np.where(undefined, plain, weights)


def _unit_rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, x.dtype.type(1))
