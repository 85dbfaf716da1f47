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
from ablations.report.sheets.draws import DRAWN, SHOWN, explain_draws, show_draws
from ablations.report.sheets.results import COPIED, describe_data, show_difference, show_trials
from ablations.report.sheets.sheet import TABLE_ONE, TABLE_ONE_DRAWS, Cell, Line, Sheet
from ablations.statistics.paired import Estimate
from cgd.config import BROUGHT
from cgd.metrics.facts import CEILING, FLOORS, METRICS, NOISE_CEILINGS, OUTCOMES, PRIMARY, REFERENCES

_COSTS = {"train_seconds": 1, "wall_seconds": 1, "peak_memory_mb": 0}  # and digits shown


def make_table_one(results: StudyResults, one: DatasetPlaces) -> Sheet:
    """Methods, floors and ceilings of one data set, by their best guess."""
    hidden = [HIDDEN_PRIMARY] * (results.protocol == "published")
    lead = f"{SCORE}: {results.study.default_label} − this row"
    columns = ["Method", *(METRICS[metric].heading for metric in (*SCORED, *hidden)), lead, "adjusted p"]
    columns += [f"{lead}, hidden entries", "adjusted p"] * len(hidden)
    columns += [f"{SCORE}: this row − best floor", "adjusted p"]
    columns += ["rank", *(METRICS[cost].label for cost in _COSTS), "trials"]
    lines = [
        Line(tuple(_make_cells(results, one, place, hidden)), place.row.kind, has_rule=_begins_kind(one, place))
        for place in one.places
        if not place.row.is_of_draws
    ]
    return Sheet(
        f"{TABLE_ONE}{one.table.name}",
        one.table.title,
        tuple(columns),
        tuple(lines),
        note=_write_note(results),
        intro=describe_data(one.table),
    )


def make_draws_of_methods(results: StudyResults, one: DatasetPlaces) -> Sheet | None:
    """Methods, floors of draws and their ceiling on one data set; None where the study has no draws."""
    if DRAWN not in results.outcomes:
        return None
    label, reference = METRICS[DRAWN].label, results.study.default_label
    columns = ["Method", *(METRICS[metric].heading for metric in SHOWN)]
    columns += [f"{label}: {reference} − this row", "adjusted p"]
    columns += [f"{label}: this row − best floor of draws", "adjusted p", "rank"]
    places = [place for place in one.places if place.row.is_of_draws or place.row.kind == "level"]
    firsts = {kind: next(p for p in places if p.row.kind == kind) for kind in dict.fromkeys(p.row.kind for p in places)}
    lines = [
        Line(tuple(_make_cells_of_draws(one, place)), place.row.kind, has_rule=place is firsts[place.row.kind])
        for place in places
    ]
    shown = (floor for name, floor in REFERENCES.items() if any(p.row.name == name for p in places))
    floors = "; ".join(f"{floor.short_label}: {floor.description.rstrip('.')}" for floor in shown if floor.of_draws)
    note = (
        f"{explain_draws()} A method that makes no draws has dashes and no rank. Differences are paired by seed, fold "
        "and gene, bold where they differ from 0; adjusted p: after Holm's correction over all data sets, both "
        f"outcomes and all methods and, against {reference}, all floors. What stands below the methods: {floors}."
    )
    title = f"{one.table.title}: the draws"
    return Sheet(f"{TABLE_ONE_DRAWS}{one.table.name}", title, tuple(columns), tuple(lines), note=note)


def _make_cells_of_draws(one: DatasetPlaces, place: Place) -> list[Cell]:
    row = place.row
    tags = ["best floor"] * (place is one.find_best_floor(DRAWN))
    tags += ["above every method"] * _is_above_methods(one, place, DRAWN)
    is_best = row.kind == "level" and row.name in one.best(DRAWN)
    cells = [Cell(row.title, tags=tuple(tags), is_strong=row.is_default), *show_draws(row, is_best)]
    cells += [*_compare(place.leads.get(DRAWN)), *_compare(place.over_floor.get(DRAWN))]
    return [*cells, _show_rank(place, DRAWN)]


def _show_rank(place: Place, metric: str) -> Cell:
    return Cell(f"{place.ranks[metric]:g}" if metric in place.ranks else "–" * (place.row.kind == "level"))


def _begins_kind(one: DatasetPlaces, place: Place) -> bool:
    """Whether a row is the first of its kind."""
    return place is next(other for other in one.places if other.row.kind == place.row.kind)


