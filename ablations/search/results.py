"""A finished (or unfinished) search, as its record `search.json` holds it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.search.space import Space
from ablations.statistics.paired import Estimate
from cgd.errors import StudyError, TrackingError

FORMAT = 1
_NEEDED = ["name", "space", "sampler", "objective", "samples", "importances", "finalists", "datasets", "config"]
_NEEDED += ["winner", "winner_values", "validation", "test", "n_tests", "n_samples", "n_interrupted", "versions"]


@dataclass(frozen=True)
class Sample:
    """One configuration that was tried.

    Attributes
    ----------
    sample, origin, state
        Position in the search; default, warm start or sampled; finished, stopped early, failed or not finished.
    value
        Mean validation PCC; of a sample stopped early the one at `percent` of its work; NaN for none.
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
    origin: str
    state: str
    value: float
    percent: float
    seconds: float
    peak_memory_mb: float
    n_parameters: float
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


@dataclass(frozen=True)
class FinalistRow:
    """A configuration of the confirmation; `minus_default` is per data set, paired."""

    label: str
    is_default: bool
    value: float
    by_dataset: dict[str, float]
    n_missing: int
    minus_default: dict[str, Estimate]
    values: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The winner minus the default: the mean over data sets, and each of them with its interval.

    `n_unfinished` counts the trials that failed or did not run.
    """

    mean: float
    by_dataset: dict[str, Estimate]
    run_id: str | None = None
    means: Mapping[str, Mapping[str, float]] | None = None
    n_unfinished: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every trial of it has a result: what a part of them says is not for choosing by."""
        return bool(self.by_dataset) and not self.n_unfinished


@dataclass(frozen=True)
class SearchResults:
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

    name: str
    space: Space
    sampler: dict[str, Any]
    objective: str
    max_memory_mb: float | None
    n_samples: int
    n_interrupted: int
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
    arguments: dict[str, Any]

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
    def is_confirmed(self) -> bool:
        """Whether the confirmation has all its results."""
        return bool(self.finalists) and not any(row.n_missing for row in self.finalists)

    @property
    def is_decided(self) -> bool:
        """Whether there is a winner, or the default has proved to be the best."""
        return self.winner is not None or self.is_confirmed

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], source: str = "search.json") -> SearchResults:
        """Read a record. Raises TrackingError if it is none, or of another format."""
        absent = [key for key in _NEEDED if key not in record]
        if record.get("format") != FORMAT or absent:
            what = f"it lacks {', '.join(absent)}" if absent else f"its format is {record.get('format')}"
            raise TrackingError(f"{source} is not a search record of format {FORMAT}: {what}")
        try:
            return cls._read(record, source)
        except (KeyError, TypeError, ValueError, StudyError) as error:
            raise TrackingError(f"{source} is not a whole search record: {error!r}") from None

    @classmethod
    def _read(cls, record: Mapping[str, Any], source: str) -> SearchResults:
        plain = ["name", "sampler", "objective", "n_samples", "n_interrupted", "datasets", "config", "importances"]
        plain += ["winner", "winner_values", "n_tests", "versions"]
        return cls(
            **{key: record[key] for key in plain},
            space=Space.from_dict(record["space"], source),
            max_memory_mb=record.get("max_memory_mb"),
            samples=tuple(_sample(row) for row in record["samples"]),
            finalists=tuple(_finalist(row) for row in record["finalists"]),
            validation=_comparison(record["validation"]),
            test=_comparison(record["test"]),
            arguments=record.get("arguments", {}),
        )

    @classmethod
    def from_file(cls, path: Path) -> SearchResults:
        """Read `search.json`. Raises TrackingError."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrackingError(f"cannot read {path}: {error}") from None
        return cls.from_dict(record if isinstance(record, dict) else {}, str(path))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _sample(row: Mapping[str, Any]) -> Sample:
    is_finished = row["state"] == "finished"
    return Sample(
        sample=row["sample"],
        origin=row["origin"],
        state=row["state"],
        value=_number(row["value"] if is_finished else row["last_value"]),
        percent=100.0 if is_finished else _number(row["last_percent"]),
        seconds=_number(row["seconds"]),
        peak_memory_mb=_number(row["peak_memory_mb"]),
        n_parameters=_number(row["n_parameters"]),
        fits_memory=row["fits_memory"],
        on_front=row["on_front"],
        params=row["params"],
        values=row["values"],
        reason=row["reason"],
        run_id=row["run_id"],
    )


def _finalist(row: Mapping[str, Any]) -> FinalistRow:
    return FinalistRow(
        row["label"],
        row["is_default"],
        _number(row["value"]),
        row["by_dataset"],
        row["n_missing"],
        {name: _estimate(found) for name, found in row["minus_default"].items()},
        row["values"],
    )


def _comparison(row: Mapping[str, Any] | None) -> Comparison | None:
    if row is None:
        return None
    estimates = {name: _estimate(found) for name, found in row["by_dataset"].items()}
    n_unfinished = len(row.get("failed", ())) + len(row.get("missing", ()))
    return Comparison(_number(row["mean"]), estimates, row.get("run_id"), row.get("means"), n_unfinished)


def _estimate(found: Mapping[str, Any]) -> Estimate:
    return Estimate(_number(found["mean"]), _number(found["low"]), _number(found["high"]), int(found["n_genes"]))
