"""The report in plain text, for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from ablations.findings.rows import HIDDEN_PRIMARY
from ablations.findings.table_one import DatasetPlaces, Place, TableOne
from ablations.findings.tables import DatasetTable, Row
from ablations.findings.wording import (
    CONFIDENCE_PERCENT,
    SCORE,
    format_interval,
    format_number,
    format_p,
    format_percent,
    format_signed,
    shorten_name,
)
from ablations.report.content import Content
from ablations.statistics.paired import Estimate
from cgd.metrics.facts import METRICS, PRIMARY

WIDTH = 100
_NAME = 24


def summarise_report(content: Content) -> str:
    """The opening line, what must be known, and a compact table per data set; no line longer than 100 columns."""
    study, found = content.results.study, content.table_one
    head = (content.opening, f"{study.title} ({study.name}): {study.question}", content.stamp)
    lines = [line for text in (*head, *content.troubles, *content.notes) if text for line in _wrap(text)]
    for i, (name, verdict) in enumerate(content.verdicts):
        lines += ["", *_wrap(f"{name}: {verdict}")]
        if not math.isnan(content.tables[i].copied_share):
            share = format_percent(content.tables[i].copied_share)
            lines += _wrap(f"{share} of the scored entries are copied; hidden {SCORE} is over the others alone", "  ")
        for metric in content.tables[i].outcomes:
            lines += _align(
                _set_places(found.data_sets[i], metric) if found else _set_levels(content.tables[i], metric)
            )
    if found is None:
        return "\n".join([*lines, *_wrap(_LEGEND)])
    legend = (
        f"lead: mean of {study.default_label} minus that of the row; − floor: mean of the row minus that of the best "
        "floor; p: of the difference before it, after Holm's correction; rank: by the mean; seconds: mean of a trial."
    )
    over = (
        "score: accuracy score of SpatialBenchmarking, 1 is best in everything; then on how many data sets "
        f"{study.default_label} is ahead of the row, behind it or undecided, and the row ahead of the best floor, "
        "behind it or undecided."
    )
    overall = [line for metric in content.results.outcomes for line in _align(_set_overall(found, metric))]
    return "\n".join([*lines, *_wrap(legend), "", "All data sets", *overall, *_wrap(over)])


_LEGEND = (
    "of range: the mean on the scale from the best floor (0 %) to the ceiling (100 %); p: of the difference to "
    "the default, after Holm's correction; seconds: mean of a trial."
)


def _wrap(text: str, indent: str = "") -> list[str]:
    """`text` in lines; `95 %` and `1 549` stay together."""
    fixed = text.replace(" %", "\u2060%")
    lines = textwrap.wrap(fixed, WIDTH, initial_indent=indent, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\u2060%", " %") for line in lines]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns as wide as they need: the first set left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return [f"  {'  '.join(cells)}".rstrip() for cells in lines]


def _set_levels(table: DatasetTable, metric: str) -> list[list[str]]:
    has_hidden = metric == PRIMARY and any(HIDDEN_PRIMARY in row.estimates for row in table.rows)
    heads = ["", *_name_mean(metric), "of range", "− default", "p", "seconds", *["hidden"] * has_hidden]
    rows = [row for row in table.rows if row.kind == "level" or row.knows(metric)]
    return [heads, *([*_set_level(row, metric)] + [_set_hidden(row)] * has_hidden for row in rows)]


def _name_mean(metric: str) -> list[str]:
    return [METRICS[metric].label, f"{CONFIDENCE_PERCENT} interval"]


def _set_level(row: Row, metric: str) -> list[str]:
    share = format_percent(row.fractions.get(metric, math.nan)) if row.kind == "level" else ""
    cells = [*_set_mean(row, metric, " (default)" * row.is_default), share]
    return [*cells, *_set_difference(row.differences.get(metric)), _set_seconds(row)]


def _set_mean(row: Row, metric: str, tag: str = "", mean: str = "") -> list[str]:
    name, room = shorten_name(row), _NAME - len(tag)
    name = (name if len(name) <= room else name[: room - 1] + "…") + tag
    return [name, mean or format_number(row.get_mean(metric)), format_interval(row.estimates[metric])]


def _set_difference(found: Estimate | None) -> list[str]:
    return [format_signed(found.mean), format_p(found.p_holm)] if found else ["", ""]


def _set_seconds(row: Row) -> str:
    return format_number(row.wall_seconds, 1) if row.kind == "level" else ""


def _set_hidden(row: Row) -> str:
    hidden = row.estimates.get(HIDDEN_PRIMARY)
    return format_number(hidden.mean) if hidden else ""


# ---- a comparison of methods ----------------------------------------------------------------------------------------


def _set_places(one: DatasetPlaces, metric: str) -> list[list[str]]:
    has_hidden = metric == PRIMARY and any(HIDDEN_PRIMARY in place.leads for place in one.places)
    heads = ["", *_name_mean(metric), "lead", "p", "− floor", "p", "rank", "seconds", *["hidden"] * has_hidden]
    places = [place for place in one.places if metric in place.ranks or place.row.knows(metric)]
    return [heads, *(_set_place(place, metric) + [_set_hidden(place.row)] * has_hidden for place in places)]


def _set_place(place: Place, metric: str) -> list[str]:
    row = place.row
    cells = _set_mean(row, metric, mean="failed" * (place.has_failed and bool(row.errors)))
    cells += [*_set_difference(place.leads.get(metric)), *_set_difference(place.over_floor.get(metric))]
    return [*cells, f"{place.ranks[metric]:g}" if metric in place.ranks else "", _set_seconds(row)]


def _set_overall(found: TableOne, metric: str) -> list[list[str]]:
    heads = [METRICS[metric].label, "mean rank", "score", "ahead", "behind", "undecided", "floor: ahead", "behind"]
    rows = [[*heads, "undecided"]]
    for row in found.overall:
        if (standing := row.standings.get(metric)) is None:
            continue
        score = format_number(row.accuracy_score) if metric == PRIMARY else ""
        cells = [format_number(standing.mean_rank, 2), score] if row.kind == "level" else ["", ""]
        for counts in (standing.leads, standing.over_floor):
            cells += [str(n) for n in (counts.above, counts.below, counts.undecided)] if counts else [""] * 3
        rows.append([row.title[:_NAME], *cells])
    return rows
