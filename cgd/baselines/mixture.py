"""Cell types of the scRNA-seq, and the mixture of them that each spot is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from cgd.data.protocol import FloatArray
from cgd.random import derive_seed

Matrix = npt.NDArray[np.float64]

_N_COMPONENTS = 20
_TINY = 1e-9


def cell_type_means(cells: FloatArray, n_types: int, seed: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Means (n_found, n_genes) and labels (n_cells,) of k-means clusters of log-normalised cells (n_cells, n_genes).

    Clusters are sought in the first 20 principal components; those that end up empty are left out.
    """
    rng = np.random.default_rng(derive_seed(seed, "cell types"))
    centred = (cells - cells.mean(axis=0)).astype(np.float64)
    # eigh of the smaller product: a panel can have thousands of genes
    if centred.shape[1] <= centred.shape[0]:
        scores = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -_N_COMPONENTS:]
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        scores = (vectors * np.sqrt(np.maximum(values, 0)))[:, -_N_COMPONENTS:]
    _, labels = kmeans2(scores, min(n_types, len(cells)), minit="++", rng=rng)
    found, labels = np.unique(labels, return_inverse=True)
    means = np.stack([cells[labels == k].mean(axis=0) for k in range(len(found))])
    return means, labels


def poisson_mixture(
    counts: Matrix, profiles: Matrix, n_rounds: int = 3, n_iterations: int = 60
) -> tuple[Matrix, Matrix]:
    """Non-negative weights of types in spots, by maximum likelihood of Poisson counts.

    counts[s, g] ~ Poisson(platform[g] * sum_k weights[s, k] profiles[k, g]). Weights by the multiplicative updates
    that never lower the likelihood (Lee and Seung 2001), all spots at once; then platform factors that match each
    gene's sum over spots; and again.

    Parameters
    ----------
    counts
        (n_spots, n_genes) counts, or values proportional to them within a spot.
    profiles
        (n_types, n_genes) expected counts of a cell of each type.

    Returns
    -------
    weights, platform
        (n_spots, n_types), in cells; (n_genes,), geometric mean 1.
    """
    platform = np.ones(counts.shape[1])
    weights = np.full((len(counts), len(profiles)), counts.sum() / (len(counts) * profiles.sum() + _TINY) + _TINY)
    for _ in range(n_rounds):
        basis = profiles * platform + _TINY
        for _ in range(n_iterations):
            weights = weights * ((counts / (weights @ basis)) @ basis.T / basis.sum(axis=1)) + 1e-12
        # the platform that maximises the likelihood, given the weights
        ratio = (counts.sum(axis=0) + _TINY) / ((weights @ profiles).sum(axis=0) + _TINY)
        platform = np.clip(ratio, 1e-3, 1e3)  # a gene that one technology hardly sees says nothing about the other
        # weights and platform have one factor between them: the weights take it
        platform = platform / np.exp(np.log(platform).mean())
    return weights, platform
