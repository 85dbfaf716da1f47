"""Table I of a comparison as text: a table per data set, and one over the data sets."""

from __future__ import annotations

import math
from dataclasses import replace

from ablations.findings.results import StudyResults
from ablations.findings.rows import HIDDEN_PRIMARY
from ablations.findings.table_one import SCORED, Counts, DatasetPlaces, Overall, Place, TableOne
from ablations.findings.wording import (
    CONFIDENCE_PERCENT,
    SCORE,
    format_bounds,
    format_number,
    format_p,
    shorten_name,
)
from ablations.report.sheets.results import COPIED, describe_data, show_difference, show_trials
from ablations.report.sheets.sheet import TABLE_ONE, Cell, Line, Sheet
from ablations.statistics.paired import Estimate
from cgd.config import BROUGHT
from cgd.metrics.facts import CEILING, FLOORS, METRICS, PRIMARY

_COSTS = {"train_seconds": 1, "wall_seconds": 1, "peak_memory_mb": 0}  # and digits shown


def make_table_one(results: StudyResults, one: DatasetPlaces) -> Sheet:
    """Methods, floors and ceiling of one data set."""
    hidden = [HIDDEN_PRIMARY] * (results.protocol == "published")
    lead = f"{SCORE}: {results.study.default_label} − this row"
    columns = ["Method", *(METRICS[metric].heading for metric in (*SCORED, *hidden)), lead, "adjusted p"]
    columns += [f"{lead}, hidden entries", "adjusted p"] * len(hidden)
    columns += [f"{SCORE}: this row − best floor", "adjusted p"]
    columns += ["rank", *(METRICS[cost].label for cost in _COSTS), "trials"]
    lines = [
        Line(tuple(_make_cells(results, one, place, hidden)), place.row.kind, has_rule=_begins_kind(one, place))
        for place in one.places
    ]
    return Sheet(
        f"{TABLE_ONE}{one.table.name}",
        one.table.title,
        tuple(columns),
        tuple(lines),
        note=_write_note(results),
        intro=describe_data(one.table),
    )


def _begins_kind(one: DatasetPlaces, place: Place) -> bool:
    """Whether a row is the first of its kind."""
    return place is next(other for other in one.places if other.row.kind == place.row.kind)


def _write_note(results: StudyResults) -> str:
    reference = results.study.default_label
    return (
        f"Means over the test genes, the seeds of a gene averaged first, with {CONFIDENCE_PERCENT} intervals over "
        "genes; bold where a method is best. The floors and the ceiling stand below the methods. Differences are "
        "paired by seed, fold and gene, bold where they differ from 0. Adjusted p: of the difference before it, after "
        f"Holm's correction over all data sets and all methods and, against {reference}, all floors. Rank: among the "
        f"methods, by mean {SCORE}; one with a trial that did not finish is last. Seconds are means of a trial, memory "
        "the largest peak of its process." + COPIED * (results.protocol == "published") + _explain_names(results)
    )


def _explain_names(results: StudyResults) -> str:
    """What the metrics, the floors and the ceiling are."""
    metrics = ", ".join(f"{METRICS[name].label} ({_begin_low(METRICS[name].description)})" for name in SCORED)
    shown = [floor for floor in FLOORS.values() if results.protocol == "published" or not floor.is_fill]
    floors = ", ".join(f"{floor.short_label} ({_begin_low(floor.description)})" for floor in shown)
    return f" Metrics, ↑ where higher is better: {metrics}. What stands below the methods: {floors}."


def _begin_low(sentence: str) -> str:
    """A sentence as part of another; abbreviations and names keep their capital."""
    word = sentence.partition(" ")[0]
    return (sentence if word in ("Pearson", "Jensen-Shannon") else sentence[0].lower() + sentence[1:]).rstrip(".")


def _make_cells(results: StudyResults, one: DatasetPlaces, place: Place, hidden: list[str]) -> list[Cell]:
    row = place.row
    tags = ["best floor"] * (place is one.best_floor) + ["above every method"] * _is_above_methods(one, place)
    cells = [Cell(row.title, tags=tuple(tags), is_strong=row.is_default)]
    for metric in (*SCORED, *hidden):
        is_best = row.kind == "level" and metric in SCORED and row.name in one.best(metric)
        cells.append(_show_mean(place, metric, is_best))
    for metric in (PRIMARY, *hidden):
        cells += _compare(place.leads.get(metric))
    return [*cells, *_compare(place.over_floor), *_show_standing(results, place)]


def _is_above_methods(one: DatasetPlaces, place: Place) -> bool:
    """Whether a floor does better than every method, which a reader should not overlook."""
    means = [other.row.primary.mean for other in one.methods if other.row.primary.is_known]
    return place.row.kind == "floor" and place.row.primary.is_known and place.row.primary.mean > max(means, default=1)


