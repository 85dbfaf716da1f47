"""Table I as numbers: every method beside the floors on each data set, and all methods over the data sets.

Seeds are averaged per gene before anything else, as everywhere (`ablations.statistics.paired`). A lead is the
reference, CausalGeD, minus a method or floor, paired by seed, fold and gene. Methods are ranked on each data set;
floors and ceiling are not. Draws are compared among the methods that make some, and with the floors of draws.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import rankdata

from ablations.findings.results import StudyResults
from ablations.findings.rows import FAMILIES, HIDDEN_PRIMARY, DatasetTable, Row
from ablations.statistics.intervals import N_RESAMPLES
from ablations.statistics.paired import Estimate, compare_paired, correct_family
from cgd.metrics.facts import DRAW_SCORES, METRICS, OUTCOMES

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
        and floors of all data sets and both outcomes.
    over_floor
        Outcome -> this minus the best floor in it, paired; empty for floors and ceiling. `p_holm` is over all methods
        and both outcomes.
    ranks
        Metric -> rank among the methods, 1 the best, shared where equal; empty for floors and ceiling. A method that
        never draws has none in the scores of draws.
    """

    row: Row
    leads: Mapping[str, Estimate] = field(default_factory=dict)
    over_floor: Mapping[str, Estimate] = field(default_factory=dict)
    ranks: Mapping[str, float] = field(default_factory=dict)

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

    def list_ranked(self, metric: str) -> list[Place]:
        """The methods that are ranked in a metric: of draws, those that make some."""
        return [place for place in self.methods if metric in place.ranks]

    def find_best_floor(self, metric: str) -> Place | None:
        """The floor that does best in an outcome."""
        floor = self.table.find_best_floor(metric)
        floors = [place for place in self.places if place.row.kind == "floor"]  # a method may bear a floor's name
        return next((place for place in floors if floor and place.row.name == floor.name), None)

    def find(self, name: str) -> Place | None:
        """The method of that name."""
        return next((place for place in self.methods if place.row.name == name), None)

    def best(self, metric: str) -> set[str]:
        """Names of the methods that share the first rank, all of their trials finished."""
        ranked = {place.row.name: place.ranks[metric] for place in self.list_ranked(metric)}
        known = {p.row.name for p in self.methods if p.row.is_whole and p.row.knows(metric)}
        return {name for name in known if ranked.get(name) == min(ranked[n] for n in known)}


@dataclass(frozen=True)
class Counts:
    """On how many data sets an interval is all on the better side, on the worse, on both, or missing.

    `positive` counts the means on the better side.
    """

    positive: int
    above: int
    below: int
    undecided: int
    unknown: int

    @property
    def total(self) -> int:
        return self.above + self.below + self.undecided + self.unknown


@dataclass(frozen=True)
class Standing:
    """A method over all data sets in one outcome.

    Attributes
    ----------
    mean, mean_rank
        Means over the data sets.
    leads, over_floor
        Of the reference over this (None for itself), and of this over the best floor of each data set.
    """

    mean: float
    mean_rank: float
    leads: Counts | None
    over_floor: Counts | None


@dataclass(frozen=True)
class Overall:
    """A method over all data sets.

    Attributes
    ----------
    standings
        By outcome; without the draws of a method that never makes any.
    accuracy_score
        SpatialBenchmarking's AS: on each data set and in each of PCC, SSIM, RMSE and JS the worst of N methods gets 1
        point and the best N; the mean of the points over N. 1 is best in everything.
    failed_on, partial_on
        Data sets on which no trial finished, and on which some did not.
    """

    name: str
    title: str
    kind: str
    is_reference: bool
    standings: Mapping[str, Standing]
    accuracy_score: float = math.nan
    failed_on: tuple[str, ...] = ()
    partial_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableOne:
    """All data sets, then the methods over them and, last, the best floor of each data set as one row."""

    data_sets: tuple[DatasetPlaces, ...]
    overall: tuple[Overall, ...]


def build_table_one(results: StudyResults, tables: Sequence[DatasetTable], n_resamples: int = N_RESAMPLES) -> TableOne:
    """Table I from a comparison's results and the tables of `build_tables`."""
    drawing = {row.name for table in tables for row in table.levels if any(map(row.knows, _list_draws(results)))}
    found = _correct(
        [DatasetPlaces(table, tuple(_place_all(results, table, drawing, n_resamples))) for table in tables]
    )
    labels = [label for label in results.study.labels if any(one.find(label) for one in found)]
    overall = [_summarise_method(found, label, results.outcomes) for label in labels]
    best_floors = {m: floors for m in results.outcomes if any(floors := [one.find_best_floor(m) for one in found])}
    if best_floors:
        standings = {metric: _stand(floors, metric) for metric, floors in best_floors.items()}
        overall.append(Overall("best floor", "best floor", "floor", False, standings))
    return TableOne(tuple(found), tuple(overall))


def _list_draws(results: StudyResults) -> list[str]:
    return [metric for metric in results.outcomes if metric in DRAW_SCORES]


# ---- one data set ---------------------------------------------------------------------------------------------------


