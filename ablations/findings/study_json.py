"""`study.json`: what was asked, of which data, by which trials; written when a study ends and read for its report."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, computed_field

from ablations.findings.stored import Number, Stored
from ablations.study.study import Study

STUDY_JSON = "study.json"


def _read_study(value: Any) -> Any:
    return Study.from_dict(value, "its study") if isinstance(value, dict) else value


class _Place(Stored):
    dataset: str
    level: str
    seed: int
    fold: int


class TrialRow(_Place):
    """One trial; without `run_id` it never began. `status` and `error` are those of its run when this was written."""

    fingerprint: str
    run_id: str | None
    status: str | None
    error: str | None


class FloorRow(Stored):
    """The run that holds the floors of a data set and fold."""

    run_id: str
    dataset: str
    fold: int


class OlderTrial(_Place):
    """A trial of the study as another version of the code finished it; an outcome that it did not record is NaN."""

    code_version: str
    run_id: str
    pcc: Number
    crps: Number = math.nan
    when: date


@dataclass(frozen=True)
class TrialForecast:
    """What one trial will cost. `seconds` is an upper bound where no share of epochs run is known."""

    fingerprint: str
    seconds: float
    memory_mb: float
    checkpoints_mb: float = 0.0
    kept_mb: float = 0.0


class Forecast(Stored):
    """What the trials still to run will cost; left by a dry run for the real one, and kept with its studies.

    Attributes
    ----------
    trials
        In the order they will run; those that could not be probed are not among them.
    n_concurrent
        Trials at a time.
    made
        When, ISO 8601.
    launch_seconds
        Until the first trial starts.
    """

    trials: tuple[TrialForecast, ...]
    n_concurrent: int
    made: str
    launch_seconds: float = 0.0

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
    @property
    def wall_seconds(self) -> float:
        """Until the last trial ends, each starting where a slot is free first."""
        return self.launch_seconds + schedule([trial.seconds for trial in self.trials], self.n_concurrent)

    @property
    def memory_mb(self) -> float:
        """Of the largest trials that may run at a time."""
        return sum(heapq.nlargest(self.n_concurrent, (trial.memory_mb for trial in self.trials)))

    @property
    def checkpoints_mb(self) -> float:
        """Disk space of the checkpoints while trials run; those of a finished trial are removed."""
        return sum(heapq.nlargest(self.n_concurrent, (trial.checkpoints_mb for trial in self.trials)))

    @property
    def kept_mb(self) -> float:
        """Disk space of what stays."""
        return sum(trial.kept_mb for trial in self.trials)

    def select(self, fingerprints: Iterable[str]) -> Forecast:
        """The part about some trials."""
        wanted = set(fingerprints)
        return self.model_copy(update={"trials": tuple(one for one in self.trials if one.fingerprint in wanted)})


def schedule(seconds: Sequence[float], n_slots: int) -> float:
    """Wall seconds of jobs started in order on `n_slots` slots, each on the slot that is free first."""
    slots = [0.0] * max(min(n_slots, len(seconds)), 1)
    for job in seconds:
        heapq.heapreplace(slots, slots[0] + job)
    return max(slots)


class StudyRecord(Stored):
    """One invocation of a study.

    Attributes
    ----------
    study, protocol, config, versions
        What was asked, under which protocol, with which other values (dotted path -> value) and software.
    datasets
        Name -> n_spots, n_cells, n_genes, n_test, paper_name, sha256, notes.
    code_version
        Of the code that ran the trials; empty where not recorded.
    older
        Never mixed with the results.
    arguments
        Of the command.
    """

    study: Annotated[Study, BeforeValidator(_read_study)]
    protocol: str
    config: dict[str, Any]
    datasets: dict[str, dict[str, Any]]
    trials: tuple[TrialRow, ...]
    floors: tuple[FloorRow, ...]
    code_version: str = ""
    older: tuple[OlderTrial, ...] = ()
    versions: dict[str, Any]
    forecast: Forecast | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
