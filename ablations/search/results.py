"""A finished (or unfinished) search, as `search.json` holds it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from ablations.findings.stored import Number, Stored
from ablations.search.space import Space
from ablations.statistics.paired import Estimate


def _read_space(value: Any) -> Any:
    return Space.from_dict(value, "its space") if isinstance(value, dict) else value


def _read_estimate(value: Any) -> Any:
    known = value.items() if isinstance(value, dict) else ()
    return {key: math.nan if number is None else number for key, number in known} or value


def _keep_estimate(found: Estimate) -> dict[str, Any]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n_genes": found.n_genes}


KeptEstimate = Annotated[Estimate, BeforeValidator(_read_estimate), PlainSerializer(_keep_estimate)]  # no more of it


class Sample(Stored):
    """One configuration that was tried.

    Attributes
    ----------
    sample, trial, origin, state
        Position in the search, number of its Optuna trial; default, warm start or sampled; finished, stopped early,
        failed or not finished.
    final_value, last_value, last_percent
        Mean validation PCC at the end, and the last one reported with the percentage of the work done then.
    seconds, peak_memory_mb, n_parameters
        Costs; NaN where not recorded.
    fits_memory, on_front
        Within the memory asked for; no other is more accurate and faster.
    params
        Sampler's name -> value.
    values
        Dotted path -> value.
    """

    sample: int
    trial: int
    origin: str
    state: str
    final_value: Number = Field(alias="value")
    last_percent: Number
    last_value: Number
    by_dataset: dict[str, Number]
    seconds: Number
    peak_memory_mb: Number
    n_parameters: Number
    fits_memory: bool
    on_front: bool
    params: dict[str, Any]
    values: dict[str, Any]
    reason: str | None
    run_id: str | None

    @property
    def is_finished(self) -> bool:
        """Whether it ran to its end."""
        return self.state == "finished"

    @property
    def value(self) -> float:
        """Mean validation PCC; of a sample stopped early the one at `percent` of its work; NaN for none."""
        return self.final_value if self.is_finished else self.last_value

    @property
    def percent(self) -> float:
        """How much of its work was done."""
        return 100.0 if self.is_finished else self.last_percent


class FinalistRow(Stored):
    """A configuration of the confirmation; `minus_default` is per data set, paired."""

    label: str
    sample: int | None
    is_default: bool
    value: Number
    by_dataset: dict[str, Number]
    n_missing: int
    minus_default: dict[str, KeptEstimate]
    values: dict[str, Any]


class Comparison(Stored):
    """The winner minus the default: the mean over data sets, and each of them with its interval.

    Attributes
    ----------
    run_id, means
        Of the study on the test genes; winner or default -> data set -> mean PCC.
    failed, missing
        Its trials that failed, with their errors, and those that did not run.
    """

    mean: Number
    by_dataset: dict[str, KeptEstimate]
    run_id: str | None = None
    means: dict[str, dict[str, Number]] | None = None
    failed: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every trial of it has a result: what a part of them says is not for choosing by."""
        return bool(self.by_dataset) and not self.failed and not self.missing


class SearchResults(Stored):
    """What a search found; see `Sample`, `FinalistRow` and `Comparison`.

    Attributes
    ----------
    n_samples, n_interrupted
        Samples asked for, and how often one was interrupted and run again.
    importances
        Sampler's name of a parameter -> its share; empty with too few samples.
    winner
        Label of the finalist that won; None if the default did, or the search is not finished.
    n_tests
        How often winners of this search were compared on the test genes.
    """

    format: Literal[1] = 1
    name: str
    uid: str
    space: Annotated[Space, BeforeValidator(_read_space)]
    sampler: dict[str, Any]
    objective: str
    max_memory_mb: float | None = None
    n_samples: int
    n_interrupted: int
    seed: int
    search_folds: int
    datasets: dict[str, dict[str, Any]]
    config: dict[str, Any]
    samples: tuple[Sample, ...]
    importances: dict[str, float]
    finalists: tuple[FinalistRow, ...]
    winner: str | None
    winner_values: dict[str, Any]
    validation: Comparison | None
    test: Comparison | None
    n_tests: int
    versions: dict[str, Any]
    arguments: dict[str, Any] = Field(default_factory=dict)

    @property
    def finished(self) -> list[Sample]:
        """Samples that ran to their end."""
        return [sample for sample in self.samples if sample.is_finished]

    @property
    def n_ended(self) -> int:
        """Samples that ended one way or another."""
        return sum(sample.state != "not finished" for sample in self.samples)

    @property
    def best(self) -> Sample | None:
        """The most accurate finished sample within the memory asked for."""
        within = [sample for sample in self.finished if sample.fits_memory]
        return max(within, key=lambda sample: sample.value, default=None)

    @property
    def default(self) -> Sample | None:
        """The default's own sample."""
        return next((sample for sample in self.samples if sample.origin == "default"), None)

    @property
    def is_decided(self) -> bool:
        """Whether there is a winner, or the default has proved to be the best: no result is missing."""
        return self.winner is not None or (bool(self.finalists) and not any(row.n_missing for row in self.finalists))