def _write_note(results: StudyResults) -> str:
    reference = results.study.default_label
    note = (
        f"Means over the test genes, the seeds of a gene averaged first, with {CONFIDENCE_PERCENT} intervals over "
        "genes; bold where a method is best. The floors and the ceiling stand below the methods. Differences are "
        "paired by seed, fold and gene, bold where they differ from 0. Adjusted p: of the difference before it, after "
        f"Holm's correction over all data sets, all outcomes and all methods and, against {reference}, all floors. "
        f"Rank: among the methods, by mean {SCORE}; one with a trial that did not finish is last. Seconds are means of "
        "a trial, memory the largest peak of its process."
    )
    return note + COPIED * (results.protocol == "published") + _explain_names(results)


def _explain_names(results: StudyResults) -> str:
    """What the metrics, the floors and the ceiling are."""
    metrics = ", ".join(f"{METRICS[name].label} ({_begin_low(METRICS[name].description)})" for name in SCORED)
    shown = [floor for floor in FLOORS.values() if results.protocol == "published" or not floor.is_fill]
    floors = ", ".join(f"{floor.short_label} ({_begin_low(floor.description)})" for floor in shown)
    if results.floors["method"].isin([*NOISE_CEILINGS]).any():
        floors += "".join(
            f", {floor.short_label} ({_begin_low(floor.description)})" for floor in NOISE_CEILINGS.values()
        )
    return f" Metrics, ↑ where higher is better: {metrics}. What stands below the methods: {floors}."


def _begin_low(sentence: str) -> str:
    """A sentence as part of another; abbreviations and names keep their capital."""
    word = sentence.partition(" ")[0]
    return (sentence if word in ("Pearson", "Jensen-Shannon") else sentence[0].lower() + sentence[1:]).rstrip(".")


def _make_cells(results: StudyResults, one: DatasetPlaces, place: Place, hidden: list[str]) -> list[Cell]:
    row = place.row
    tags = ["best floor"] * (place is one.find_best_floor(PRIMARY))
    tags += ["above every method"] * _is_above_methods(one, place, PRIMARY)
    cells = [Cell(row.title, tags=tuple(tags), is_strong=row.is_default)]
    for metric in (*SCORED, *hidden):
        is_best = row.kind == "level" and metric in SCORED and row.name in one.best(metric)
        cells.append(_show_mean(place, metric, is_best))
    for metric in (PRIMARY, *hidden):
        cells += _compare(place.leads.get(metric))
    return [*cells, *_compare(place.over_floor.get(PRIMARY)), *_show_standing(results, place)]


def _is_above_methods(one: DatasetPlaces, place: Place, metric: str) -> bool:
    """Whether a floor does better in an outcome than every method, which a reader should not overlook."""
    sign = METRICS[metric].sign
    worth = [sign * other.row.get_mean(metric) for other in one.methods if other.row.knows(metric)]
    return place.row.kind == "floor" and bool(worth) and sign * place.row.get_mean(metric) > max(worth)


def _show_mean(place: Place, metric: str, is_best: bool) -> Cell:
    found = place.row.estimates[metric]
    if metric in OUTCOMES and place.has_failed:
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
    return [_show_rank(place, PRIMARY), *numbers, show_trials(row)]


# ---- over the data sets ---------------------------------------------------------------------------------------------


