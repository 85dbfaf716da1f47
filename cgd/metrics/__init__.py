"""How a prediction is scored, what it must beat and how high it could come."""

from cgd.metrics.floors import FLOORS, ceiling, predict_floors, visible_mean_fill, zero_fill
from cgd.metrics.gene import METRICS, PUBLISHED_METRICS, Metric, coverage, gene_metrics
from cgd.metrics.summary import bootstrap_interval, summarise

__all__ = [
    "FLOORS",
    "METRICS",
    "PUBLISHED_METRICS",
    "Metric",
    "bootstrap_interval",
    "ceiling",
    "coverage",
    "gene_metrics",
    "predict_floors",
    "summarise",
    "visible_mean_fill",
    "zero_fill",
]
