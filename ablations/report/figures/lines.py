"""The figure of a numeric factor (the paper's Fig. 8 and 9): a line per data set over the levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablations.findings.tables import DatasetTable
from ablations.report.figures.drawing import (
    CHARACTER,
    INK,
    MARKERS,
    PALETTE,
    SMALL,
    clip_limits,
    list_means,
    list_outcomes,
    list_reach,
    measure_errors,
    spread,
    wrap,
    write_caption,
    write_measure,
    write_stamp,
)
from ablations.study.study import Study

_NEAREST = 0.055  # of the axis: levels closer than this would have their labels run into each other
_SQUEEZE = 1.35  # a ceiling that would stretch the axis by more than this is told in numbers only
_NAME_WIDTH = 34  # characters


def draw_lines(study: Study, tables: Sequence[DatasetTable], stamp: str) -> Figure:
    """Names stand at the ends of their lines; colour and marker both tell the data sets apart."""
    outcomes = list_outcomes(tables)
    captions = {metric: [write_caption(table, _NAME_WIDTH, metric) for table in tables] for metric in outcomes}
    n_lines = max(sum(name.count("\n") + 1 for name in names) for names in captions.values())
    height = max(3.3, 1.1 + 0.145 * n_lines + 0.08 * len(tables))
    figure = Figure(figsize=(7.2, height + (len(outcomes) - 1) * (height - 0.3)), layout="constrained")
    panels = figure.subplots(len(outcomes), 1, squeeze=False).ravel()
    for panel, (metric, names) in zip(panels, captions.items(), strict=True):
        _draw_panel(panel, study, tables, metric, names, height)
    handles = [Line2D([], [], color=INK, linewidth=1, linestyle=style) for style in ("--", ":")]
    marks = ["best floor of the data set in the same colour", "its ceiling, where it fits the scale"]
    figure.legend(handles, marks, loc="outside upper left", ncols=2, labelcolor=INK, fontsize=SMALL + 0.5)
    write_stamp(figure, stamp)
    return figure


def _draw_panel(
    panel: Any, study: Study, tables: Sequence[DatasetTable], metric: str, names: Sequence[str], height: float
) -> None:
    positions, is_log = place_levels(study)
    if is_log:
        panel.set_xscale("log")
    width = max(6, int(4.2 / CHARACTER / len(positions)) - 1)
    labels = [wrap(label, width) + ("\n(default)" if label == study.default_label else "") for label in positions]
    panel.set_xticks(list(positions.values()), labels)
    panel.set_xticks([], minor=True)
    panel.axvline(positions[study.default_label], color=INK, linewidth=0.5, alpha=0.35, zorder=0)
    limits = _find_limits(tables, metric)
    step = 0.012 if len(tables) > 1 else 0.0
    for i, table in enumerate(tables):
        _draw_line(panel, table, metric, positions, i, shift=step * (i - (len(tables) - 1) / 2))
        colour, floor, ceiling = PALETTE[i % len(PALETTE)], table.find_best_floor(metric), table.find_ceiling(metric)
        if floor:
            panel.axhline(floor.get_mean(metric), color=colour, linewidth=1, linestyle="--", zorder=1)
        if ceiling and limits[0] <= ceiling.get_mean(metric) <= limits[1]:
            panel.axhline(ceiling.get_mean(metric), color=colour, linewidth=1, linestyle=":", zorder=1)
    panel.set(xlabel=study.title, ylabel=write_measure(metric), ylim=limits)
    _name_lines(panel, tables, metric, names, positions, limits, height)


def place_levels(study: Study) -> tuple[dict[str, float], bool]:
    """Level -> where it stands on the axis, and whether that axis is logarithmic.

    The values themselves where they are numbers that leave room for their labels on a linear, else on a logarithmic
    axis; else 0, 1, 2, ...
    """
    values = {row.label: next(iter(row.values.values())) for row in study.combinations if len(row.values) == 1}
    numeric = {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if len(numeric) == len(study.labels):
        if _have_room(list(numeric.values())):
            return numeric, False
        if min(numeric.values()) > 0 and _have_room([math.log(v) for v in numeric.values()]):
            return numeric, True
    return {label: float(i) for i, label in enumerate(study.labels)}, False


def _have_room(values: list[float]) -> bool:
    steps = np.diff(sorted(values))
    return bool(len(steps)) and float(steps.min()) >= _NEAREST * float(steps.sum())


def _find_limits(tables: Sequence[DatasetTable], metric: str) -> tuple[float, float]:
    values = list_reach(list_means(tables, metric))
    values += [row.get_mean(metric) for table in tables if (row := table.find_best_floor(metric))] or [0.0]
    low, high = min(values), max(values)
    ceilings = sorted(row.get_mean(metric) for table in tables if (row := table.find_ceiling(metric)))
    for value in ceilings:
        high = value if high < value <= low + _SQUEEZE * (high - low) else high
    for value in reversed(ceilings):  # where less is better the ceiling lies below
        low = value if high - _SQUEEZE * (high - low) <= value < low else low
    pad = 0.06 * (high - low or 1.0)
    return clip_limits(low - pad, high + pad, metric)


def _draw_line(
    panel: Any, table: DatasetTable, metric: str, positions: dict[str, float], which: int, shift: float
) -> None:
    """`shift`: along the axis, as a share of it, so that intervals of several data sets do not hide each other."""
    rows = sorted((row for row in table.levels if row.name in positions), key=lambda row: positions[row.name])
    x = np.array([positions[row.name] for row in rows])
    span = max(positions.values()) - min(positions.values())
    moved = x * (1 + shift) if panel.get_xscale() == "log" else x + shift * span
    panel.errorbar(
        moved, [row.get_mean(metric) for row in rows], yerr=measure_errors([row.estimates[metric] for row in rows]),
        color=PALETTE[which % len(PALETTE)], marker=MARKERS[which % len(MARKERS)], markersize=4.5, linewidth=1.3,
        elinewidth=0.9, capsize=2.2, zorder=4,
    )  # fmt: skip


def _name_lines(
    panel: Any,
    tables: Sequence[DatasetTable],
    metric: str,
    names: Sequence[str],
    positions: dict[str, float],
    limits: tuple[float, float],
    height: float,
) -> None:
    """Each name right of the panel, as near to its line's end as the other names allow, with a leader to it."""
    known = [(i, *last) for i, table in enumerate(tables) if (last := _find_last_point(table, metric, positions))]
    line = 0.14 / (height - 0.95)  # a line of text, as a share of the panel's height
    wanted = [(y - limits[0]) / (limits[1] - limits[0]) for _, _, y in known]
    gap = line * (max((name.count("\n") for name in names), default=0) + 1.35)
    for (i, x, y), place in zip(known, spread(wanted, gap), strict=True):
        colour = PALETTE[i % len(PALETTE)]
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 2, "shrinkB": 3}
        end = {"xytext": (1.055, place), "textcoords": "axes fraction", "annotation_clip": False}
        panel.annotate("", (x, y), arrowprops=leader, **end)
        panel.text(1.08, place, names[i], transform=panel.transAxes, va="center", fontsize=SMALL + 0.5, color=INK)
        panel.plot(
            [1.055], [place], transform=panel.transAxes, color=colour, marker=MARKERS[i % len(MARKERS)], markersize=4.5,
            clip_on=False,
        )  # fmt: skip


def _find_last_point(table: DatasetTable, metric: str, positions: dict[str, float]) -> tuple[float, float] | None:
    known = [(positions[r.name], r.get_mean(metric)) for r in table.levels if r.knows(metric) and r.name in positions]
    return max(known, default=None)
