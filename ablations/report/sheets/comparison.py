"""Table I of a comparison as text: a table per data set, and one over the data sets."""

from __future__ import annotations

import math

from ablations.findings.results import StudyResults
from ablations.findings.table_one import PRIMARY, SCORED, Counts, DatasetPlaces, Overall, Place, TableOne
from ablations.findings.wording import (
    CONFIDENCE_PERCENT,
    format_interval,
    format_number,
    format_p,
    format_signed,
)
from ablations.report.sheets.results import METRIC_NAMES
from ablations.report.sheets.sheet import Cell, Line, Sheet
from ablations.statistics.paired import Estimate
from cgd.config import BROUGHT

_HIDDEN = f"hidden_{PRIMARY}"


def make_table_one(results: StudyResults, one: DatasetPlaces) -> Sheet:
    """Methods, floors and ceiling of one data set."""
    hidden = [_HIDDEN] * (results.protocol == "published")
    reference = results.study.default_label
    pairs = [f"{reference} − method", "Holm p"]
    columns = ["Method", *(METRIC_NAMES[metric] for metric in (*SCORED, *hidden)), *pairs, *pairs * len(hidden)]
    columns += ["method − best floor", "Holm p", "rank", "train s", "total s", "peak MB", "trials"]
    groups = [("", 1), ("all entries, copied ones included", 4), ("hidden only", 1), ("all entries", 2)]
    groups += [("hidden only", 2), ("", 7)]
    lines = [
        Line(tuple(_make_cells(results, one, place, hidden)), place.row.kind, has_rule=_begins_kind(one, place))
        for place in one.places
    ]
    name, paper = one.table.name, one.table.paper_name
    return Sheet(
        key=f"table-one:{name}",
        title=f"{name} ({paper} in the paper)" if paper else name,
        columns=tuple(columns),
        lines=tuple(lines),
        groups=tuple(groups) if hidden else (),
        note=_write_note(results),
    )


def _begins_kind(one: DatasetPlaces, place: Place) -> bool:
    """Whether a row is the first of its kind."""
    return place is next(other for other in one.places if other.row.kind == place.row.kind)


def _write_note(results: StudyResults) -> str:
    reference = results.study.default_label
    return (
        f"Means over the test genes, seeds averaged per gene, with {CONFIDENCE_PERCENT} intervals over genes; bold "
        f"where a method is best, in grey the floors and the ceiling. Differences in PCC are paired by seed, "
        f"fold and gene, bold where they differ from 0 after Holm's correction: {reference} − method over all methods "
        "and floors, method − best floor over all methods, of all data sets. Rank: among the methods, by mean PCC; "
        "one with a trial that did not finish is last. Seconds are means of a trial, memory the largest peak of its "
        "process."
    )


def _make_cells(results: StudyResults, one: DatasetPlaces, place: Place, hidden: list[str]) -> list[Cell]:
    row = place.row
    tags = ["best floor"] * (place is one.best_floor) + ["above every method"] * _is_above_methods(one, place)
    cells = [Cell(row.title, tags=tuple(tags), is_strong=row.is_default)]
    for metric in (*SCORED, *hidden):
        is_best = row.kind == "level" and metric in SCORED and row.name in one.best(metric)
        cells.append(_show_mean(place, metric, is_best))
    for metric in (PRIMARY, *hidden):
        cells += _show_difference(place.leads.get(metric))
    return [*cells, *_show_difference(place.over_floor), *_show_standing(results, place)]


def _is_above_methods(one: DatasetPlaces, place: Place) -> bool:
    """Whether a floor does better than every method, which a reader should not overlook."""
    means = [other.row.primary.mean for other in one.methods if other.row.primary.is_known]
    return place.row.kind == "floor" and place.row.primary.is_known and place.row.primary.mean > max(means, default=1)


def _show_mean(place: Place, metric: str, is_best: bool) -> Cell:
    found = place.row.estimates[metric]
    if metric == PRIMARY and place.has_failed:
        return Cell("failed" if place.row.errors else "not run", is_bad=True)
    bounds = format_interval(found)
    return Cell(format_number(found.mean), (bounds,) if bounds else (), is_strong=is_best)


