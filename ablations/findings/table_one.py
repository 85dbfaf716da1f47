"""Table I as numbers: every method beside the floors on each data set, and all methods over the data sets.

Seeds are averaged per gene before anything else, as everywhere (`ablations.statistics.paired`). A lead is the
reference, CausalGeD, minus a method or floor, paired by seed, fold and gene. Methods are ranked on each data set;
floors and ceiling are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import rankdata

from ablations.findings.results import StudyResults
from ablations.findings.rows import CORRECTED, DatasetTable, Row
from ablations.statistics.intervals import N_RESAMPLES
from ablations.statistics.paired import Estimate, compare_paired, correct_family
from cgd.metrics.facts import METRICS, PRIMARY

SCORED = ("pcc", "ssim", "rmse", "js")  # the metrics of the paper's Table I, and of the accuracy score


@dataclass(frozen=True)
class Place:
    """A method, floor or ceiling on one data set.

    Attributes
    ----------
    row
        Its means, trials and costs.
    leads
        Metric -> reference minus this, paired; empty for the reference and the ceiling. `p_holm` is over all methods
        and floors of all data sets.
    over_floor
        This minus the best floor in PCC, paired; None for that floor and the ceiling. `p_holm` is over all methods.
    ranks
        Metric -> rank among the methods, 1 the best, shared where equal; empty for floors and ceiling.
    """

    row: Row
    leads: Mapping[str, Estimate] = field(default_factory=dict)
    over_floor: Estimate | None = None
    ranks: Mapping[str, float] = field(default_factory=dict)

    @property
    def lead(self) -> Estimate | None:
        return self.leads.get(PRIMARY)

    @property
    def has_failed(self) -> bool:
        """Whether it has trials and none of them finished."""
        return self.row.trials is not None and not self.row.trials.ok

    @property
    def is_partial(self) -> bool:
        """Whether some of its trials finished and some did not."""
        return not self.row.is_whole and not self.has_failed


@dataclass(frozen=True)
class DatasetPlaces:
    """Table I of one data set: methods, then floors, then the ceiling."""

    table: DatasetTable
    places: tuple[Place, ...]

    @property
    def methods(self) -> list[Place]:
        return [place for place in self.places if place.row.kind == "level"]

    @property
    def reference(self) -> Place:
        return next(place for place in self.methods if place.row.is_default)

    @property
    def best_floor(self) -> Place | None:
        floor = self.table.best_floor
        floors = [place for place in self.places if place.row.kind == "floor"]  # a method may bear a floor's name
        return next((place for place in floors if floor and place.row.name == floor.name), None)

    def find(self, name: str) -> Place | None:
        """The method of that name."""
        return next((place for place in self.methods if place.row.name == name), None)

    def best(self, metric: str) -> set[str]:
        """Names of the methods that share the first rank, all of their trials finished."""
        ranked = {place.row.name: place.ranks[metric] for place in self.methods if metric in place.ranks}
        known = {p.row.name for p in self.methods if p.row.is_whole and p.row.estimates[metric].is_known}
        return {name for name in known if ranked.get(name) == min(ranked[n] for n in known)}


@dataclass(frozen=True)
class Counts:
    """On how many data sets an interval is above 0, below it, on both sides, or missing; `positive` by the mean."""

    positive: int
    above: int
    below: int
    undecided: int
    unknown: int

    @property
    def total(self) -> int:
        return self.above + self.below + self.undecided + self.unknown


@dataclass(frozen=True)
class Overall:
    """A method over all data sets.

    Attributes
    ----------
    mean_pcc, mean_rank
        Means over the data sets; of the rank in PCC.
    accuracy_score
        SpatialBenchmarking's AS: on each data set and in each of PCC, SSIM, RMSE and JS the worst of N methods gets 1
        point and the best N; the mean of the points over N. 1 is best in everything.
    leads, over_floor
        Of the reference over this (None for itself), and of this over the best floor of each data set.
    failed_on, partial_on
        Data sets on which no trial finished, and on which some did not.
    """

    name: str
    title: str
    kind: str
    is_reference: bool
    mean_pcc: float
    mean_rank: float
    accuracy_score: float
    leads: Counts | None
    over_floor: Counts | None
    failed_on: tuple[str, ...]
    partial_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableOne:
    """All data sets, then the methods over them and, last, the best floor of each data set as one row."""

    data_sets: tuple[DatasetPlaces, ...]
    overall: tuple[Overall, ...]


def build_table_one(results: StudyResults, tables: Sequence[DatasetTable], n_resamples: int = N_RESAMPLES) -> TableOne:
    """Table I from a comparison's results and the tables of `build_tables`."""
    found = _correct([DatasetPlaces(table, tuple(_place_all(results, table, n_resamples))) for table in tables])
    labels = [label for label in results.study.labels if any(one.find(label) for one in found)]
    overall = [_summarise_method(found, label, [one.find(label) for one in found]) for label in labels]
    floors = [one.best_floor for one in found]
    if any(floors):
        overall.append(_summarise_method(found, "best floor", floors))
    return TableOne(tuple(found), tuple(overall))


