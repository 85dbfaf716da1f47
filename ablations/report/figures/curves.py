"""Validation curves of a study, a line per level: drawn from plain numbers, wherever they were read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablations.findings.wording import SCORE
from ablations.report.figures.drawing import PALETTE, STYLE, to_png, to_svg
from ablations.report.formats.files import to_csv, write_files

COLUMNS = ("dataset", "level", "replicate", "epoch", "value")
SMALLEST_SPAN = 0.02  # of the value axis
_DASHES = ("-", "--", ":", "-.")


def draw_curves(curves: pd.DataFrame, levels: list[str], label: str = f"validation {SCORE}") -> Figure:
    """One panel per data set, a line per level: the mean over its replicates, which stand behind it as thin lines.

    The mean ends where the first replicate that stopped early ends, for beyond it would be over others.

    Parameters
    ----------
    curves
        Columns dataset, level, replicate, epoch (from 1) and value.
    levels
        In the order of the legend; those without a curve are left out.
    """
    names = list(dict.fromkeys(curves["dataset"]))
    n_columns = min(3, max(1, len(names)))
    n_rows = max(1, math.ceil(len(names) / n_columns))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 4.4 * n_columns, 3.5 * n_rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for panel, name in zip(panels, names, strict=False):
            _draw_panel(panel, curves[curves["dataset"] == name], levels)
            panel.set(xlabel="epoch", ylabel=label)
            panel.set_title(name, loc="left", fontweight="bold")
        for panel in panels[max(1, len(names)) :]:
            panel.remove()
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside right upper")
    return figure


def _draw_panel(panel: mpl.axes.Axes, curves: pd.DataFrame, levels: list[str]) -> None:
    for index, level in enumerate(levels):
        own = curves[curves["level"] == level]
        style: dict[str, Any] = {
            "color": PALETTE[index % len(PALETTE)],
            "ls": _DASHES[index // len(PALETTE) % len(_DASHES)],
        }
        replicates = [rows.sort_values("epoch") for _, rows in own.groupby("replicate", sort=True)]
        if len(replicates) > 1:
            for rows in replicates:
                panel.plot(rows["epoch"], rows["value"], lw=0.6, alpha=0.35, **style)
        epochs, mean = average_curves(replicates)
        panel.plot(epochs, mean, lw=1.8, marker="o" if len(epochs) == 1 else "", ms=4, label=level, **style)
    low, high = panel.get_ylim()
    if high - low < SMALLEST_SPAN:  # an axis drawn about less would make noise look like an effect
        middle = (low + high) / 2
        panel.set_ylim(middle - SMALLEST_SPAN / 2, middle + SMALLEST_SPAN / 2)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def average_curves(replicates: list[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray]:
    """(n_epochs,) epochs that every replicate has, and the mean over replicates there."""
    if not replicates:
        return np.array([]), np.array([])
    table = pd.concat([rows.set_index("epoch")["value"] for rows in replicates], axis=1).dropna().sort_index()
    return table.index.to_numpy(), table.mean(axis=1).to_numpy()


def write_curves(curves: pd.DataFrame, levels: list[str], folder: str | Path) -> list[Path]:
    """Write `curves.svg`, `curves.png` and the numbers, `curves.csv`, to a folder; nothing where there is no curve.

    Raises
    ------
    CGDError
        The folder cannot be written.
    """
    if curves.empty:
        return []
    folder = Path(folder)
    figure = draw_curves(curves, levels)
    contents: dict[str, str | bytes] = {"curves.svg": to_svg(figure), "curves.png": to_png(figure)}
    contents["curves.csv"] = to_csv(curves)
    write_files(folder, contents, "the curves")
    return [folder / name for name in contents]