def _show_difference(found: Estimate | None) -> list[Cell]:
    if found is None:
        return [Cell(), Cell()]
    bounds = format_interval(found, sign=True)
    difference = Cell(format_signed(found.mean), (bounds,) if bounds else (), is_strong=found.differs)
    return [difference, Cell(format_p(found.p_holm))]


def _show_standing(results: StudyResults, place: Place) -> list[Cell]:
    """Rank, costs and trials; empty for what is no method, costs unknown of predictions made elsewhere."""
    row = place.row
    if row.trials is None:
        return [Cell()] * 5
    costs: tuple[float, ...] = (row.train_seconds, row.wall_seconds, row.peak_memory_mb)
    if is_brought(results, row.name):
        costs = (math.nan,) * 3
    notes = [f"{row.trials.failed} failed"] * bool(row.trials.failed)
    notes += [f"{row.trials.missing} missing"] * bool(row.trials.missing)
    cells = [Cell(f"{place.ranks[PRIMARY]:g}")]
    cells += [Cell(format_number(value, digits)) for value, digits in zip(costs, (1, 1, 0), strict=True)]
    return [*cells, Cell(f"{row.trials.ok} ok", tuple(notes), is_bad=bool(notes))]


def is_brought(results: StudyResults, label: str) -> bool:
    """Whether a level is a file of predictions."""
    values = next(row.values for row in results.study.combinations if row.label == label)
    return str(values["method"]).startswith(BROUGHT)


# ---- over the data sets ---------------------------------------------------------------------------------------------


def make_overall(results: StudyResults, found: TableOne) -> Sheet:
    """Ranks, the accuracy score, and on how many data sets the reference is ahead."""
    reference, n = results.study.default_label, len(found.data_sets)
    outcomes = ("above 0", "below 0", "holds 0")
    columns = ("Method", "mean PCC", "mean rank ↓", "AS ↑", "higher mean", *outcomes, *outcomes)
    groups = (("", 4), (f"{reference} − method: data sets whose interval", 4), ("method − best floor: interval", 3))
    best = max((row.accuracy_score for row in found.overall if row.kind == "level"), default=math.nan)
    lines = [
        Line(tuple(_make_overall_cells(row, best)), row.kind, has_rule=i > 0 and row.kind != found.overall[i - 1].kind)
        for i, row in enumerate(found.overall)
    ]
    note = (
        f"Over {n} data set{'s' * (n != 1)}, each of which counts once. Mean rank: among the methods, by mean PCC. AS: "
        "the accuracy score of SpatialBenchmarking; on each data set and in each of PCC, SSIM, RMSE and JS the worst "
        "of N methods gets 1 point and the best N, and AS is the mean of the points over N. A method without a result "
        "on a data set, or with a trial that did not finish, is last there. "
        f"On how many data sets {reference} has "
        "the higher mean, and the paired interval of a difference in PCC is above 0, below 0, or holds 0."
    )
    return Sheet("overall", "All data sets", columns, tuple(lines), groups, note=note)


def _make_overall_cells(row: Overall, best: float) -> list[Cell]:
    tags = [f"failed on {', '.join(row.failed_on)}"] * bool(row.failed_on)
    tags += [f"not finished on {', '.join(row.partial_on)}"] * bool(row.partial_on)
    is_best = row.kind == "level" and row.accuracy_score == best
    cells = [Cell(row.title, tags=tuple(tags), is_strong=row.is_reference), Cell(format_number(row.mean_pcc))]
    if row.kind == "level":
        cells += [Cell(format_number(row.mean_rank, 2)), Cell(format_number(row.accuracy_score, 3), is_strong=is_best)]
    else:
        cells += [Cell(), Cell()]
    higher = Cell(f"{row.leads.positive} of {row.leads.total}") if row.leads else Cell()
    return [*cells, higher, *_show_counts(row.leads), *_show_counts(row.over_floor)]


def _show_counts(counts: Counts | None) -> list[Cell]:
    if counts is None:
        return [Cell()] * 3
    return [Cell(str(value)) for value in (counts.above, counts.below, counts.undecided)]
