"""What all figures share: fonts, colours and marks that survive grey print, and how a figure becomes a file."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from ablations.findings.rows import DatasetTable
from ablations.findings.wording import format_number, shorten_name
from ablations.statistics.paired import Estimate
from cgd.metrics.facts import METRICS, PRIMARY

INK, SOFT, BAND = "#1f2330", "#6b7280", "#c9ced8"
# Okabe and Ito (2008), the order chosen so that neighbours also differ in lightness; its yellow is lost on white
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8f99")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "|||", "++", "**")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
CHARACTER = 0.062  # inches, mean width of a character at the base size
SMALL = 6.5
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "font.size": 8,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # embedded TrueType: journals refuse Type 3, and text stays text
    "svg.fonttype": "none",  # real text: it can be selected, read aloud and takes the page's font
    "svg.hashsalt": "causalged",
    "text.color": INK,
    "text.parse_math": False,  # a '$' in a name is a '$'
    "xtick.color": INK,
    "ytick.color": INK,
}


def settle(figure: Figure) -> Figure:
    """Lay the figure out once; every file of it then has the same layout, and is written faster."""
    FigureCanvasAgg(figure)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    return figure


def to_svg(figure: Figure, inline: bool = False) -> str:
    """The figure as SVG. `inline`: transparent and in the colours of the page, light or dark, to stand inside HTML."""
    omitted = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    svg = _save(figure, format="svg", transparent=inline, metadata=omitted).decode()
    if not inline:
        return svg
    # the names of groups repeat from one figure to the next, and nothing refers to them
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    colours = {INK: "currentColor", PALETTE[0]: f"var(--mark, {PALETTE[0]})", BAND: f"var(--band, {BAND})"}
    return re.sub("|".join(colours), lambda found: colours[found[0]], svg)


def to_pdf(figure: Figure) -> bytes:
    """The figure as PDF: vectors, embedded fonts, no date."""
    return _save(figure, format="pdf", metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))


def to_png(figure: Figure) -> bytes:
    """The figure as PNG at 300 dots per inch."""
    return _save(figure, format="png", dpi=300, metadata={"Software": None})


def _save(figure: Figure, **options: Any) -> bytes:
    stream = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(stream, **options)
    return stream.getvalue()


def write_caption(table: DatasetTable, width: int, metric: str, limits: tuple[float, float] | None = None) -> str:
    """A data set with its floor and ceiling in numbers; an arrow where the ceiling lies off the scale of `limits`."""
    lines = [wrap(table.heading, width)]
    if floor := table.find_best_floor(metric):
        lines.append(wrap(f"floor: {shorten_name(floor)} {format_number(floor.get_mean(metric))}", width))
    if ceiling := table.find_ceiling(metric):
        mean = ceiling.get_mean(metric)
        arrow = " ↑" if limits and mean > limits[1] else " ↓" if limits and mean < limits[0] else ""
        lines.append(wrap(f"ceiling {format_number(mean)}{arrow}", width))
    return "\n".join(lines)


def write_measure(metric: str) -> str:
    """What an axis of means shows, with an arrow to what is better."""
    return f"mean {METRICS[metric].heading} over the test genes"


def write_stamp(figure: Figure, stamp: str) -> None:
    """A line at the foot of a figure, as wide as it; nothing where there is none."""
    if stamp:
        width = int(figure.get_figwidth() / CHARACTER)
        figure.supxlabel(wrap(stamp, width), fontsize=SMALL + 0.5, color=INK, fontweight="bold")


def clip_limits(low: float, high: float, metric: str) -> tuple[float, float]:
    """Limits of an axis of a metric, within what it can be."""
    least, most = METRICS[metric].range
    return low if least is None else max(low, least), high if most is None else min(high, most)


def list_means(tables: Sequence[DatasetTable], metric: str) -> list[Estimate]:
    """Of every level on every data set."""
    return [row.estimates[metric] for table in tables for row in table.levels]


def list_outcomes(tables: Sequence[DatasetTable]) -> tuple[str, ...]:
    """Those of the study; the first alone where it has no data set."""
    return tables[0].outcomes if tables else (PRIMARY,)


def measure_errors(estimates: Sequence[Estimate]) -> np.ndarray:
    """(2, n) distances from the mean down to `low` and up to `high`; NaN without an interval."""
    spans = [(e.mean - e.low, e.high - e.mean) for e in estimates]
    return np.maximum(np.array(spans, dtype=float).reshape(-1, 2).T, 0.0)


def list_reach(estimates: Sequence[Estimate]) -> list[float]:
    """Every finite mean and bound, to find the limits of an axis."""
    return [float(v) for e in estimates for v in (e.mean, e.low, e.high) if math.isfinite(v)]


def wrap(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters, broken after blanks, `_` and `/`, else inside a word."""
    lines = [""]
    for piece in re.findall(r"[^\s_/×]*[\s_/×]*", text):
        for part in [piece[i : i + width] for i in range(0, len(piece), width)]:
            if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def count_legend_columns(labels: Sequence[str], inches: float) -> int:
    """How many entries fit side by side."""
    longest = max((len(line) for label in labels for line in label.split("\n")), default=1)
    return max(1, min(len(labels), int(inches / (longest * CHARACTER + 0.55))))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, in the order of `places` and as near to them as possible (least squares)."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.empty(len(places))
    if len(places):
        moved[order] = isotonic_regression(np.asarray(places, dtype=float)[order] - steps).x + steps
    return [float(value) for value in moved]
