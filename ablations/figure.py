"""The figure of a study: PCC with intervals per level, one panel per data set, the floors as reference lines."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ablations.tables import DatasetTable, Row

INK = "#1f2330"
LEVEL, DEFAULT = "#8fb3e8", "#2563c9"
FLOOR, STRONGEST = "#8b93a1", "#c2571a"
_STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "font.size": 9,
    "svg.fonttype": "none",  # real text: it can be selected, read aloud and takes the page's font
    "svg.hashsalt": "causalged",
    "text.color": INK,
    "text.parse_math": False,  # a '$' in a name is a '$'
    "xtick.color": INK,
    "ytick.color": INK,
}
_SHORT = {"mean_pattern": "mean pattern", "knn": "k nearest genes", "ceiling": "ceiling"}
_SHORT |= {"zero_fill": "hidden = 0", "visible_mean_fill": "hidden = visible mean"}


def draw(tables: Sequence[DatasetTable], kind: Literal["bars", "lines", "table"], axis_name: str) -> Figure:
    """One panel per data set. `bars` and `lines` have the levels from left to right, `table` from top to bottom."""
    with mpl.rc_context(_STYLE):
        n_columns = min(3, max(1, len(tables)))
        n_rows = max(1, math.ceil(len(tables) / n_columns))
        figure = Figure(figsize=(1.2 + 4.6 * n_columns, 3.7 * n_rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for panel, table in zip(panels, tables, strict=False):
            if kind == "table":
                _forest(panel, table, axis_name)
            else:
                _upright(panel, table, kind, axis_name)
        for panel in panels[len(tables) :]:
            panel.remove()
        figure.canvas.draw()
    return figure


def to_svg(figure: Figure, inline: bool = False) -> str:
    """The figure as SVG. `inline`: transparent and in the text colour of the page, to stand inside HTML."""
    stream = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(
            stream,
            format="svg",
            transparent=inline,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = stream.getvalue()
    return re.sub(INK, "currentColor", svg[svg.index("<svg") :]) if inline else svg


def _upright(panel: Any, table: DatasetTable, kind: str, axis_name: str) -> None:
    levels, x = table.levels, np.arange(len(table.levels))
    means = np.array([row.primary.mean for row in levels])
    colours = [DEFAULT if row.is_default else LEVEL for row in levels]
    if kind == "bars":
        panel.bar(x, means, width=0.62, color=colours, zorder=2)
        panel.axhline(0, color=INK, linewidth=0.8, zorder=3)
    else:
        panel.plot(x, means, color=DEFAULT, linewidth=1.4, zorder=3)
        panel.scatter(x, means, s=30, color=colours, edgecolors=DEFAULT, zorder=5)
    panel.errorbar(x, means, yerr=_errors(levels), fmt="none", ecolor=INK, elinewidth=1, capsize=3, zorder=4)
    long = sum(len(row.title) for row in levels) > 32
    panel.set_xticks(x, [_tick(row) for row in levels], rotation=30 if long else 0, ha="right" if long else "center")
    panel.set_xlim(-0.6, len(levels) - 0.4)
    panel.set(xlabel=axis_name, ylabel="mean PCC over genes", title=_title(table))
    _references(panel, table)


def _forest(panel: Any, table: DatasetTable, axis_name: str) -> None:
    """A row per floor and level, as in the tables; each floor's line runs down through the levels."""
    rows = [*table.references, *table.levels]
    strongest = table.strongest_floor
    for y, row in enumerate(rows):
        colour = (DEFAULT if row.is_default else LEVEL) if row.kind == "level" else _reference_style(row, strongest)[0]
        panel.errorbar(
            [row.primary.mean], [y], xerr=_errors([row]), fmt="o", color=colour, ecolor=INK, capsize=2.5, zorder=4
        )
        if row.kind != "level" and row.primary.is_known:
            colour, style = _reference_style(row, strongest)
            panel.plot([row.primary.mean] * 2, [y, len(rows) - 0.5], color=colour, linestyle=style, linewidth=0.9)
    panel.axhline(len(table.references) - 0.5, color=INK, linewidth=0.5)
    panel.set_yticks(range(len(rows)), [f"{_name_of(row)}   {_number(row.primary.mean)}" for row in rows])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set(ylabel=axis_name, xlabel="mean PCC over genes", title=_title(table))


def _name_of(row: Row) -> str:
    return f"{row.title} (default)" if row.is_default else _SHORT.get(row.name, row.title)


def _reference_style(row: Row, strongest: Row | None) -> tuple[str, str]:
    if row.kind == "ceiling":
        return FLOOR, ":"
    return (STRONGEST, "-") if strongest is not None and row.name == strongest.name else (FLOOR, "--")


def _title(table: DatasetTable) -> str:
    return f"{table.name} ({table.paper_name})" if table.paper_name else table.name


def _tick(row: Row) -> str:
    return f"{row.title}\n(default)" if row.is_default else row.title


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _errors(levels: Sequence[Row]) -> np.ndarray:
    """(2, n_levels) distances from the mean down to `low` and up to `high`."""
    estimates = [row.primary for row in levels]
    spans = [(max(e.mean - e.low, 0.0), max(e.high - e.mean, 0.0)) for e in estimates]
    return np.array(spans, dtype=float).T


def _references(panel: Any, table: DatasetTable) -> None:
    """A line per floor and the ceiling, named at its right end; the strongest floor stands out."""
    rows = [row for row in table.references if row.primary.is_known]
    values = [row.primary.mean for row in rows]
    low, high = min([panel.get_ylim()[0], *values]), max([panel.get_ylim()[1], *values])
    pad = 0.04 * (high - low or 1.0)
    panel.set_ylim(low - pad, high + pad)
    places = spread([(value - low + pad) / (high - low + 2 * pad) for value in values], gap=0.062)
    for row, value, place in zip(rows, values, places, strict=True):
        colour, style = _reference_style(row, table.strongest_floor)
        panel.axhline(value, color=colour, linestyle=style, linewidth=1, zorder=1)
        panel.annotate(
            _name_of(row),
            xy=(1.0, value),
            xycoords=panel.get_yaxis_transform(),
            xytext=(1.05, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7.5,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
            annotation_clip=False,
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, in the order of `places` and near them, inside 0..1 as far as they fit."""
    order = np.argsort(places, kind="stable")
    moved = np.array(places, dtype=float)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    ceiling = 1.0
    for index in order[::-1]:
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return [float(value) for value in moved]
