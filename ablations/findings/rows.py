"""What the rows and the table of one data set hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablations.statistics.paired import Estimate
from cgd.metrics.facts import CEILING, DRAW_FLOORS, DRAW_SCORES, METRICS, OUTCOMES, PRIMARY, REFERENCES

HIDDEN_PRIMARY = f"hidden_{PRIMARY}"
FAMILIES = (OUTCOMES, (HIDDEN_PRIMARY,))  # of Holm's correction
CORRECTED = (*OUTCOMES, HIDDEN_PRIMARY)
_CEILING_OF_DRAWS = next(name for name, floor in DRAW_FLOORS.items() if floor.is_ceiling)


def name_ceiling(metric: str) -> str:
    """What the ceiling in a metric is called in the results."""
    return _CEILING_OF_DRAWS if metric in DRAW_SCORES else CEILING


def is_ceiling(method: str) -> bool:
    """Whether a method is no floor but says what could be reached; so does the null of a noise ceiling."""
    return method in REFERENCES and REFERENCES[method].is_ceiling


@dataclass(frozen=True)
class TrialCounts:
    """How the trials of a row ended; `missing` ones were planned and neither finished nor failed."""

    ok: int
    failed: int
    missing: int


@dataclass(frozen=True)
class Predicted:
    """Mean PCC, and over the same genes the highest that was possible, and what that is of genes that do not vary."""

    mean: float
    ceiling: float
    null: float

    @property
    def share(self) -> float:
        """Of the predictable; NaN where nothing was predictable."""
        return self.mean / self.ceiling if self.ceiling > 0 else math.nan


@dataclass(frozen=True)
class Row:
    """One method or level on one data set.

    Attributes
    ----------
    name, title
        As in the tracking store, and in words.
    estimates
        Metric -> mean and interval over genes.
    differences
        Metric -> level minus default, paired; empty for floors and the default.
    by_seed
        Outcome -> seed -> mean paired difference to the default.
    paper
        What the paper states for this level and data set, else None.
    trials, train_seconds, wall_seconds, peak_memory_mb
        Of the level's trials: counts, mean seconds and largest peak of the finished ones (NaN: unknown).
    errors
        What its failed trials say, each message once.
    n_parameters, cpu_hours, gpu_hours
        Mean number of trained parameters; hours summed over the finished trials (NaN: unknown).
    n_replicates
        Distinct (seed, fold) finished.
    fractions
        Metric -> share of the way from the best floor in that metric (0) to the ceiling (1); NaN where undefined.
    intervals
        Coverage, width and calibration genes of the intervals of 90 %, means over finished trials (NaN: unknown).
    joint
        Scores of draws over the genes together, means over finished trials (NaN: unknown).
    predicted
        How much of the predictable the best guess predicts; None where the noise ceiling is unknown.
    """

    kind: Literal["floor", "ceiling", "level"]
    name: str
    title: str
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    by_seed: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    is_default: bool = False
    paper: float | None = None
    trials: TrialCounts | None = None
    errors: tuple[str, ...] = ()
    train_seconds: float = math.nan
    wall_seconds: float = math.nan
    peak_memory_mb: float = math.nan
    n_parameters: float = math.nan
    cpu_hours: float = math.nan
    gpu_hours: float = math.nan
    n_replicates: int = 0
    fractions: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, float] = field(default_factory=dict)
    joint: Mapping[str, float] = field(default_factory=dict)
    predicted: Predicted | None = None

    def knows(self, metric: str) -> bool:
        """Whether it has a mean in a metric."""
        return metric in self.estimates and self.estimates[metric].is_known

    def get_mean(self, metric: str) -> float:
        """NaN where unknown."""
        return self.estimates[metric].mean if metric in self.estimates else math.nan

    @property
    def is_of_draws(self) -> bool:
        """Whether it is a floor or the ceiling of draws."""
        return self.kind != "level" and self.name in REFERENCES and REFERENCES[self.name].of_draws

    @property
    def is_whole(self) -> bool:
        """Whether all of its trials finished; one that stopped half-way has a mean over other genes than the rest."""
        return self.trials is None or not (self.trials.failed or self.trials.missing)

    def count_agreeing(self, metric: str) -> int:
        """Seeds whose own difference in an outcome has the sign of the mean difference."""
        mean = self.differences[metric].mean
        return sum(value * mean > 0 for value in self.by_seed.get(metric, {}).values())


@dataclass(frozen=True)
class OlderRow:
    """What another version of the code gave for a level: means over `n_trials`, the newest finished at `when`."""

    level: str
    code_version: str
    means: Mapping[str, float]  # by outcome; NaN where unknown
    n_trials: int
    when: str


@dataclass(frozen=True)
class DatasetTable:
    """All rows of one data set, and what follows from them.

    Attributes
    ----------
    facts
        n_spots, n_cells, n_genes, n_test, paper_name, sha256 as recorded.
    absent_floors
        Floors every table should have but the tracking store does not.
    outcomes
        Those of the study.
    over_floor
        Outcome -> best level minus best floor, paired by gene; without those where either is missing.
    copied_share
        Mean share of a test gene's entries that is copied from the truth (published protocol, else NaN).
    floor_of
        Metric -> name of the best floor in that metric.
    best_versus
        Outcome -> level -> level minus the best in it, paired; empty without a best level.
    too_small
        Whether some level's minimum detectable effect in PCC exceeds the smallest effect the study asks about, or is
        not even known (one gene).
    noise_known
        Whether the replicates let the training noise be estimated; where not, intervals leave it out.
    older
        Results of other versions of the code, kept apart.
    """

    name: str
    facts: Mapping[str, Any]
    rows: tuple[Row, ...]
    absent_floors: tuple[str, ...]
    outcomes: tuple[str, ...] = (PRIMARY,)
    over_floor: Mapping[str, Estimate] = field(default_factory=dict)
    copied_share: float = math.nan
    floor_of: Mapping[str, str] = field(default_factory=dict)
    best_versus: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    too_small: bool = False
    noise_known: bool = False
    older: tuple[OlderRow, ...] = ()

    @property
    def paper_name(self) -> str | None:
        return self.facts.get("paper_name")

    @property
    def heading(self) -> str:
        """The name, with the paper's abbreviation where it has one."""
        return f"{self.name} ({self.paper_name})" if self.paper_name else self.name

    @property
    def title(self) -> str:
        """As `heading`, saying whose abbreviation it is."""
        return f"{self.name} ({self.paper_name} in the paper)" if self.paper_name else self.name

    @property
    def references(self) -> list[Row]:
        return [row for row in self.rows if row.kind != "level"]

    @property
    def levels(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "level"]

    @property
    def default(self) -> Row:
        return next(row for row in self.levels if row.is_default)

    def find_best(self, metric: str) -> Row | None:
        """The level furthest to the good side of the default on the same genes; by its mean where that has no result.

        Means over different genes, where trials failed, do not compare.
        """
        known, sign = [row for row in self.levels if row.knows(metric)], METRICS[metric].sign
        if any(row.is_default for row in known):
            known = [row for row in known if row.is_default or row.differences[metric].is_known]
            return max(known, key=lambda row: 0.0 if row.is_default else sign * row.differences[metric].mean)
        return max(known, key=lambda row: sign * row.get_mean(metric), default=None)

    def find_best_floor(self, metric: str) -> Row | None:
        """The floor that does best in a metric, where one has a value."""
        known = [row for row in self.rows if row.kind == "floor" and row.knows(metric)]
        return max(known, key=lambda row: METRICS[metric].sign * row.get_mean(metric), default=None)

    def find_ceiling(self, metric: str) -> Row | None:
        """The ceiling in a metric, where it is known."""
        name = name_ceiling(metric)
        return next((r for r in self.rows if r.kind == "ceiling" and r.name == name and r.knows(metric)), None)

    @property
    def cheapest(self) -> Row | None:
        """The level with the shortest trials among those that in no outcome are shown to be behind its best."""
        as_good = [row for row in self.levels if all(self._is_as_good(row, metric) for metric in self.outcomes)]
        known = [row for row in as_good if math.isfinite(row.wall_seconds)]
        return min(known, key=lambda row: row.wall_seconds, default=None)

    def _is_as_good(self, row: Row, metric: str) -> bool:
        """Whether a level is the best in an outcome, or its interval against the best reaches 0."""
        best, versus = self.find_best(metric), self.best_versus.get(metric, {})
        if best is None:  # nothing on this data set has draws, and no level is behind
            return metric != PRIMARY
        return row is best or (row.name in versus and versus[row.name].orient(METRICS[metric].sign).high >= 0)
