"""What a comparison of methods found, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple

from ablations.findings.results import StudyResults
from ablations.findings.table_one import Counts, DatasetPlaces, Place, TableOne
from ablations.findings.verdict import describe_gap
from ablations.findings.wording import SCORE
from cgd.metrics.facts import FLOORS, PRIMARY

_MOST_NAMED = 4


def open_comparison(results: StudyResults, found: TableOne) -> str:
    """The first line: how often the reference is ahead of the methods and of the best floors, and by what evidence."""
    reference, n = results.study.default_label, len(found.data_sets)
    firsts = [one.table.name for one in found.data_sets if one.reference.row.name in one.best(PRIMARY)]
    sentences = [
        f"{reference} has the highest mean {SCORE} of the methods on {len(firsts)} of {n} data set{'s' * (n != 1)}."
    ]
    methods = [row for row in found.overall if row.kind == "level" and not row.is_reference]
    if methods:
        together = Counts(*map(sum, zip(*(astuple(row.leads) for row in methods if row.leads), strict=True)))
        sentences.append(
            f"Against the {len(methods)} other method{'s' * (len(methods) != 1)} it is {_describe_counts(together)}."
        )
    floor = next((row for row in found.overall if row.kind == "floor"), None)
    if floor and floor.leads:
        names = {one.best_floor.row.title for one in found.data_sets if one.best_floor}
        which = names.pop() if len(names) == 1 else "the best floor of each"
        sentences.append(f"Against {which} it is {_describe_counts(floor.leads)}.")
    return " ".join(sentences)


def _describe_counts(counts: Counts) -> str:
    """`ahead in 7 of 9 comparisons (interval above zero), behind in 1, undecided in 1`."""
    n = f"{counts.total} comparison{'s' * (counts.total != 1)}"
    parts = [f"ahead in {counts.above} of {n} (interval above zero)", f"behind in {counts.below}"]
    parts.append(f"undecided in {counts.undecided}")
    return ", ".join(parts + [f"without a result in {counts.unknown}"] * bool(counts.unknown))


def judge_comparison(one: DatasetPlaces) -> str:
    """Where the reference stands on a data set: its rank, who is not behind it, the best floor and the fills."""
    if not any(place.row.primary.is_known for place in one.methods):
        return "No method has a result, so there is no answer."
    reference = one.reference
    if not reference.row.primary.is_known:
        nothing = f"{reference.row.title} has no result, so nothing can be compared with it."
        return f"{nothing} {_describe_failures(one)}".strip()
    n, rank = len(one.methods), reference.ranks[PRIMARY]
    place = f"ranks {rank:g} of {n} by mean {SCORE}, at" if n > 1 else f"is the only method, with a mean {SCORE} of"
    sentences = [
        f"{reference.row.title} {place} {reference.row.primary.mean:.3f}.",
        *_list_not_behind(one),
        *_compare_with_floor(one, reference),
        _describe_failures(one),
        _describe_fills(one),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _list_not_behind(one: DatasetPlaces) -> list[str]:
    """The methods that are not shown to be behind the reference."""
    known = [(place, place.lead) for place in one.methods if place.lead is not None and place.lead.is_known]
    if not known:
        return []
    ahead = [place.row.title for place, lead in known if lead.high < 0]
    undecided = [place.row.title for place, lead in known if not lead.excludes_zero]
    n_behind = len(known) - len(ahead) - len(undecided)
    parts = [f"ahead of {n_behind} of {len(known)} by an interval above zero"]
    parts += [f"behind {_join_titles(ahead)}"] if ahead else []
    parts += [f"undecided against {_join_titles(undecided)}"] if undecided else []
    return [f"It is {', '.join(parts)}."]


def _join_titles(titles: Sequence[str]) -> str:
    more = len(titles) - _MOST_NAMED
    return ", ".join(titles[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _compare_with_floor(one: DatasetPlaces, reference: Place) -> list[str]:
    if one.best_floor is None or reference.over_floor is None or not reference.over_floor.is_known:
        return []
    floor = one.best_floor.row
    words = f"the best floor, {floor.title} at {floor.primary.mean:.3f}"
    return [f"It is {describe_gap(reference.over_floor, words)}."]


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
    found = [(floor.label, rows[floor.name].primary.mean) for floor in fills]
    scores = [f"{words}: {mean:.3f}" for words, mean in found if math.isfinite(mean)]
    return f"{SCORE} without any method, {'; '.join(scores)}." if scores else ""


def list_failures(one: DatasetPlaces) -> list[str]:
    """`stDiff on tissue: DataError: ...` for each method with a trial that failed."""
    return [
        f"{place.row.title} on {one.table.name}: {' / '.join(place.row.errors)}"
        for place in one.methods
        if place.row.errors
    ]
