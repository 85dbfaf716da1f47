"""What metrics, floors and costs are called and what they mean: said here once, for results, reports and notes.

Definitions: Li et al., Nature Methods 19:662 (2022); Spearman, Am. J. Psychol. 15:72 (1904); of the scores of draws,
`cgd/metrics/draws.py`.
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
    of_draws: bool = False  # compared with what a model draws; otherwise with its best guess


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
    _amount("interval_width_90", "width", "Mean width in standard deviations of a gene over the spots.", reference=0.0),
    _amount(
        "interval_width_90_constant", "width without the model", "Width of intervals that are the same at every spot."
    ),
    Metric("calibration_genes", "calibration genes", "higher", (0.0, None), None, "Genes they are calibrated on."),
)
# of a gene over the spots, and of the genes together; Gaussian noise, smoothing and independence each show in some
_DRAW_SCORES = (
    _amount("crps", "CRPS", "Continuous ranked probability score of the draws, fair, mean over the spots.", 0.0),
    _amount("energy_spots", "energy over spots", "Fair energy score of the draws' vectors over the spots.", 0.0),
    Metric(
        "coverage_50_raw", "50 % coverage of the draws", None, (0.0, 1.0), 0.5, "Share of the truth in the middle half."
    ),
    _amount("width_50_raw", "50 % width of the draws", "Mean width in standard deviations of a gene over the spots."),
    Metric(
        "coverage_90_raw", "coverage of the draws alone", None, (0.0, 1.0), 0.9, "Coverage of the uncalibrated draws."
    ),
    _amount("width_90_raw", "width of the draws alone", "Mean width in standard deviations of a gene over the spots."),
    Metric("zeros_bias", "zeros, excess", None, (-1.0, 1.0), 0.0, "Share of zeros in the draws minus in the truth."),
    Metric("negative_share", "below 0", "lower", (0.0, 1.0), 0.0, "Share of the draws' values below 0."),
    _amount("variance_error", "variance error", "|ln| of variance over mean in the draws over that in the truth.", 0.0),
    _amount("moran_error", "Moran's I error", "Difference from the truth's Moran's I, as a share of it.", 0.0),
    Metric("moran_bias", "Moran's I, excess", None, (None, None), 0.0, "Moran's I of the draws minus the truth's."),
)
_JOINT_SCORES = (
    _amount("energy_genes", "energy over genes", "Fair energy score of the draws' vectors over the genes.", 0.0),
    Metric(
        "gene_correlation_error",
        "gene correlation error",
        "lower",
        (0.0, 2.0),
        0.0,
        "Root mean square difference between the gene-gene correlations of a draw and of the truth.",
    ),
    Metric(
        "gene_correlation_r",
        "gene correlation r",
        "higher",
        (-1.0, 1.0),
        1.0,
        "Correlation between the gene-gene correlations of a draw and of the truth.",
    ),
    Metric(
        "gene_correlation_mean_error",
        "expected gene correlation error",
        "lower",
        (0.0, 2.0),
        0.0,
        "Root mean square difference between the gene-gene correlations of the truth and their mean over the draws.",
    ),
    Metric(
        "c2st_auc",
        "C2ST AUC",
        "lower",
        (0.0, 1.0),
        0.5,
        "How well boosted trees tell the spots of a draw from those of the truth, each gene standardised.",
    ),
)
_COSTS = (
    _amount("train_seconds", "training (s)", "Seconds of training, mean over the finished trials."),
    _amount("wall_seconds", "total (s)", "Seconds from start to end, mean over the finished trials."),
    _amount("peak_memory_mb", "peak memory (MB)", "Largest peak of memory of a trial's processes."),
    _amount("n_parameters", "parameters", "Number of trained parameters."),
    _amount("cpu_hours", "CPU hours", "Hours on CPU threads, summed over the finished trials."),
    _amount("gpu_hours", "GPU hours", "Hours on GPUs, summed over the finished trials."),
)

METRICS = {
    metric.name: metric for metric in (*_SCORES, *_HIDDEN, _COPIED, *_INTERVALS, *_DRAW_SCORES, *_JOINT_SCORES, *_COSTS)
}
SCORES = tuple(metric.name for metric in _SCORES)
HIDDEN_SCORES = tuple(metric.name for metric in _HIDDEN)
PUBLISHED_COLUMNS = (*HIDDEN_SCORES, _COPIED.name)  # of the table of genes, after SCORES, under `published`
DRAW_SCORES = tuple(metric.name for metric in _DRAW_SCORES)  # one value per gene
JOINT_SCORES = tuple(metric.name for metric in _JOINT_SCORES)  # one value for all genes
OUTCOMES = (PRIMARY, "crps")  # of every study: how good the best guess is, and how good the draws
# what is said beside calibrated intervals: theirs, and the coverage of the draws before
INTERVALS = (_INTERVALS[0].name, "coverage_90_raw", *(metric.name for metric in _INTERVALS[1:]))
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
    Floor(
        "depth",
        "depth of the spot",
        "spot depth",
        "Log of each spot's total over the visible genes, the same for every gene.",
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
_NOISE_CEILINGS = (
    Floor(
        "noise_ceiling",
        "ceiling: the rate behind the noisy truth",
        "noise ceiling",
        "The highest PCC that a perfect predictor of the rate could reach, from thinned halves of the counts.",
        is_ceiling=True,
    ),
    Floor(
        "noise_ceiling_null",
        "noise ceiling of genes that do not vary",
        "noise ceiling, null",
        "The same of counts whose rate is one at all spots.",
        is_ceiling=True,
    ),
)
_DRAW_FLOORS = (
    Floor(
        "gaussian_center", "Gaussian noise around the centre", "Gaussian noise", "One variance per gene.", of_draws=True
    ),
    Floor(
        "counts_gene_mean",
        "count noise around the gene's mean",
        "counts, gene mean",
        "Negative-binomial counts around a constant.",
        of_draws=True,
    ),
    Floor(
        "counts_ridge",
        "count noise around kernel ridge",
        "counts, ridge",
        "Negative-binomial counts around ridge regression over genes.",
        of_draws=True,
    ),
    Floor(
        "counts_center",
        "count noise around the centre",
        "counts, centre",
        "Negative-binomial counts around the model's best guess without diffusion.",
        of_draws=True,
    ),
    Floor(
        "counts_structured",
        "count noise and a structured Gaussian residual around the centre",
        "counts, structured",
        "The residual lies on the spatial components that stand above those of shuffled spots.",
        of_draws=True,
    ),
    Floor(
        "counts_untrained",
        "count noise around the draws of the untrained network",
        "counts, untrained",
        "What training adds is what lies above it.",
        of_draws=True,
    ),
    Floor(
        "replicate",
        "ceiling of draws: replicates of the truth",
        "replicate",
        "Counts as another measurement of the same tissue would have.",
        is_ceiling=True,
        of_draws=True,
    ),
)
FLOORS = {floor.name: floor for floor in _FLOORS}  # predictions that stand beside a best guess
NOISE_CEILINGS = {floor.name: floor for floor in _NOISE_CEILINGS}  # a PCC per gene, without a prediction
DRAW_FLOORS = {floor.name: floor for floor in _DRAW_FLOORS}
REFERENCES = {**FLOORS, **NOISE_CEILINGS, **DRAW_FLOORS}
