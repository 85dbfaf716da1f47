"""Forest plots of paired differences: every level minus the default, or the reference minus every method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ablations.findings.rows import HIDDEN_PRIMARY, Row
from ablations.findings.table_one import DatasetPlaces, TableOne
from ablations.findings.tables import DatasetTable
from ablations.findings.wording import (
    CONFIDENCE_PERCENT,
    OUTCOME_WORDS,
    describe_outcome,
    format_interval,
    format_p,
    format_signed,
    shorten_name,
)
from ablations.report.figures.drawing import (
    BAND,
    INK,
    PALETTE,
    SMALL,
    STYLE,
    list_outcomes,
    list_reach,
    measure_errors,
    settle,
    wrap,
    write_stamp,
)
from ablations.statistics.paired import Estimate
from ablations.study.study import Study
from cgd.metrics.facts import METRICS, PRIMARY

_ROW = 0.23  # inches
_TEXT, _PANEL = 2.4, 3.4  # inches: the column of numbers, and the panel left of it
_COLUMNS = (8, 42, 122)  # points right of the panel
_NAME_WIDTH = 36  # characters
_POINT = {1: "  (better →)", -1: "  (← better)"}


def draw_effects(study: Study, tables: Sequence[DatasetTable], stamp: str = "", are_leads: bool = False) -> Figure:
    """One row per level and data set, a panel per outcome; under the published protocol one for the hidden entries.

    `are_leads`: a row is not a level minus the default but the default minus what the row names.
    """
    known, default = _list_panels(tables), study.default_label
    rows = _list_rows(tables)
    with mpl.rc_context(STYLE):
        size = (1.9 + len(known) * (_PANEL + _TEXT), 1.3 + _ROW * max(len(rows), 2))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(known), squeeze=False, sharey=True).ravel()
        for panel, (metric, heading) in zip(axes, known, strict=True):
            _draw_panel(panel, [(name, estimates.get(metric)) for name, estimates in rows])
            panel.tick_params(axis="y", length=0)
            label = METRICS[metric].label
            measure = (
                f"{label} of {default} − {label} of the other"
                if are_leads
                else f"{label} − default ({wrap(default, 40)})"
            )
            panel.set_xlabel(measure + _POINT[METRICS[metric].sign])
            _write_beside(panel, -1.0, ("diff.", f"{CONFIDENCE_PERCENT} interval", "Holm p"), fontweight="bold")
            if len(known) > 1:
                panel.set_title(heading, fontsize=8, loc="left", fontweight="bold")
        axes[0].set_yticks(np.arange(len(rows)), [_shorten(name) for name, _ in rows])
        for tick, (_, found) in zip(axes[0].get_yticklabels(), rows, strict=True):
            tick.set_fontweight("normal" if found else "bold")
        _draw_legend(figure)
        write_stamp(figure, stamp)
        return settle(figure)


def draw_leads(study: Study, found: TableOne, stamp: str = "") -> Figure:
    """One row per method and data set, and one for the best floor of each."""
    tables = [replace(one.table, rows=tuple(_list_leads(one))) for one in found.data_sets]
    return draw_effects(study, tables, stamp, are_leads=True)


def _list_leads(one: DatasetPlaces) -> Sequence[Row]:
    """The methods, and the best floor of each outcome with its difference in that alone."""
    rows = [replace(place.row, differences=place.leads) for place in one.methods]
    for metric in one.table.outcomes:
        if (floor := one.find_best_floor(metric)) is None:
            continue
        title = f"{OUTCOME_WORDS[metric].floor.removeprefix('the ')}: {shorten_name(floor.row)}"
        rows.append(replace(floor.row, kind="level", title=title, differences=floor.leads))
    return rows


def _list_panels(tables: Sequence[DatasetTable]) -> list[tuple[str, str]]:
    """(metric, heading) of the panels."""
    has_hidden = any(HIDDEN_PRIMARY in row.differences for table in tables for row in table.levels)
    found = {metric: describe_outcome(metric) for metric in list_outcomes(tables)}
    if has_hidden:
        found |= {PRIMARY: "all entries, copied ones included", HIDDEN_PRIMARY: "hidden entries only"}
    order = (PRIMARY, HIDDEN_PRIMARY, *found)
    return [(metric, found[metric]) for metric in dict.fromkeys(order) if metric in found]


def _list_rows(tables: Sequence[DatasetTable]) -> list[tuple[str, dict[str, Estimate]]]:
    """(name, metric -> difference); a data set's own row has no differences."""
    rows: list[tuple[str, dict[str, Estimate]]] = []
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    for table in tables:
        rows.append((table.heading, {}))
        rows += [(row.title, dict(row.differences) or {"": nothing}) for row in table.levels if not row.is_default]
    return rows


def _draw_panel(panel: Any, rows: Sequence[tuple[str, Estimate | None]]) -> None:
    shown = [(y, found) for y, (_, found) in enumerate(rows) if found is not None and found.is_known]
    panel.axvline(0, color=INK, linewidth=0.8, zorder=2)
    low, high = _find_limits([found for _, found in shown])
    for y, found in shown:
        if math.isfinite(found.mde):
            left, right = max(low, -found.mde), min(high, found.mde)
            panel.fill_betweenx([y - 0.33, y + 0.33], left, right, color=BAND, linewidth=0, alpha=0.55, zorder=0)
        face = PALETTE[0] if found.differs else "none"
        panel.errorbar(
            [found.mean], [y], xerr=measure_errors([found]), fmt="D" if found.differs else "o", color=PALETTE[0],
            markerfacecolor=face, markersize=4.5, elinewidth=1.2, capsize=2.2, zorder=4,
        )  # fmt: skip
        p = format_p(found.p_holm) + " *" * found.differs
        _write_beside(panel, y, (format_signed(found.mean), format_interval(found, sign=True), p))
    for y, (_, unknown) in enumerate(rows):
        if unknown is not None and not unknown.is_known:
            _write_beside(panel, y, ("no result",))
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.set(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))


def _write_beside(panel: Any, y: float, words: Sequence[str], **style: Any) -> None:
    """The numbers of a row, in columns right of the panel."""
    for text, points in zip(words, _COLUMNS, strict=False):
        panel.annotate(
            text, (1, y), (points, 0), xycoords=panel.get_yaxis_transform(), textcoords="offset points", va="center",
            fontsize=SMALL + 0.5, annotation_clip=False, **style,
        )  # fmt: skip


def _find_limits(shown: Sequence[Estimate]) -> tuple[float, float]:
    values = [0.0, *list_reach(shown)]
    pad = 0.08 * (max(values) - min(values)) or 0.01
    return min(values) - pad, max(values) + pad


def _shorten(name: str) -> str:
    """One line; the tables hold the whole name."""
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"


def _draw_legend(figure: Figure) -> None:
    marks: dict[str, Any] = {"color": PALETTE[0], "linestyle": "none", "markersize": 4.5}
    handles = [
        Line2D([], [], marker="D", **marks),
        Line2D([], [], marker="o", markerfacecolor="none", **marks),
        Patch(facecolor=BAND, alpha=0.55),
    ]
    names = ["* differs from 0 (Holm)", "no difference shown", "less than is found 8 times in 10"]
    figure.legend(handles, names, loc="outside upper left", ncols=3, labelcolor=INK, fontsize=SMALL + 0.5)
