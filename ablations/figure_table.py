"""The figure in the form of the paper's Table II: strategies in rows, data sets in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from ablations.drawing import (
    CHARACTER,
    INK,
    PALETTE,
    SMALL,
    SOFT,
    ceiling_of,
    data_set_name,
    level_name,
    number,
    reach,
    short_name,
    wrap,
)
from ablations.study import Study
from ablations.tables import DatasetTable, Row

_COLUMN, _PER_BLOCK = 1.5, 6  # inches, and how many stand side by side
_LINE, _GLYPH = 0.145, 0.14  # inches: a line of text, and the interval drawn beneath it
_HEAD = 0.62


def draw_table(study: Study, tables: Sequence[DatasetTable], stamp: str) -> Figure:
    """A figure-table: in each cell the mean, its interval in numbers and drawn on the scale of its column."""
    labels = [label for label in study.labels if any(row.name == label for table in tables for row in table.levels)]
    titles = {label: f"{label} (default)" if label == study.default_label else label for label in labels}
    left = min(2.4, max(0.9, max((len(text) for text in titles.values()), default=0) * CHARACTER + 0.15))
    blocks = [tables[i : i + _PER_BLOCK] for i in range(0, len(tables), _PER_BLOCK)] or [()]
    cell = _cell_height(tables)
    foot = 2 * (2 * _LINE + 0.08)
    block_height = _HEAD + cell * len(labels) + foot + 0.2
    width = left + _COLUMN * max(len(block) for block in blocks) + 0.1
    height = block_height * len(blocks) + 0.45 + 0.2 * bool(stamp)
    figure = Figure(figsize=(max(width, 4.2), height))
    panel = figure.add_axes((0, 0, 1, 1), xlim=(0, max(width, 4.2)), ylim=(height, 0))  # one unit is one inch
    panel.axis("off")
    for b, block in enumerate(blocks):
        _block(panel, study.title, titles, block, left, block_height * b, cell)
    _notes(panel, stamp, height, max(width, 4.2))
    return figure


def _cell_height(tables: Sequence[DatasetTable]) -> float:
    has_paper = any(row.paper is not None for table in tables for row in table.levels)
    return (3 if has_paper else 2) * _LINE + _GLYPH + 0.1


def _block(
    panel: Any,
    title: str,
    titles: dict[str, str],
    tables: Sequence[DatasetTable],
    left: float,
    top: float,
    cell: float,
) -> None:
    first = top + _HEAD
    end = first + cell * len(titles)
    right = left + _COLUMN * len(tables)
    panel.text(0.08, first - 0.08, wrap(title, int(left / CHARACTER)), va="bottom", fontweight="bold")
    for y, width in ((first, 1.0), (end, 0.6), (end + 2 * (2 * _LINE + 0.08), 1.0)):
        panel.plot([0.05, right], [y, y], color=INK, linewidth=width)
    for i, (label, text) in enumerate(titles.items()):
        weight = "bold" if text != label else "normal"
        wrapped = wrap(text, int((left - 0.1) / CHARACTER))
        panel.text(0.08, first + cell * (i + 0.5) - _GLYPH / 2, wrapped, va="center", fontweight=weight)
    for j, text in enumerate(("strongest floor", "ceiling")):
        panel.text(0.08, end + 0.06 + j * (2 * _LINE + 0.08), text, va="top", color=SOFT)
    for k, table in enumerate(tables):
        _column(panel, table, list(titles), left + _COLUMN * k, first, cell)


def _column(panel: Any, table: DatasetTable, labels: Sequence[str], x: float, first: float, cell: float) -> None:
    centre = x + _COLUMN / 2
    width = int(_COLUMN / CHARACTER) - 2
    panel.text(centre, first - 0.08, wrap(data_set_name(table), width), ha="center", va="bottom", fontweight="bold")
    scale = _scale(table, x + 0.15, x + _COLUMN - 0.15)
    rows = {row.name: row for row in table.levels}
    if scale and table.default.primary.is_known:
        mean = scale(table.default.primary.mean)
        panel.plot([mean, mean], [first, first + cell * len(labels)], color=INK, linewidth=0.5, alpha=0.35, zorder=0)
    for i, label in enumerate(labels):
        if label in rows:
            is_best = table.best is not None and table.best.name == label
            _cell(panel, rows[label], is_best, centre, first + cell * i, cell, scale)
    end = first + cell * len(labels)
    for j, row in enumerate((table.strongest_floor, ceiling_of(table))):
        y = end + 0.06 + j * (2 * _LINE + 0.08)
        name = short_name(row) if row is not None and row.kind == "floor" else ""
        panel.text(centre, y, number(row.primary.mean) if row else "–", ha="center", va="top", color=SOFT)
        panel.text(centre, y + _LINE, name, ha="center", va="top", color=SOFT, fontsize=SMALL)


def _cell(panel: Any, row: Row, is_best: bool, centre: float, top: float, height: float, scale: Any) -> None:
    found = row.primary
    panel.text(
        centre, top + 0.06, number(found.mean), ha="center", va="top", fontweight="bold" if is_best else "normal"
    )
    if found.low == found.low:
        bounds = f"[{number(found.low)}, {number(found.high)}]"
        panel.text(centre, top + 0.06 + _LINE, bounds, ha="center", va="top", fontsize=SMALL, color=SOFT)
    if row.paper is not None:
        text = f"paper {number(row.paper)}"
        panel.text(centre, top + 0.06 + 2 * _LINE, text, ha="center", va="top", fontsize=SMALL, style="italic")
    if found.is_known and scale:
        y = top + height - 0.09
        low, high = (scale(v) if v == v else scale(found.mean) for v in (found.low, found.high))
        panel.plot([low, high], [y, y], color=PALETTE[0], linewidth=1.2, solid_capstyle="butt")
        panel.plot([scale(found.mean)], [y], color=PALETTE[0], marker="o" if is_best else "s", markersize=3.2)


def _scale(table: DatasetTable, left: float, right: float) -> Any:
    """Value -> place, so that the levels of a data set fill their column; None without two different values."""
    values = reach([row.primary for row in table.levels])
    if len(set(values)) < 2:
        return None
    low, high = min(values), max(values)
    return lambda value: left + (value - low) / (high - low) * (right - left)


def _notes(panel: Any, stamp: str, height: float, width: float) -> None:
    text = "Mean PCC, bold where best; beneath, its interval, drawn on a scale of its own per data set (line: default)."
    panel.text(
        0.08, height - 0.1 - 0.2 * bool(stamp), wrap(text, int(width / 0.052)), va="bottom", fontsize=SMALL, color=SOFT
    )
    if stamp:
        panel.text(
            0.08, height - 0.06, wrap(stamp, int(width / 0.056)), va="bottom", fontsize=SMALL, fontweight="bold"
        )
