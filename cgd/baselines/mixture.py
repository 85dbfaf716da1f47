"""Cell types of the scRNA-seq, and what mixture of them each spot is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from cgd.data.protocol import FloatArray
from cgd.random import derive_seed

Matrix = npt.NDArray[np.float64]


def cell_type_means(cells: FloatArray, n_types: int, seed: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Means (n_types, n_genes) and labels (n_cells,) of k-means clusters of log-normalised cells (n_cells, n_genes).

    Clusters are found in the first 20 principal components. Clusters that end up empty are left out.
    """
    rng = np.random.default_rng(derive_seed(seed, "cell types"))
    centred = cells - cells.mean(0)
    n_components = min(20, *cells.shape)
    gram = centred.astype(np.float64)
    small = gram.T @ gram if gram.shape[1] <= gram.shape[0] else gram @ gram.T
    values, vectors = np.linalg.eigh(small)
    vectors = vectors[:, -n_components:]
    scores = gram @ vectors if gram.shape[1] <= gram.shape[0] else vectors * np.sqrt(np.maximum(values[-n_components:], 0))
    _, labels = kmeans2(scores, min(n_types, len(cells)), minit="++", seed=rng)
    found, labels = np.unique(labels, return_inverse=True)
    means = np.stack([cells[labels == k].mean(0) for k in range(len(found))])
    return means.astype(np.float32), labels


def poisson_mixture(
    counts: Matrix, profiles: Matrix, n_iterations: int = 200, n_rounds: int = 3
) -> tuple[Matrix, Matrix]:
    """Non-negative weights of cell types in spots, by maximum likelihood of Poisson counts."""
    capture = np.ones(counts.shape[1])
    weights = np.full((len(counts), len(profiles)), counts.sum() / max(profiles.mean(0).sum() * counts.shape[0] * len(profiles), 1e-12))
    for _ in range(n_rounds):
        basis = profiles * capture + 1e-9
        for _ in range(n_iterations // n_rounds):
            weights *= (counts / (weights @ basis + 1e-12)) @ basis.T / basis.sum(1)
        expected = (weights @ profiles).sum(0)
        capture = np.clip((counts.sum(0) + 1e-9) / (expected + 1e-9), 1e-3, 1e3)
        capture /= np.exp(np.mean(np.log(capture)))
    return weights, capture
