"""The report in plain text, for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from ablations.findings.results import StudyResults
from ablations.findings.table_one import DatasetPlaces, Place, TableOne
from ablations.findings.tables import PRIMARY, DatasetTable, Row, build_tables
from ablations.findings.wording import (
    CONFIDENCE_PERCENT,
    format_interval,
    format_number,
    format_p,
    format_percent,
    format_signed,
    shorten_name,
)
from ablations.report.content import Content, gather

WIDTH = 100
_NAME = 24


def summarise(results: StudyResults) -> str:
    """The opening line, what must be known, and a compact table per data set; no line longer than 100 columns."""
    return summarise_content(gather(results, build_tables(results)))


def summarise_content(content: Content) -> str:
    """As `summary_text`, of what was gathered already."""
    study, found = content.results.study, content.table_one
    head = (content.opening, f"{study.title} ({study.name}): {study.question}", content.stamp)
    lines = [line for text in (*head, *content.troubles, *content.notes) if text for line in _wrap(text)]
    for i, (name, verdict) in enumerate(content.verdicts):
        lines += ["", *_wrap(f"{name}: {verdict}"), *_describe_copied(content.tables[i])]
        lines += _align(_set_places(found.data_sets[i])) if found else _set_table(content.tables[i])
    return "\n".join([*lines, "", "All data sets", *_align(_set_overall(found))] if found else lines)


def _describe_copied(table: DatasetTable) -> list[str]:
    if math.isnan(table.copied_share):
        return []
    share = format_percent(table.copied_share)
    return _wrap(f"{share} of the scored entries are copied; hidden PCC is over the others alone", "  ")


def _wrap(text: str, indent: str = "") -> list[str]:
    """`text` in lines; `95 %` and `1 549` stay together."""
    options: dict[str, Any] = {"initial_indent": indent, "subsequent_indent": "  ", "break_on_hyphens": False}
    lines = textwrap.wrap(text.replace(" %", "\u2060%"), WIDTH, **options)
    return [line.replace("\u2060%", " %") for line in lines]


def _set_table(table: DatasetTable) -> list[str]:
    has_hidden = any(f"hidden_{PRIMARY}" in row.estimates for row in table.rows)
    heads = ["", "PCC", f"{CONFIDENCE_PERCENT} interval", "of range", "− default", "Holm p", "s/trial"]
    heads += ["hidden"] * has_hidden
    return _align([heads, *([*_set_fields(row)] + [_set_hidden(row)] * has_hidden for row in table.rows)])


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns as wide as they need: the first set left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + _set_line(row, widths) for row in rows]


def _set_line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0])] + [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join(cells).rstrip()


def _set_fields(row: Row) -> list[str]:
    tag = " (default)" * row.is_default
    name, room = shorten_name(row), _NAME - len(tag)
    name = (name if len(name) <= room else name[: room - 1] + "…") + tag
    found = row.differences.get(PRIMARY)
    share = format_percent(row.fractions.get(PRIMARY, math.nan)) if row.kind == "level" else ""
    difference = [format_signed(found.mean), format_p(found.p_holm)] if found else ["", ""]
    seconds = format_number(row.wall_seconds, 1) if row.kind == "level" else ""
    return [name, format_number(row.primary.mean), format_interval(row.primary), share, *difference, seconds]


def _set_hidden(row: Row) -> str:
    hidden = row.estimates.get(f"hidden_{PRIMARY}")
    return format_number(hidden.mean) if hidden else ""


# ---- a comparison of methods ----------------------------------------------------------------------------------------


def _set_places(one: DatasetPlaces) -> list[list[str]]:
    has_hidden = any(f"hidden_{PRIMARY}" in place.leads for place in one.places)
    heads = [
        "",
        "PCC",
        f"{CONFIDENCE_PERCENT} interval",
        "lead",
        "Holm p",
        "− floor",
        "Holm p",
        "rank",
        "s/trial",
    ]
    heads += ["hidden"] * has_hidden
    return [heads, *(_set_place(place) + [_set_hidden(place.row)] * has_hidden for place in one.places)]


def _set_place(place: Place) -> list[str]:
    row = place.row
    name = shorten_name(row)
    mean = "failed" if place.has_failed and row.errors else format_number(row.primary.mean)
    cells = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…", mean, format_interval(row.primary)]
    for found in (place.lead, place.over_floor):
        cells += [format_signed(found.mean), format_p(found.p_holm)] if found else ["", ""]
    is_method = row.kind == "level"
    return [
        *cells,
        f"{place.ranks[PRIMARY]:g}" if is_method else "",
        format_number(row.wall_seconds, 1) if is_method else "",
    ]


def _set_overall(found: TableOne) -> list[list[str]]:
    heads = ["", "mean rank", "AS", "lead: ahead", "behind", "undecided", "over floor: ahead", "behind", "undecided"]
    rows = [heads]
    for row in found.overall:
        ranked = row.kind == "level"
        cells = [format_number(row.mean_rank, 2), format_number(row.accuracy_score)] if ranked else ["", ""]
        for counts in (row.leads, row.over_floor):
            cells += [str(n) for n in (counts.above, counts.below, counts.undecided)] if counts else [""] * 3
        rows.append([row.title[:_NAME], *cells])
    return rows
