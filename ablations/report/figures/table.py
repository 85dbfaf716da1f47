"""The figure in the form of the paper's Table II: strategies in rows, data sets in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ablations.findings.tables import DatasetTable
from ablations.findings.wording import format_interval, format_number, shorten_name
from ablations.report.figures.drawing import (
    BAND,
    CHARACTER,
    INK,
    PALETTE,
    SMALL,
    SOFT,
    list_outcomes,
    list_reach,
    wrap,
)
from ablations.statistics.paired import Estimate
from ablations.study.study import Study
from cgd.metrics.facts import METRICS, PRIMARY

_COLUMN, _PER_BLOCK = 1.5, 6  # inches, and how many stand side by side
_LINE, _GLYPH = 0.145, 0.14  # inches: a line of text, and the interval drawn beneath it
_HEAD = 0.5
_FLOOR_ROW = 2 * _LINE + 0.06
_FOOT = _FLOOR_ROW + _LINE + 0.12


def draw_table(study: Study, tables: Sequence[DatasetTable], stamp: str) -> Figure:
    """A figure-table: in each cell the mean, its interval in numbers and drawn on the scale of its column."""
    labels = [label for label in study.labels if any(row.name == label for table in tables for row in table.levels)]
    titles = {label: f"{label} (default)" if label == study.default_label else label for label in labels}
    left = min(2.4, max(0.9, max((len(text) for text in titles.values()), default=0) * CHARACTER + 0.15))
    chunks = [tables[i : i + _PER_BLOCK] for i in range(0, len(tables), _PER_BLOCK)] or [()]
    outcomes = list_outcomes(tables)
    blocks = [(metric, chunk) for metric in outcomes for chunk in chunks]
    has_paper = any(row.paper is not None for table in tables for row in table.levels)
    cell = (3 if has_paper else 2) * _LINE + _GLYPH + 0.1
    block_height = _HEAD + cell * len(labels) + _FOOT + 0.1
    width = max(3.4, left + _COLUMN * max(len(chunk) for chunk in chunks) + 0.1)
    notes = _list_notes(outcomes, stamp, width)
    height = block_height * len(blocks) + 0.12 * sum(note.count("\n") + 1 for note, _ in notes) + 0.1
    figure = Figure(figsize=(width, height))
    panel = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # one unit is one inch
    panel.axis("off")
    for b, (metric, chunk) in enumerate(blocks):
        title = study.title if len(outcomes) < 2 else f"{METRICS[metric].heading} by {study.title}"
        _draw_block(panel, title, titles, chunk, metric, left, block_height * b, cell)
    y = block_height * len(blocks)
    for note, weight in notes:
        panel.text(0.08, y, note, va="top", fontsize=SMALL, fontweight=weight, linespacing=1.25)
        y += 0.12 * (note.count("\n") + 1)
    return figure


def _draw_block(
    panel: Any,
    title: str,
    titles: dict[str, str],
    tables: Sequence[DatasetTable],
    metric: str,
    left: float,
    top: float,
    cell: float,
) -> None:
    first = top + _HEAD
    end = first + cell * len(titles)
    right = left + _COLUMN * len(tables)
    panel.text(0.08, first - 0.08, wrap(title, int(left / CHARACTER)), va="bottom", fontweight="bold")
    for y, width in ((first, 1.0), (end, 0.6), (end + _FOOT, 1.0)):
        panel.plot([0.05, right], [y, y], color=INK, linewidth=width)
    for i in range(1, len(titles)):
        panel.plot([0.05, right], [first + cell * i] * 2, color=BAND, linewidth=0.4)
    for i, (label, text) in enumerate(titles.items()):
        weight = "bold" if text != label else "normal"
        wrapped = wrap(text, int((left - 0.1) / CHARACTER))
        panel.text(0.08, first + cell * (i + 0.5) - _GLYPH / 2, wrapped, va="center", fontweight=weight)
    for j, text in enumerate(("best floor", "ceiling")):
        panel.text(0.08, end + 0.06 + j * _FLOOR_ROW, text, va="top", color=SOFT)
    for k, table in enumerate(tables):
        _draw_column(panel, table, metric, list(titles), left + _COLUMN * k, first, cell)


def _draw_column(
    panel: Any, table: DatasetTable, metric: str, labels: Sequence[str], x: float, first: float, cell: float
) -> None:
    centre = x + _COLUMN / 2
    width = int(_COLUMN / (1.2 * CHARACTER))  # bold is wider
    panel.text(centre, first - 0.08, wrap(table.heading, width), ha="center", va="bottom", fontweight="bold")
    scale = _make_scale(table, metric, x + 0.15, x + _COLUMN - 0.15)
    rows, best = {row.name: row for row in table.levels}, table.find_best(metric)
    for i, label in enumerate(labels):
        if label in rows:
            is_best = best is not None and best.name == label
            paper = rows[label].paper if metric == PRIMARY else None
            _draw_cell(panel, rows[label].estimates[metric], paper, is_best, centre, first + cell * i)
            if scale:
                ends = rows[label].estimates[metric], table.default.estimates[metric]
                _draw_interval(panel, *ends, is_best, first + cell * (i + 1) - 0.1, scale)
    end = first + cell * len(labels)
    for j, row in enumerate((table.find_best_floor(metric), table.find_ceiling(metric))):
        y = end + 0.06 + j * _FLOOR_ROW
        name = shorten_name(row) if row is not None and row.kind == "floor" else ""
        text = format_number(row.get_mean(metric)) if row else "–"
        panel.text(centre, y, text, ha="center", va="top", color=SOFT)
        panel.text(centre, y + _LINE, name, ha="center", va="top", color=SOFT, fontsize=SMALL)


def _draw_cell(panel: Any, found: Estimate, paper: float | None, is_best: bool, centre: float, top: float) -> None:
    panel.text(
        centre, top + 0.06, format_number(found.mean), ha="center", va="top", fontweight="bold" if is_best else "normal"
    )
    if interval := format_interval(found):
        panel.text(centre, top + 0.06 + _LINE, interval, ha="center", va="top", fontsize=SMALL, color=SOFT)
    if paper is not None:
        text = f"paper {format_number(paper)}"
        panel.text(centre, top + 0.06 + 2 * _LINE, text, ha="center", va="top", fontsize=SMALL, style="italic")


def _draw_interval(panel: Any, found: Estimate, default: Estimate, is_best: bool, y: float, scale: Any) -> None:
    """The mean and its interval at height `y`, with a tick where the default is."""
    if default.is_known:
        panel.plot([scale(default.mean)] * 2, [y - 0.06, y + 0.06], color=INK, linewidth=0.7, zorder=0)
    if found.is_known:
        low, high = (scale(v) if v == v else scale(found.mean) for v in (found.low, found.high))
        panel.plot([low, high], [y, y], color=PALETTE[0], linewidth=1.2, solid_capstyle="butt")
        panel.plot([scale(found.mean)], [y], color=PALETTE[0], marker="o" if is_best else "s", markersize=3.2)


def _make_scale(table: DatasetTable, metric: str, left: float, right: float) -> Any:
    """Value -> place, so that the levels of a data set fill their column; None without two different values."""
    values = list_reach([row.estimates[metric] for row in table.levels])
    if len(set(values)) < 2:
        return None
    low, high = min(values), max(values)
    return lambda value: left + (value - low) / (high - low) * (right - left)


def _list_notes(outcomes: Sequence[str], stamp: str, width: float) -> list[tuple[str, str]]:
    """(wrapped text, weight) of the lines under the table."""
    means = " and ".join(METRICS[metric].label for metric in outcomes)
    text = (
        f"Mean {means}, bold where best; beneath, its interval, on a scale of its own per data set (tick: the default)."
    )
    notes = [(text, "normal")] + [(stamp, "bold")] * bool(stamp)
    return [(wrap(note, int(width / 0.054)), weight) for note, weight in notes]