def _place_all(
    results: StudyResults, table: DatasetTable, drawing: Collection[str], n_resamples: int
) -> Iterable[Place]:
    """`drawing`: the methods that make draws somewhere."""
    genes = results.per_gene[results.per_gene["dataset"] == table.name].drop(columns="dataset")
    floors = results.floors[results.floors["dataset"] == table.name].drop(columns="dataset")
    reference = genes[genes["level"] == table.default.name]
    floor_of = {metric: floor for metric in results.outcomes if (floor := table.find_best_floor(metric))}
    metrics = [*results.outcomes, *([HIDDEN_PRIMARY] if HIDDEN_PRIMARY in results.metrics else [])]
    ranks = _rank_methods(table.levels, drawing, _list_draws(results))
    for row in [*table.levels, *(row for row in table.references if row.kind == "floor")]:
        own = genes[genes["level"] == row.name] if row.kind == "level" else floors[floors["method"] == row.name]
        compared = [metric for metric in metrics if _has(row, metric, drawing)]
        leads = {} if row.is_default else compare_paired(reference, own, compared, n_resamples)
        over = {
            metric: compare_paired(own, floors[floors["method"] == floor.name], [metric], n_resamples)[metric]
            for metric, floor in floor_of.items()
            if row.kind == "level" and metric in compared
        }
        yield Place(row, leads, over, ranks.get(row.name, {}) if row.kind == "level" else {})
    yield from (Place(row) for row in table.references if row.kind == "ceiling")


def _has(row: Row, metric: str, drawing: Collection[str]) -> bool:
    """Whether a row is one of those that are compared in a metric."""
    if row.kind == "level":
        return metric not in DRAW_SCORES or row.name in drawing
    return row.is_of_draws == (metric in DRAW_SCORES)


def _rank_methods(
    methods: Sequence[Row], drawing: Collection[str], draws: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Method -> metric -> rank by the mean, 1 the best; equal means share the mean of their ranks.

    A method without a result, or with a trial that did not finish, is behind all others: to leave it out, or to rank
    it by the genes it finished, would reward failing where it is hard. In scores of draws those that never draw are
    left out.
    """
    found: dict[str, dict[str, float]] = {row.name: {} for row in methods}
    for metric in (*SCORED, *draws):
        ranked = [row for row in methods if _has(row, metric, drawing)]
        worth = [METRICS[metric].sign * row.get_mean(metric) if row.is_whole else np.nan for row in ranked]
        for row, rank in zip(ranked, rankdata(-np.nan_to_num(worth, nan=-np.inf)), strict=True):
            found[row.name][metric] = float(rank)
    return found


def _correct(found: list[DatasetPlaces]) -> list[DatasetPlaces]:
    """Holm's correction over both outcomes: a family of leads, hidden entries apart, and one of what is over floors."""
    for metrics in FAMILIES:
        places = [place for one in found for place in one.places]
        leads = correct_family(place.leads.get(metric) for place in places for metric in metrics)
        found = [
            replace(one, places=tuple(replace(p, leads={**p.leads, **_take(leads, metrics)}) for p in one.places))
            for one in found
        ]
    over = correct_family(p.over_floor.get(metric) for one in found for p in one.places for metric in OUTCOMES)
    return [
        replace(one, places=tuple(replace(place, over_floor=_take(over, OUTCOMES)) for place in one.places))
        for one in found
    ]


def _take(family: Iterator[Estimate | None], metrics: Sequence[str]) -> dict[str, Estimate]:
    """The next of the family in each metric, where there is one."""
    return {metric: found for metric in metrics if (found := next(family))}


# ---- over the data sets ---------------------------------------------------------------------------------------------


def _summarise_method(found: Sequence[DatasetPlaces], label: str, outcomes: Sequence[str]) -> Overall:
    known = [(one, place) for one in found if (place := one.find(label))]
    row = known[0][1].row
    standings = {
        metric: _stand([place for _, place in known], metric)
        for metric in outcomes
        if any(metric in place.ranks for _, place in known)
    }
    return Overall(
        name=label,
        title=row.title,
        kind=row.kind,
        is_reference=row.is_default,
        standings=standings,
        accuracy_score=float(np.mean([_score(one, place) for one, place in known])),
        failed_on=tuple(one.table.name for one, place in known if place.has_failed),
        partial_on=tuple(one.table.name for one, place in known if place.is_partial),
    )


def _stand(places: Sequence[Place | None], metric: str) -> Standing:
    """Of a method, or of the best floor of each data set, over the data sets that have it."""
    known = [place for place in places if place is not None]
    is_reference, is_method = known[0].row.is_default, known[0].row.kind == "level"
    return Standing(
        mean=float(np.mean([place.row.get_mean(metric) for place in known])),
        mean_rank=float(np.mean([place.ranks.get(metric, math.nan) for place in known])),
        leads=None if is_reference else _count([place.leads.get(metric) for place in known], metric),
        over_floor=_count([place.over_floor.get(metric) for place in known], metric) if is_method else None,
    )


def _score(one: DatasetPlaces, place: Place) -> float:
    """The accuracy score on one data set."""
    n = len(one.methods)
    return float(np.mean([(n + 1 - place.ranks.get(metric, math.nan)) / n for metric in SCORED]))


def _count(estimates: Sequence[Estimate | None], metric: str) -> Counts:
    sign = METRICS[metric].sign
    known = [estimate.orient(sign) for estimate in estimates if estimate is not None and estimate.is_known]
    above, below = sum(e.low > 0 for e in known), sum(e.high < 0 for e in known)
    undecided = len(known) - above - below
    return Counts(sum(e.mean > 0 for e in known), above, below, undecided, len(estimates) - len(known))