def make_overall(results: StudyResults, found: TableOne, metric: str) -> Sheet:
    """Means and ranks in an outcome, of the best guess the accuracy score, and on how many data sets who is ahead."""
    reference, n, label = results.study.default_label, len(found.data_sets), METRICS[metric].label
    has_score = metric == PRIMARY
    columns = ["Method", f"mean {METRICS[metric].heading}", "mean rank ↓", *["accuracy score ↑"] * has_score]
    columns += [f"{reference} has the {METRICS[metric].direction} mean"]
    columns += [f"{reference} is ahead", f"{reference} is behind", "undecided"]
    columns += ["ahead of the best floor", "behind the best floor", "undecided against it"]
    best = max((row.accuracy_score for row in found.overall if row.kind == "level"), default=math.nan)
    rows = [row for row in found.overall if metric in row.standings]
    lines = [
        Line(
            tuple(_make_overall_cells(row, metric, best, has_score)),
            row.kind,
            has_rule=i > 0 and row.kind != rows[i - 1].kind,
        )
        for i, row in enumerate(rows)
    ]
    scored = ", ".join(METRICS[one].label for one in SCORED)
    note = (
        f"Over {n} data set{'s' * (n != 1)}, each of which counts once. Mean rank: among the methods"
        f"{' that draw' * (metric != PRIMARY)}, by mean {label}. "
    )
    if has_score:
        note += (
            f"Accuracy score, that of SpatialBenchmarking: on each data set and in each of {scored} the worst of N "
            "methods gets 1 point and the best N; the score is the mean of the points over N. "
        )
    side, other = ("above", "below") if METRICS[metric].sign > 0 else ("below", "above")
    note += (
        "A method without a result on a data set, or with a trial that did not finish, is last there. The columns "
        "after it count data sets: ahead, behind and undecided are those on which the paired interval of the "
        f"difference in {label} is {side} 0, {other} 0, or holds 0."
    )
    if not has_score:
        return Sheet(f"overall:{metric}", "All data sets: the draws", tuple(columns), tuple(lines), note=note)
    notes = results.study.notes
    intro = tuple(f"{row.title}: {notes[row.name]}" for row in rows if row.name in notes)
    return Sheet("overall", "All data sets", tuple(columns), tuple(lines), note=note, intro=intro)


def _make_overall_cells(row: Overall, metric: str, best: float, has_score: bool) -> list[Cell]:
    tags = [f"failed on {', '.join(row.failed_on)}"] * bool(row.failed_on)
    tags += [f"not finished on {', '.join(row.partial_on)}"] * bool(row.partial_on)
    is_best, standing = row.kind == "level" and row.accuracy_score == best, row.standings[metric]
    cells = [Cell(row.title, tags=tuple(tags), is_strong=row.is_reference), Cell(format_number(standing.mean))]
    if row.kind == "level":
        cells.append(Cell(format_number(standing.mean_rank, 2)))
        cells += [Cell(format_number(row.accuracy_score, 3), is_strong=is_best)] * has_score
    else:
        cells += [Cell()] * (1 + has_score)
    leads = standing.leads
    better = Cell(f"{leads.positive} of {leads.total}") if leads else Cell()
    return [*cells, better, *_show_counts(leads), *_show_counts(standing.over_floor)]


def _show_counts(counts: Counts | None) -> list[Cell]:
    if counts is None:
        return [Cell()] * 3
    return [Cell(str(value)) for value in (counts.above, counts.below, counts.undecided)]


def make_means(found: TableOne, metric: str) -> Sheet:
    """The mean of every method in an outcome on every data set, with the best floor and the ceiling."""
    floors = {shorten_name(floor.row) for one in found.data_sets if (floor := one.find_best_floor(metric))}
    lines = []
    for overall in (row for row in found.overall if metric in row.standings):
        cells = [_show_best_mean(one, overall, metric, len(floors) > 1) for one in found.data_sets]
        tags = tuple(floors) if overall.kind == "floor" and len(floors) == 1 else ()
        name = Cell(overall.title, tags=tags, is_strong=overall.is_reference)
        mean = Cell(format_number(overall.standings[metric].mean))
        lines.append(Line((name, *cells, mean), overall.kind))
    ceilings = [one.table.find_ceiling(metric) for one in found.data_sets]
    tops = [row.get_mean(metric) if row else math.nan for row in ceilings]
    ceiling = (Cell(format_number(value)) for value in (*tops, sum(tops) / len(tops)))
    lines.append(Line((Cell(CEILING), *ceiling), "ceiling"))
    columns = ("Method", *(one.table.name for one in found.data_sets), "mean")
    label = METRICS[metric].label
    note = f"Mean {label} over the test genes{', lower is better' * (METRICS[metric].sign < 0)}; bold: best method."
    return Sheet(f"means:{metric}", f"Mean {label}", columns, tuple(lines), note=note)


def _show_best_mean(one: DatasetPlaces, overall: Overall, metric: str, names_floor: bool) -> Cell:
    if overall.kind == "floor":
        floor = one.find_best_floor(metric)
        notes = (shorten_name(floor.row),) if floor and names_floor else ()
        return Cell(format_number(floor.row.get_mean(metric)), notes) if floor else Cell()
    place = one.find(overall.name)
    return replace(_show_mean(place, metric, overall.name in one.best(metric)), bounds=()) if place else Cell()
