"""What a comparison of methods found, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple

from ablations.findings.results import StudyResults
from ablations.findings.table_one import Counts, DatasetPlaces, Place, TableOne
from ablations.findings.verdict import describe_gap
from ablations.findings.wording import OUTCOME_WORDS, SCORE, format_signed, name_extreme
from cgd.metrics.facts import FLOORS, METRICS, OUTCOMES, PRIMARY

_MOST_NAMED = 4
_UNTRAINED = "counts_untrained"
_DRAWN = OUTCOMES[1]
_SIDES = {1: "above", -1: "below"}  # of zero, where the whole interval of a lead is


def open_comparison(results: StudyResults, found: TableOne) -> str:
    """The first line: what training adds to the draws, how often the reference is ahead of the methods and of the best
    floors, and by what evidence."""
    sentences = list(_open_training(found))
    sentences += [s for metric in results.outcomes for s in _open_outcome(results.study.default_label, found, metric)]
    return " ".join(sentences)


def _open_training(found: TableOne) -> Iterator[str]:
    """By how much draws of the trained network are better than those of the untrained one, under the same noise."""
    parts = []
    for one in found.data_sets:
        lead = next((p.leads[_DRAWN] for p in one.places if p.row.name == _UNTRAINED and _DRAWN in p.leads), None)
        if lead is not None and lead.is_known:
            bounds = f"{format_signed(lead.low)} to {format_signed(lead.high)}"
            parts.append(f"{format_signed(lead.mean)} on {one.table.name} ({bounds})")
    if parts:
        yield f"Training changes the mean {METRICS[_DRAWN].label} of the draws by {', '.join(parts)}."


def _open_outcome(reference: str, found: TableOne, metric: str) -> Iterator[str]:
    side, n, label = _SIDES[METRICS[metric].sign], len(found.data_sets), METRICS[metric].label
    methods = [row for row in found.overall if row.kind == "level" and metric in row.standings]
    others = [row.standings[metric] for row in methods if not row.is_reference]
    floor = next(
        (row.standings[metric] for row in found.overall if row.kind == "floor" and metric in row.standings), None
    )
    if not any(row.is_reference for row in methods):
        yield f"{reference} makes no draws."
        return
    if others or metric == PRIMARY:
        firsts = [one.table.name for one in found.data_sets if one.reference.row.name in one.best(metric)]
        which = "methods" if metric == PRIMARY else "methods that draw"
        yield (
            f"{reference} has the {name_extreme(metric)} mean {label} of the {which} on {len(firsts)} of {n} data "
            f"set{'s' * (n != 1)}."
        )
    else:
        yield f"{reference} alone makes draws."
    if others:
        together = Counts(*map(sum, zip(*(astuple(row.leads) for row in others if row.leads), strict=True)))
        which = f"the {len(others)} other method{'s' * (len(others) != 1)}"
        yield f"Against {which} it is {_describe_counts(together, side)}."
    if floor and floor.leads:
        names = {place.row.title for one in found.data_sets if (place := one.find_best_floor(metric))}
        which = names.pop() if len(names) == 1 else f"{OUTCOME_WORDS[metric].floor} of each"
        against = "Against" if metric == PRIMARY else f"In {label}, against"
        yield f"{against} {which} it is {_describe_counts(floor.leads, side)}."


def _describe_counts(counts: Counts, side: str) -> str:
    """`ahead in 7 of 9 comparisons (interval above zero), behind in 1, undecided in 1`."""
    n = f"{counts.total} comparison{'s' * (counts.total != 1)}"
    parts = [f"ahead in {counts.above} of {n} (interval {side} zero)", f"behind in {counts.below}"]
    parts.append(f"undecided in {counts.undecided}")
    return ", ".join(parts + [f"without a result in {counts.unknown}"] * bool(counts.unknown))


def judge_comparison(one: DatasetPlaces) -> str:
    """Where the reference stands on a data set: its rank, who is not behind it, the best floor and the fills."""
    if not any(place.row.knows(PRIMARY) for place in one.methods):
        return "No method has a result, so there is no answer."
    reference = one.reference
    if not reference.row.knows(PRIMARY):
        nothing = f"{reference.row.title} has no result, so nothing can be compared with it."
        return f"{nothing} {_describe_failures(one)}".strip()
    sentences = [
        *(sentence for metric in one.table.outcomes for sentence in _judge_outcome(one, reference, metric)),
        _describe_failures(one),
        _describe_fills(one),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _judge_outcome(one: DatasetPlaces, reference: Place, metric: str) -> Iterator[str]:
    if not reference.row.knows(metric):
        yield f"{reference.row.title} makes no draws here."
        return
    n, rank, mean = len(one.list_ranked(metric)), reference.ranks[metric], f"mean {METRICS[metric].label}"
    only = "the only method" if metric == PRIMARY else "the only method that draws"
    ranked = f"{n}" if metric == PRIMARY else f"the {n} that draw"
    place = f"ranks {rank:g} of {ranked} by {mean}, at" if n > 1 else f"is {only}, with a {mean} of"
    yield f"{reference.row.title} {place} {reference.row.get_mean(metric):.3f}."
    yield from _list_not_behind(one, metric)
    floor, over = one.find_best_floor(metric), reference.over_floor.get(metric)
    if floor is not None and over is not None and over.is_known:
        words = f"{OUTCOME_WORDS[metric].floor}, {floor.row.title} at {floor.row.get_mean(metric):.3f}"
        yield f"It is {describe_gap(over, words)}."


def _list_not_behind(one: DatasetPlaces, metric: str) -> list[str]:
    """The methods that are not shown to be behind the reference."""
    sign = METRICS[metric].sign
    found = [(place, place.leads[metric].orient(sign)) for place in one.methods if metric in place.leads]
    known = [(place, lead) for place, lead in found if lead.is_known]
    if not known:
        return []
    ahead = [place.row.title for place, lead in known if lead.high < 0]
    undecided = [place.row.title for place, lead in known if not lead.excludes_zero]
    n_behind = len(known) - len(ahead) - len(undecided)
    parts = [f"ahead of {n_behind} of {len(known)} by an interval {_SIDES[sign]} zero"]
    parts += [f"behind {_join_titles(ahead)}"] if ahead else []
    parts += [f"undecided against {_join_titles(undecided)}"] if undecided else []
    return [f"It is {', '.join(parts)}."]


def _join_titles(titles: Sequence[str]) -> str:
    more = len(titles) - _MOST_NAMED
    return ", ".join(titles[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _describe_failures(one: DatasetPlaces) -> str:
    failed = [place.row.title for place in one.methods if place.has_failed]
    partial = [
        f"{place.row.title} ({counts.ok} of {counts.ok + counts.failed + counts.missing} trials)"
        for place in one.methods
        if place.is_partial and (counts := place.row.trials)
    ]
    sentences = [f"Failed here: {', '.join(failed)}."] * bool(failed)
    sentences += [f"Not finished, hence last in the ranks: {', '.join(partial)}."] * bool(partial)
    return " ".join(sentences)


def _describe_fills(one: DatasetPlaces) -> str:
    """What filling the hidden entries without any method scores; empty but under the published protocol."""
    rows = {place.row.name: place.row for place in one.places if place.row.kind == "floor"}
    fills = [floor for floor in FLOORS.values() if floor.is_fill and floor.name in rows]
    found = [(floor.label, rows[floor.name].get_mean(PRIMARY)) for floor in fills]
    scores = [f"{words}: {mean:.3f}" for words, mean in found if math.isfinite(mean)]
    return f"{SCORE} without any method, {'; '.join(scores)}." if scores else ""


def list_failures(one: DatasetPlaces) -> list[str]:
    """`stDiff on tissue: DataError: ...` for each method with a trial that failed."""
    return [
        f"{place.row.title} on {one.table.name}: {' / '.join(place.row.errors)}"
        for place in one.methods
        if place.row.errors
    ]
