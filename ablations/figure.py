"""The figure of a study: PCC with intervals per level, one panel per data set, the floors as reference lines."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

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
        n_columns = 2 if len(tables) in (2, 4) else min(3, max(1, len(tables)))
        n_rows = max(1, math.ceil(len(tables) / n_columns))
        figure = Figure(figsize=(1.2 + 4.6 * n_columns, 3.7 * n_rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for panel, table in zip(panels, tables, strict=False):
            panel.set_title(f"{table.name} ({table.paper_name})" if table.paper_name else table.name)
            if kind == "table":
                _forest(panel, table, axis_name)
            else:
                _upright(panel, table, kind, axis_name)
            if not panel.get_subplotspec().is_first_col():
                panel.set_ylabel("")
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
    return svg[svg.index("<svg") :].replace(INK, "currentColor") if inline else svg


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
    panel.set(xlabel=axis_name, ylabel="mean PCC over genes")
    _references(panel, table)


def _forest(panel: Any, table: DatasetTable, axis_name: str) -> None:
    """A row per floor and level, as in the tables; each floor's line runs down through the levels."""
    floors = [row for row in table.references if row.kind == "floor"]
    rows = [*floors, *table.levels]
    for y, row in enumerate(rows):
        colour, style = _reference_style(row, table.strongest_floor)
        if row.kind == "level":
            colour = DEFAULT if row.is_default else LEVEL
        elif row.primary.is_known:
            panel.plot([row.primary.mean] * 2, [y, len(rows) - 0.5], color=colour, linestyle=style, linewidth=0.9)
        panel.errorbar(
            [row.primary.mean], [y], xerr=_errors([row]), fmt="o", color=colour, ecolor=INK, capsize=2.5, zorder=4
        )
    panel.axhline(len(floors) - 0.5, color=INK, linewidth=0.5)
    panel.set_yticks(range(len(rows)), [f"{_name_of(row)}   {_number(row.primary.mean)}" for row in rows])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set(ylabel=axis_name, xlabel="mean PCC over genes")
    ceiling = {"transform": panel.transAxes, "ha": "right", "va": "top", "fontsize": 7.5, "color": FLOOR}
    panel.text(1.0, 1.0, _ceiling(table, "→"), **ceiling)


def _name_of(row: Row) -> str:
    return f"{row.title} (default)" if row.is_default else _SHORT.get(row.name, row.title)


def _reference_style(row: Row, strongest: Row | None) -> tuple[str, str]:
    return (STRONGEST, "-") if strongest is not None and row.name == strongest.name else (FLOOR, "--")


def _tick(row: Row) -> str:
    return f"{row.title}\n(default)" if row.is_default else row.title


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else "–"


def _errors(levels: Sequence[Row]) -> np.ndarray:
    """(2, n_levels) distances from the mean down to `low` and up to `high`."""
    estimates = [row.primary for row in levels]
    spans = [(max(e.mean - e.low, 0.0), max(e.high - e.mean, 0.0)) for e in estimates]
    return np.array(spans, dtype=float).T


def _references(panel: Any, table: DatasetTable) -> None:
    """A line per floor, named at its right end; the strongest stands out."""
    floors = [row for row in table.references if row.kind == "floor" and row.primary.is_known]
    values = [row.primary.mean for row in floors]
    low, high = min([panel.get_ylim()[0], *values]), max([panel.get_ylim()[1], *values])
    pad = 0.04 * (high - low or 1.0)
    panel.set_ylim(low - pad, high + pad)
    wanted = [(value - low + pad) / (high - low + 2 * pad) for value in values]
    *places, top = spread([*wanted, 1.0], gap=0.062)
    for row, value, place in zip(floors, values, places, strict=True):
        colour, style = _reference_style(row, table.strongest_floor)
        panel.axhline(value, color=colour, linestyle=style, linewidth=1, zorder=1)
        _label(panel, _name_of(row), value, place, colour)
    panel.text(1.05, top, _ceiling(table, "↑"), transform=panel.transAxes, va="center", fontsize=7.5, color=FLOOR)


def _label(panel: Any, text: str, value: float, place: float, colour: str) -> None:
    """`text` right of the panel at height `place` (0..1), with a leader from the line at `value`."""
    leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
    panel.annotate(
        text,
        xy=(1.0, value),
        xycoords=panel.get_yaxis_transform(),
        xytext=(1.05, place),
        textcoords="axes fraction",
        va="center",
        fontsize=7.5,
        color=colour,
        arrowprops=leader,
        annotation_clip=False,
    )


def _ceiling(table: DatasetTable, arrow: str) -> str:
    """The ceiling in words: drawn to scale, it would squeeze the differences that the figure is about."""
    known = [row for row in table.references if row.kind == "ceiling" and row.primary.is_known]
    return f"ceiling {_number(known[0].primary.mean)} {arrow}" if known else ""


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, in the order of `places` and as near to them as possible (least squares)."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.empty(len(places))
    if len(places):
        moved[order] = isotonic_regression(np.asarray(places, dtype=float)[order] - steps).x + steps
    return [float(value) for value in moved]
