"""What metrics, floors and costs are called and what they mean: said here once, for results, reports and notes.

Definitions: Li et al., Nature Methods 19:662 (2022); Spearman, Am. J. Psychol. 15:72 (1904).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

PRIMARY = "pcc"
CEILING = "ceiling"


@dataclass(frozen=True)
class Metric:
    """What a reader of a number must know.

    Attributes
    ----------
    name, label
        In the results, and in tables and figures.
    direction
        Which is better; None where neither is.
    range
        Lowest and highest possible value, both included; None where open.
    reference
        What a perfect prediction scores (of a coverage: what is promised); None where that means nothing.
    description
        One sentence.
    """

    name: str
    label: str
    direction: Literal["higher", "lower"] | None
    range: tuple[float | None, float | None]
    reference: float | None
    description: str

    @property
    def sign(self) -> int:
        """1 or -1, times which a value is the better the larger it is; 0 without a direction."""
        return {"higher": 1, "lower": -1, None: 0}[self.direction]

    @property
    def heading(self) -> str:
        """The label with an arrow to what is better."""
        return self.label + {"higher": " ↑", "lower": " ↓", None: ""}[self.direction]


@dataclass(frozen=True)
class Floor:
    """What a prediction is compared with. `name` in the results, `label` in words, `short_label` in few."""

    name: str
    label: str
    short_label: str
    description: str
    is_ceiling: bool = False
    is_fill: bool = False  # of the hidden entries: under the `published` protocol alone


def _amount(name: str, label: str, description: str, reference: float | None = None) -> Metric:
    """Something of which less is better, without a bound above."""
    return Metric(name, label, "lower", (0.0, None), reference, description)


_SCORES = (
    Metric("pcc", "PCC", "higher", (-1.0, 1.0), 1.0, "Pearson correlation over the spots."),
    Metric("ssim", "SSIM", "higher", (-1.0, 1.0), 1.0, "Structural similarity in one window."),
    Metric("rmse", "RMSE", "lower", (0.0, 2.0), 0.0, "Root mean square difference between z-scores."),
    Metric("js", "JS", "lower", (0.0, math.log(2)), 0.0, "Jensen-Shannon divergence in nats, each scaled to sum 1."),
    Metric("spearman", "Spearman", "higher", (-1.0, 1.0), 1.0, "Pearson correlation of the ranks over the spots."),
)
# over the entries that the `published` protocol hides
_HIDDEN = tuple(
    replace(
        metric,
        name=f"hidden_{metric.name}",
        label=f"{metric.label}, hidden entries",
        description=f"{metric.description[:-1]}, hidden entries alone.",
    )
    for metric in _SCORES
)
_COPIED = Metric("copied_share", "copied", None, (0.0, 1.0), None, "Share of the entries copied from the truth.")
_INTERVALS = (
    Metric("coverage_90", "coverage", None, (0.0, 1.0), 0.9, "Share of the truth inside calibrated intervals of 90 %."),
    Metric(
        "coverage_90_raw", "coverage of the draws alone", None, (0.0, 1.0), 0.9, "Coverage of the uncalibrated draws."
    ),
    _amount("interval_width_90", "width", "Mean width in standard deviations of a gene over the spots.", reference=0.0),
    _amount(
        "interval_width_90_constant", "width without the model", "Width of intervals that are the same at every spot."
    ),
    Metric("calibration_genes", "calibration genes", "higher", (0.0, None), None, "Genes they are calibrated on."),
)
_COSTS = (
    _amount("train_seconds", "training (s)", "Seconds of training, mean over the finished trials."),
    _amount("wall_seconds", "total (s)", "Seconds from start to end, mean over the finished trials."),
    _amount("peak_memory_mb", "peak memory (MB)", "Largest peak of memory of a trial's processes."),
    _amount("n_parameters", "parameters", "Number of trained parameters."),
    _amount("cpu_hours", "CPU hours", "Hours on CPU threads, summed over the finished trials."),
    _amount("gpu_hours", "GPU hours", "Hours on GPUs, summed over the finished trials."),
)

METRICS = {metric.name: metric for metric in (*_SCORES, *_HIDDEN, _COPIED, *_INTERVALS, *_COSTS)}
SCORES = tuple(metric.name for metric in _SCORES)
HIDDEN_SCORES = tuple(metric.name for metric in _HIDDEN)
PUBLISHED_COLUMNS = (*HIDDEN_SCORES, _COPIED.name)  # of the table of genes, after SCORES, under `published`
INTERVALS = tuple(metric.name for metric in _INTERVALS)
COSTS = tuple(metric.name for metric in _COSTS)

_FLOORS = (
    Floor("random", "random", "random", "A training gene drawn at random, its spots shuffled."),
    Floor("gene_mean", "gene mean", "gene mean", "A constant: the level the scRNA-seq mean predicts."),
    Floor(
        "mean_pattern",
        "mean pattern of the training genes",
        "mean pattern",
        "Mean z-score of the training genes at each spot.",
    ),
    Floor("knn", "k nearest genes", "k nearest genes", "Mean of the 10 training genes most correlated over cells."),
    Floor("kernel_ridge", "kernel ridge", "kernel ridge", "Ridge regression over genes, from cells to spots."),
    Floor("zero_fill", "hidden entries set to 0", "hidden = 0", "All others copied from the truth.", is_fill=True),
    Floor(
        "visible_mean_fill",
        "hidden entries set to the gene's visible mean",
        "hidden = visible mean",
        "All others copied from the truth; the mean is over those above 0.",
        is_fill=True,
    ),
    Floor(
        CEILING,
        "ceiling: the truth through the latent",
        "ceiling",
        "The truth projected on the leading directions of the training genes.",
        is_ceiling=True,
    ),
)
FLOORS = {floor.name: floor for floor in _FLOORS}
