"""Do intervals hold what they promise, and what is their width worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cgd.calibration import LEVEL, Calibration, SpreadTrend
from cgd.metrics.floors import gene_mean

if TYPE_CHECKING:  # cgd.data.protocol scores with cgd.metrics, so at run time the import goes that way only
    from cgd.data.protocol import HiddenGenes, HiddenPair

FloatArray = npt.NDArray[np.float32]


def score_intervals(low: FloatArray, high: FloatArray, test: HiddenGenes) -> tuple[float, float]:
    """Mean over scored genes of the coverage, and of the mean width in standard deviations of the gene over spots.

    Parameters
    ----------
    low, high
        (n_genes, n_spots); an upper bound may be infinite.
    test
        The truth.

    Returns
    -------
    coverage, width
        NaN without a scored gene; a constant gene has no width. The width is infinite where a bound is.

    Raises
    ------
    ValueError
        A lower bound above its upper bound, or a bound that is NaN.
    """
    low, high, truth = low[test.scored], high[test.scored], test.truth[test.scored].astype(np.float64)
    if not len(truth):
        return float("nan"), float("nan")
    if not (low <= high).all():
        n_wrong = int((~(low <= high)).sum())
        raise ValueError(f"a lower bound must be a number not above its upper bound, found {n_wrong} that are not")
    covered = (low <= truth) & (truth <= high)
    spread = truth.std(axis=1)
    varies = spread > 1e-6 * truth.max(axis=1)
    width = (high.astype(np.float64) - low).mean(axis=1)[varies] / spread[varies]
    return float(covered.mean(axis=1).mean()), float(width.mean()) if width.size else float("nan")


def constant_intervals(hidden: HiddenPair) -> tuple[FloatArray, FloatArray]:
    """Intervals for the test genes that ignore the model: the same bounds at every spot of a gene.

    About the level that the gene's scRNA-seq mean predicts, with the same spread trend and the same calibration on the
    same genes. Narrower intervals than these are what a model's spatial pattern is worth.
    """
    visible, val, test = hidden.visible, hidden.val, hidden.test
    trend = SpreadTrend.fit(visible.x_st)
    center = gene_mean(visible, val.genes)
    calibration = Calibration(val.conformity(center, trend(center)), trend)
    return calibration.interval(gene_mean(visible, test.genes), LEVEL)