def _show_mean(place: Place, metric: str, is_best: bool) -> Cell:
    found = place.row.estimates[metric]
    if metric == PRIMARY and place.has_failed:
        return Cell("failed" if place.row.errors else "not run", is_bad=True)
    return Cell(format_number(found.mean), bounds=format_bounds(found), is_strong=is_best)


def _compare(found: Estimate | None) -> list[Cell]:
    return [show_difference(found), Cell(format_p(found.p_holm))] if found else [Cell(), Cell()]


def _show_standing(results: StudyResults, place: Place) -> list[Cell]:
    """Rank, costs and trials; empty for what is no method, costs unknown of predictions made elsewhere."""
    row = place.row
    if row.trials is None:
        return [Cell()] * 5
    values = next(level.values for level in results.study.combinations if level.label == row.name)
    unknown = str(values["method"]).startswith(BROUGHT)
    costs = [(math.nan if unknown else getattr(row, cost), digits) for cost, digits in _COSTS.items()]
    numbers = [Cell(format_number(value, digits)) for value, digits in costs]
    return [Cell(f"{place.ranks[PRIMARY]:g}"), *numbers, show_trials(row)]


# ---- over the data sets ---------------------------------------------------------------------------------------------


def make_overall(results: StudyResults, found: TableOne) -> Sheet:
    """Ranks, the accuracy score, and on how many data sets the reference is ahead."""
    reference, n = results.study.default_label, len(found.data_sets)
    columns = [
        "Method",
        f"mean {METRICS[PRIMARY].heading}",
        "mean rank ↓",
        "accuracy score ↑",
        f"{reference} has the higher mean",
    ]
    columns += [f"{reference} is ahead", f"{reference} is behind", "undecided"]
    columns += ["ahead of the best floor", "behind the best floor", "undecided against it"]
    best = max((row.accuracy_score for row in found.overall if row.kind == "level"), default=math.nan)
    lines = [
        Line(tuple(_make_overall_cells(row, best)), row.kind, has_rule=i > 0 and row.kind != found.overall[i - 1].kind)
        for i, row in enumerate(found.overall)
    ]
    scored = ", ".join(METRICS[metric].label for metric in SCORED)
    note = (
        f"Over {n} data set{'s' * (n != 1)}, each of which counts once. Mean rank: among the methods, by mean {SCORE}. "
        f"Accuracy score, that of SpatialBenchmarking: on each data set and in each of {scored} the worst of N methods "
        "gets 1 point and the best N; the score is the mean of the points over N. A method without a result on a data "
        "set, or with a trial that did not finish, is last there. The columns after it count data sets: ahead, behind "
        f"and undecided are those on which the paired interval of the difference in {SCORE} is above 0, below 0, or "
        "holds 0."
    )
    notes = results.study.notes
    intro = tuple(f"{row.title}: {notes[row.name]}" for row in found.overall if row.name in notes)
    return Sheet("overall", "All data sets", tuple(columns), tuple(lines), note=note, intro=intro)


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


def make_means(found: TableOne) -> Sheet:
    """The mean PCC of every method on every data set, with the best floor and the ceiling."""
    floors = {shorten_name(one.best_floor.row) for one in found.data_sets if one.best_floor}
    lines = []
    for overall in found.overall:
        cells = [_show_best_mean(one, overall, len(floors) > 1) for one in found.data_sets]
        tags = tuple(floors) if overall.kind == "floor" and len(floors) == 1 else ()
        name = Cell(overall.title, tags=tags, is_strong=overall.is_reference)
        lines.append(Line((name, *cells, Cell(format_number(overall.mean_pcc))), overall.kind))
    tops = [one.table.ceiling.primary.mean if one.table.ceiling else math.nan for one in found.data_sets]
    ceiling = (Cell(format_number(value)) for value in (*tops, sum(tops) / len(tops)))
    lines.append(Line((Cell(CEILING), *ceiling), "ceiling"))
    columns = ("Method", *(one.table.name for one in found.data_sets), "mean")
    note = f"Mean {SCORE} over the test genes; bold: best method."
    return Sheet("means", f"Mean {SCORE}", columns, tuple(lines), note=note)


def _show_best_mean(one: DatasetPlaces, overall: Overall, names_floor: bool) -> Cell:
    if overall.kind == "floor":
        floor = one.best_floor
        notes = (shorten_name(floor.row),) if floor and names_floor else ()
        return Cell(format_number(floor.row.primary.mean), notes) if floor else Cell()
    place = one.find(overall.name)
    return replace(_show_mean(place, PRIMARY, overall.name in one.best(PRIMARY)), bounds=()) if place else Cell()
