"""The figure of a study in the paper's form: bars (Fig. 6, 7), lines (Fig. 8, 9) or a table (Table II)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ablations.findings.tables import DatasetTable
from ablations.findings.wording import format_number
from ablations.report.figures.drawing import (
    CHARACTER,
    HATCHES,
    INK,
    PALETTE,
    SMALL,
    STYLE,
    clip_limits,
    count_legend_columns,
    list_means,
    list_outcomes,
    list_reach,
    measure_errors,
    settle,
    wrap,
    write_caption,
    write_measure,
    write_stamp,
)
from ablations.report.figures.lines import draw_lines
from ablations.report.figures.table import draw_table
from ablations.statistics.paired import Estimate
from ablations.study.study import Study
from cgd.metrics.facts import DRAW_SCORES

_WIDEST = 10.5  # inches; more data sets than fit continue on a row below
_WIDEST_BAR = 0.55  # inches
_SQUEEZE = 1.6  # a ceiling further up than this many times everything else would flatten what the figure is about


def draw(study: Study, tables: Sequence[DatasetTable], stamp: str = "") -> Figure:
    """Every level on every data set with its interval, the best floor and the ceiling, in each outcome.

    The `stamp` must stand in the figure itself, because figures travel without their captions.
    """
    forms = {"table": draw_table, "lines": draw_lines, "bars": _draw_bars}
    with mpl.rc_context(STYLE):
        return settle(forms[study.figure](study, tables, stamp))


def _draw_bars(study: Study, tables: Sequence[DatasetTable], stamp: str) -> Figure:
    """Data sets from left to right, in each a bar per level; the outcomes below each other."""
    labels = [label for label in study.labels if any(row.name == label for table in tables for row in table.levels)]
    group = max(1.7, 0.2 * len(labels) + 0.45)
    per_row = max(1, min(len(tables), int(_WIDEST / group)))
    chunks = [tables[i : i + per_row] for i in range(0, len(tables), per_row)] or [()]
    inches = max(4.2, 0.7 + group * per_row)
    shown = [(metric, chunk) for metric in list_outcomes(tables) for chunk in chunks]
    figure = Figure(figsize=(inches, 0.7 + 2.9 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False).ravel()
    for panel, (metric, chunk) in zip(panels, shown, strict=True):
        limits = _find_limits(tables, metric)
        _draw_groups(panel, chunk, labels, (inches - 0.7) / per_row, metric, limits)
        panel.set(ylabel=write_measure(metric), ylim=limits)
        panel.set_xlim(-0.5, per_row - 0.5)
    _draw_legend(figure, study, labels, inches)
    write_stamp(figure, stamp)
    return figure


def _find_limits(tables: Sequence[DatasetTable], metric: str) -> tuple[float, float]:
    """From 0, or below, to just above the highest bar, floor, and ceiling where that does not squeeze the bars."""
    floors = [table.find_best_floor(metric) for table in tables]
    values = list_reach(list_means(tables, metric))
    values += [0.0, *(row.get_mean(metric) for row in floors if row)]
    top = max(values)
    ceilings = [row.get_mean(metric) for table in tables if (row := table.find_ceiling(metric))]
    top = max([top, *(value for value in ceilings if value <= _SQUEEZE * top)]) or 1.0
    return clip_limits(1.1 * min(values), top + 0.1 * (top - min(values)), metric)


def _draw_groups(
    panel: Any,
    tables: Sequence[DatasetTable],
    labels: Sequence[str],
    group: float,
    metric: str,
    limits: tuple[float, float],
) -> None:
    """`group`: inches between two data sets."""
    width = min(0.8 / max(1, len(labels)), _WIDEST_BAR / group)
    for i, label in enumerate(labels):
        found = [(k, row) for k, table in enumerate(tables) for row in table.levels if row.name == label]
        x = np.array([k for k, _ in found]) + (i - (len(labels) - 1) / 2) * width
        means = [row.estimates[metric] for _, row in found]
        _draw_group(panel, x, means, width, i, show_values=width * group > 0.3)
        for place, one in zip(x, means, strict=True):
            if not one.is_known:
                panel.annotate(
                    "no draws" if metric in DRAW_SCORES else "no result", (place, 0), (0, 3),
                    textcoords="offset points", rotation=90, ha="center", fontsize=SMALL,
                )  # fmt: skip
    for k, table in enumerate(tables):
        ends, floor, ceiling = (k - 0.47, k + 0.47), table.find_best_floor(metric), table.find_ceiling(metric)
        if floor:
            panel.hlines(floor.get_mean(metric), *ends, color=INK, linewidth=1.5, zorder=5)
        if ceiling and ceiling.get_mean(metric) <= limits[1]:
            panel.hlines(ceiling.get_mean(metric), *ends, color=INK, linewidth=1, linestyle=":", zorder=5)
    panel.axhline(0, color=INK, linewidth=0.7, zorder=4)
    panel.set_xticks(
        range(len(tables)), [write_caption(table, int(group / CHARACTER) - 2, metric, limits) for table in tables]
    )
    panel.tick_params(axis="x", length=0, pad=6)


def _draw_group(
    panel: Any, x: np.ndarray, found: Sequence[Estimate], width: float, which: int, show_values: bool
) -> None:
    means = [one.mean for one in found]
    panel.bar(x, means, 0.92 * width, zorder=2, **_style_bar(which))
    bars = measure_errors(found)
    panel.errorbar(x, means, yerr=bars, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2, zorder=3)
    for place, one, up in zip(x, found, np.nan_to_num(bars[1]), strict=True):
        if one.is_known and show_values:
            panel.annotate(
                format_number(one.mean), (place, max(one.mean + up, 0)), (0, 2), textcoords="offset points",
                ha="center", fontsize=SMALL, zorder=6,
            )  # fmt: skip


def _style_bar(which: int) -> dict[str, Any]:
    hatch = HATCHES[which % len(HATCHES)]
    return {"facecolor": PALETTE[which % len(PALETTE)], "hatch": hatch, "edgecolor": INK, "linewidth": 0.5}


def _draw_legend(figure: Figure, study: Study, labels: Sequence[str], inches: float) -> None:
    names = [wrap(f"{label} (default)" if label == study.default_label else label, 44) for label in labels]
    handles: list[Any] = [Patch(**_style_bar(i)) for i in range(len(labels))]
    handles += [Line2D([], [], color=INK, linewidth=1.5), Line2D([], [], color=INK, linewidth=1, linestyle=":")]
    names += ["best floor", "ceiling (↑ off the scale)"]
    figure.legend(
        handles, names, loc="outside upper left", ncols=count_legend_columns(names, inches), title=study.title,
        alignment="left", title_fontproperties={"weight": "bold", "size": 8}, handlelength=2.2, labelcolor=INK,
    )  # fmt: skip
