"""The centre of a prediction, refined: the mean of four kernel ridge regressions in expression space.

In the latent, one penalty serves every context, so that training sequences and predictions share one centre. A
prediction from all training genes can afford more: raw targets and targets standardised gene by gene, each with one
penalty and with a penalty for every spatial component of the training genes. All four are linear in the features. The
one penalty has the smallest leave-one-gene-out error over the training genes; that of a component has the smallest
relative error, averaged over neighbouring components, which are themselves those of all training genes. A second
opinion can be blended in: what the cells that a spot resembles express (`cell_map`).

Shapes: n training genes, G genes, S spots, r features, q spatial components, p penalties, k map features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cgd.regression.ridge import Ridge
from cgd.regression.svd import thin_svd

_PENALTIES = torch.logspace(-4, 3, 29, dtype=torch.float64)  # times the largest eigenvalue of the kernel
_SMOOTHING = 2.0  # neighbouring components over which relative errors are averaged before a penalty is chosen


@dataclass(frozen=True)
class RefinedCentre:
    """Pattern, level and spread of any gene over the spots, from its kernel features.

    Attributes
    ----------
    pattern
        (r + 1, S) weights of the mean of the four predictions, the last row an intercept; its scale means nothing.
    level
        (r + 1, S) weights of the prediction in expression units, which gives mean and spread over the spots.
    cell_patterns
        (k, S) patterns of a cell map that is blended in, None for none.
    cell_share
        Weight of its standardised pattern beside that of the regressions.
    """

    pattern: Tensor
    level: Tensor
    cell_patterns: Tensor | None = None
    cell_share: float = 0.0

    @classmethod
    def fit(cls, features: Tensor, x_st: Tensor) -> tuple[RefinedCentre, Tensor]:
        """From kernel features (n, r), centred and with orthogonal columns, and expression (n, S) of training genes.

        Returns the centre, and the (n, S) prediction of each training gene from the others, in expression units.
        """
        level, in_units = None, None
        pattern, left_out = features.new_zeros(()).double(), features.new_zeros(()).double()
        regression = _Regression(features)
        for targets in (x_st, standardise(x_st)):
            for fit in regression.fit(targets.double()):  # one after the other: each holds leave-one-out predictions
                if level is None:  # the first is in expression units
                    level, in_units = fit.weights, fit.left_out
                pattern = pattern + fit.weights / fit.spread
                left_out = left_out + fit.left_out / fit.spread
        assert level is not None
        assert in_units is not None
        alone = place_pattern(in_units, standardise(left_out, 1e-9))
        return cls(pattern.to(x_st.dtype), level.to(x_st.dtype)), alone.to(x_st.dtype)

    def blend(self, cell_patterns: Tensor, share: float) -> RefinedCentre:
        """With a share of a cell map's patterns (k, S)."""
        return replace(self, cell_patterns=cell_patterns, cell_share=share)

    def predict(self, features: Tensor, cell_features: Tensor | None = None) -> Tensor:
        """(G, S) expression of genes with kernel features (G, r) and, where a cell map is blended in, its (G, k)."""
        extended = torch.cat([features, features.new_ones(len(features), 1)], 1)  # (G, r + 1)
        in_units, pattern = extended @ self.level, standardise(extended @ self.pattern, 1e-9)  # (G, S) each
        if self.cell_patterns is not None:
            assert cell_features is not None
            mapped = standardise(cell_features @ self.cell_patterns)  # (G, S)
            pattern = standardise(pattern + self.cell_share * mapped, 1e-9)
        return place_pattern(in_units, pattern)


def place_pattern(in_units: Tensor, pattern: Tensor) -> Tensor:
    """A standardised pattern (G, S) at the mean and spread of predictions (G, S) in expression units."""
    return in_units.mean(1, keepdim=True) + in_units.std(1, correction=0, keepdim=True) * pattern


def standardise(x: Tensor, least: float = 1e-6) -> Tensor:
    """Rows to mean 0 and standard deviation 1; a row that varies by no more than `least` becomes 0."""
    spread = x.std(1, correction=0, keepdim=True)
    return torch.where(spread > least, (x - x.mean(1, keepdim=True)) / spread.clamp_min(least), 0.0)


@dataclass(frozen=True)
class _Fit:
    """One regression: (r + 1, S) weights, the last row an intercept, (n, S) leave-one-out predictions of the training
    genes, and their spread about their means over the spots."""

    weights: Tensor
    left_out: Tensor
    spread: Tensor


class _Regression(Ridge):
    """Ridge regressions on the features of a kernel, each with the penalties that suit its targets."""

    def __init__(self, features: Tensor) -> None:
        super().__init__(features)
        largest = self.values.max() if len(self.values) else self.values.new_zeros(())
        self.penalties = _PENALTIES.to(features.device) * largest.clamp_min(1e-12)

    def fit(self, targets: Tensor) -> Iterator[_Fit]:
        """With one penalty, and with one for each component of the targets (n, S)."""
        mean = targets.mean(0)
        left, singular, axes = thin_svd(targets - mean, 1e-10)
        components, patterns = left * singular, axes.T  # (n, q), (q, S)
        errors = torch.stack([self.leave_one_out(components, p).square().sum(0) for p in self.penalties])  # (p, q)
        common = errors.sum(1).argmin().expand(errors.shape[1])  # (q,) index of a penalty
        own = _smooth(errors / components.square().sum(0).clamp_min(1e-12)).argmin(0)
        for chosen in (common, own):
            yield self._solve(components, patterns, mean, chosen)

    def _solve(self, components: Tensor, patterns: Tensor, mean: Tensor, chosen: Tensor) -> _Fit:
        weights = self.features.new_zeros(self.features.shape[1], components.shape[1])
        predicted = torch.zeros_like(components)
        for index in chosen.unique():
            alike, penalty = chosen == index, self.penalties[index]  # components that share a penalty
            weights[:, alike] = self.solve(components[:, alike], penalty)
            predicted[:, alike] = components[:, alike] - self.leave_one_out(components[:, alike], penalty)
        left_out = predicted @ patterns + mean
        spread = (left_out - left_out.mean(1, keepdim=True)).square().mean().sqrt().clamp_min(1e-9)
        return _Fit(torch.cat([weights @ patterns, mean[None]]), left_out, spread)


def _smooth(errors: Tensor) -> Tensor:
    """(p, q) errors averaged over neighbouring components with Gaussian weights; the ends are repeated."""
    if not errors.shape[1]:
        return errors
    reach = int(3 * _SMOOTHING)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=errors.device) / _SMOOTHING).square()).double()
    padded = torch.cat([errors[:, :1].expand(-1, reach), errors, errors[:, -1:].expand(-1, reach)], 1)
    return torch.nn.functional.conv1d(padded[:, None], (kernel / kernel.sum())[None, None])[:, 0]
