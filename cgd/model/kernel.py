"""Similarity of genes in the scRNA-seq, as features whose inner products are the kernel.

Shapes: n training genes, G genes, C cells, r features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_FEATURES = 512


@dataclass(frozen=True)
class GeneKernel:
    """Kernel over genes, centred on the training genes; the mean of its diagonal there is 1.

    With sharpness s > 0 the equal sum of the linear kernel of the scRNA profiles and of exp(-s (1 - r)), r the
    correlation of two genes over the cells: the first follows the abundant genes, the second asks how alike two genes
    are whatever their abundance. With s = 0 the linear kernel alone. Given principal components of the cells, both
    parts stand a second time, for the profiles projected on them: every gene of the scRNA-seq has a say in which
    differences between cells are signal.

    Attributes
    ----------
    profiles
        (n, C) scRNA profiles of the training genes.
    sharpness
        s.
    components
        (C, k) orthonormal components of the cells, k = 0 for none.
    moments
        Per part of the kernel: (n,) means of the rows of its matrix over the training genes, and the mean of the
        diagonal of the centred matrix.
    projection
        (n, r) from kernel values to features.
    """

    profiles: Tensor
    sharpness: float
    components: Tensor
    moments: tuple[tuple[Tensor, Tensor], ...]
    projection: Tensor

    @classmethod
    def fit(cls, x_sc: Tensor, sharpness: float, components: Tensor | None = None) -> GeneKernel:
        """Kernel of the scRNA profiles (n, C) of the training genes, with (C, k) components of the cells."""
        components = x_sc.new_zeros(x_sc.shape[1], 0) if components is None else components
        moments = []
        for part in _compute_parts(x_sc, x_sc, sharpness, components):
            diagonal = part.diagonal() - 2 * part.mean(1) + part.mean()
            moments.append((part.mean(1), diagonal.mean().clamp_min(1e-12)))
        kernel = cls(x_sc, sharpness, components, tuple(moments), x_sc[:, :0])
        values, vectors = torch.linalg.eigh(kernel._centre(x_sc))  # (n,), (n, n)
        keep = values.argsort(descending=True)[:_MAX_FEATURES]
        keep = keep[values[keep] > 1e-7 * values.max().clamp_min(1e-30)]  # the profiles are float32: less is rounding
        return cls(x_sc, sharpness, components, tuple(moments), vectors[:, keep] / values[keep].sqrt())

    def embed(self, x_sc: Tensor) -> Tensor:
        """(G, r) features of scRNA profiles (G, C)."""
        return (self._centre(x_sc) @ self.projection).to(x_sc.dtype)

    def _centre(self, x_sc: Tensor) -> Tensor:
        """(G, n) float64 kernel values between any genes and the training genes."""
        parts = _compute_parts(x_sc, self.profiles, self.sharpness, self.components)
        total = torch.zeros_like(parts[0])
        for part, (row_mean, diagonal) in zip(parts, self.moments, strict=True):
            # centred on the training genes, so that the regression needs no intercept; each part weighs the same
            total += (part - part.mean(1, keepdim=True) - row_mean + row_mean.mean()) / diagonal  # (G, n)
        return total / len(parts)


def _compute_parts(x: Tensor, y: Tensor, sharpness: float, components: Tensor) -> list[Tensor]:
    """(G, n) float64 kernel values of the rows of x (G, C) and y (n, C), for each part of the kernel."""
    mean = y.mean(0)  # drops out of the centred kernel; taken off for the sake of precision
    parts = [((x - mean) @ (y - mean).T).double()]
    unit_x, unit_y = _centre_rows(x), _centre_rows(y)
    if sharpness > 0:
        parts.append(_sharpen(unit_x @ unit_y.T, sharpness))
    if components.shape[1]:
        unit_x, unit_y = unit_x @ components, unit_y @ components
        parts.append((unit_x @ unit_y.T).double())
        if sharpness > 0:
            parts.append(_sharpen(_scale_rows(unit_x) @ _scale_rows(unit_y).T, sharpness))
    return parts


def _sharpen(correlation: Tensor, sharpness: float) -> Tensor:
    return torch.exp(sharpness * (correlation.double() - 1))


def _centre_rows(x: Tensor) -> Tensor:
    """Rows centred and of unit length: their inner products are correlations. A constant row becomes 0."""
    centred = x - x.mean(1, keepdim=True)
    varies = centred.norm(dim=1, keepdim=True) > 1e-6 * x.norm(dim=1, keepdim=True)  # below it is rounding
    return _scale_rows(torch.where(varies, centred, 0.0))


def _scale_rows(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