# ---- one data set ---------------------------------------------------------------------------------------------------


def _place_all(results: StudyResults, table: DatasetTable, n_resamples: int) -> Iterable[Place]:
    genes = results.per_gene[results.per_gene["dataset"] == table.name].drop(columns="dataset")
    floors = results.floors[results.floors["dataset"] == table.name].drop(columns="dataset")
    metrics = [metric for metric in CORRECTED if metric in results.metrics]
    reference = genes[genes["level"] == table.default.name]
    floor = table.best_floor
    best_floor = floors[floors["method"] == floor.name] if floor else None
    ranks = _rank_methods(table.levels)
    rows = [*table.levels, *(row for row in table.references if row.kind == "floor")]
    for row in rows:
        own = genes[genes["level"] == row.name] if row.kind == "level" else floors[floors["method"] == row.name]
        leads = {} if row.is_default else compare_paired(reference, own, metrics, n_resamples)
        over = None
        if best_floor is not None and row.kind == "level":
            over = compare_paired(own, best_floor, [PRIMARY], n_resamples)[PRIMARY]
        yield Place(row, leads, over, ranks.get(row.name, {}))
    yield from (Place(row) for row in table.references if row.kind == "ceiling")


def _rank_methods(methods: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Method -> metric -> rank by the mean, 1 the best; equal means share the mean of their ranks.

    A method without a result, or with a trial that did not finish, is behind all others: to leave it out, or to rank
    it by the genes it finished, would reward failing where it is hard.
    """
    found: dict[str, dict[str, float]] = {row.name: {} for row in methods}
    for metric in SCORED:
        worth = [METRICS[metric].sign * row.estimates[metric].mean if row.is_whole else np.nan for row in methods]
        for row, rank in zip(methods, rankdata(-np.nan_to_num(worth, nan=-np.inf)), strict=True):
            found[row.name][metric] = float(rank)
    return found


def _correct(found: list[DatasetPlaces]) -> list[DatasetPlaces]:
    """Holm's correction, a family of leads per metric and one of differences to the best floor."""
    for metric in CORRECTED:
        leads = correct_family(place.leads.get(metric) for one in found for place in one.places)
        found = [
            replace(one, places=tuple(_set_lead(place, metric, next(leads)) for place in one.places)) for one in found
        ]
    over = correct_family(place.over_floor for one in found for place in one.places)
    return [replace(one, places=tuple(replace(place, over_floor=next(over)) for place in one.places)) for one in found]


def _set_lead(place: Place, metric: str, lead: Estimate | None) -> Place:
    return replace(place, leads={**place.leads, metric: lead}) if lead else place


# ---- over the data sets ---------------------------------------------------------------------------------------------


def _summarise_method(found: Sequence[DatasetPlaces], label: str, places: Sequence[Place | None]) -> Overall:
    known = [(one, place) for one, place in zip(found, places, strict=True) if place is not None]
    kind = known[0][1].row.kind
    is_reference = known[0][1].row.is_default
    return Overall(
        name=label,
        title=known[0][1].row.title if kind == "level" else label,
        kind=kind,
        is_reference=is_reference,
        mean_pcc=float(np.mean([place.row.primary.mean for _, place in known])),
        mean_rank=float(np.mean([place.ranks.get(PRIMARY, math.nan) for _, place in known])),
        accuracy_score=float(np.mean([_score(one, place) for one, place in known])),
        leads=None if is_reference else _count([place.lead for _, place in known]),
        over_floor=_count([place.over_floor for _, place in known]) if kind == "level" else None,
        failed_on=tuple(one.table.name for one, place in known if place.has_failed),
        partial_on=tuple(one.table.name for one, place in known if place.is_partial),
    )


def _score(one: DatasetPlaces, place: Place) -> float:
    """The accuracy score on one data set; NaN for a floor."""
    n = len(one.methods)
    return float(np.mean([(n + 1 - place.ranks.get(metric, math.nan)) / n for metric in SCORED]))


def _count(estimates: Sequence[Estimate | None]) -> Counts:
    known = [estimate for estimate in estimates if estimate is not None and estimate.is_known]
    above, below = sum(e.low > 0 for e in known), sum(e.high < 0 for e in known)
    undecided = len(known) - above - below
    return Counts(sum(e.mean > 0 for e in known), above, below, undecided, len(estimates) - len(known))
