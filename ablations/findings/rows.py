"""What the rows and the table of one data set hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablations.statistics.paired import Estimate
from cgd.metrics.facts import METRICS, PRIMARY

HIDDEN_PRIMARY = f"hidden_{PRIMARY}"
CORRECTED = (PRIMARY, HIDDEN_PRIMARY)  # each is one family of Holm's correction


@dataclass(frozen=True)
class TrialCounts:
    """How the trials of a row ended; `missing` ones were planned and neither finished nor failed."""

    ok: int
    failed: int
    missing: int


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
        Seed -> mean paired PCC difference to the default.
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
    """

    kind: Literal["floor", "ceiling", "level"]
    name: str
    title: str
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    by_seed: Mapping[int, float] = field(default_factory=dict)
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

    @property
    def primary(self) -> Estimate:
        return self.estimates[PRIMARY]

    @property
    def is_whole(self) -> bool:
        """Whether all of its trials finished; one that stopped half-way has a mean over other genes than the rest."""
        return self.trials is None or not (self.trials.failed or self.trials.missing)

    @property
    def n_agreeing(self) -> int:
        """Seeds whose own difference has the sign of the mean difference."""
        mean = self.differences[PRIMARY].mean
        return sum(value * mean > 0 for value in self.by_seed.values())


@dataclass(frozen=True)
class OlderRow:
    """What another version of the code gave for a level: mean PCC over `n_trials`, the newest finished at `when`."""

    level: str
    code_version: str
    pcc: float
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
    over_floor
        Best level minus best floor, paired by gene; None where either is missing.
    copied_share
        Mean share of a test gene's entries that is copied from the truth (published protocol, else NaN).
    floor_of
        Metric -> name of the best floor in that metric.
    best_versus
        Level -> level minus best, paired PCC; empty without a best level.
    too_small
        Whether some level's minimum detectable effect exceeds the smallest effect the study asks about, or is not
        even known (one gene).
    noise_known
        Whether the replicates let the training noise be estimated; where not, intervals leave it out.
    older
        Results of other versions of the code, kept apart.
    """

    name: str
    facts: Mapping[str, Any]
    rows: tuple[Row, ...]
    absent_floors: tuple[str, ...]
    over_floor: Estimate | None = None
    copied_share: float = math.nan
    floor_of: Mapping[str, str] = field(default_factory=dict)
    best_versus: Mapping[str, Estimate] = field(default_factory=dict)
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
    def ceiling(self) -> Row | None:
        """The ceiling, where it is known."""
        return next((row for row in self.rows if row.kind == "ceiling" and row.primary.is_known), None)

    @property
    def references(self) -> list[Row]:
        return [row for row in self.rows if row.kind != "level"]

    @property
    def levels(self) -> list[Row]:
        return [row for row in self.rows if row.kind == "level"]

    @property
    def default(self) -> Row:
        return next(row for row in self.levels if row.is_default)

    @property
    def best(self) -> Row | None:
        """The level furthest above the default on the same genes; by plain mean where the default has no result."""
        known, sign = [row for row in self.levels if row.primary.is_known], METRICS[PRIMARY].sign
        if any(row.is_default for row in known):  # means over different genes, where trials failed, do not compare
            known = [row for row in known if row.is_default or row.differences[PRIMARY].is_known]
            return max(known, key=lambda row: 0.0 if row.is_default else sign * row.differences[PRIMARY].mean)
        return max(known, key=lambda row: sign * row.primary.mean, default=None)

    @property
    def best_floor(self) -> Row | None:
        known = [row for row in self.rows if row.kind == "floor" and row.primary.is_known]
        return max(known, key=lambda row: METRICS[PRIMARY].sign * row.primary.mean, default=None)

    @property
    def cheapest(self) -> Row | None:
        """The level with the shortest trials among the best and those whose interval against the best reaches 0."""
        best, versus = self.best, self.best_versus
        within = [row for row in self.levels if row is best or (row.name in versus and versus[row.name].high >= 0)]
        known = [row for row in within if math.isfinite(row.wall_seconds)]
        return min(known, key=lambda row: row.wall_seconds, default=None)
