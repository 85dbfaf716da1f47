"""The figures of a search: how it went, what matters, what was traded for what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ablations.report.figures.drawing import BAND, INK, PALETTE, SOFT, STYLE, wrap
from ablations.search.aim import SECONDS, Aim
from ablations.search.parameter import Parameter
from ablations.search.results import Sample, SearchResults

_MAIN, _ACCENT = PALETTE[0], PALETTE[5]
_MOST_SLICES, _MOST_AXES, _MOST_BARS = 12, 7, 15


@contextmanager
def _open_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure to draw on in the house style, laid out at the end."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.canvas.draw()


def draw_history(results: SearchResults, aim: Aim) -> Figure:
    """The value of each sample in the order of the search, and the best so far."""
    with _open_figure(7.2, 3.0) as figure:
        panel = figure.subplots()
        done, stopped = results.finished, [s for s in results.samples if s.state == "stopped early"]
        _draw_dots(panel, [s.sample for s in done], _values(done, aim), label="finished")
        if stopped:
            hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": SOFT, "linewidths": 0.8, "s": 16}
            panel.scatter([s.sample for s in stopped], _values(stopped, aim), label="stopped early", **hollow)
        within = [s for s in done if s.fits_memory]
        best = aim.sign * np.maximum.accumulate(aim.sign * np.array(_values(within, aim)))
        panel.step([s.sample for s in within], best, where="post", color=INK, linewidth=1, label="best so far")
        if results.default is not None and results.default.is_finished:
            value = results.default.find_value(aim)
            panel.axhline(value, color=_ACCENT, linestyle="--", linewidth=0.9, label="default")
        for failed in (s.sample for s in results.samples if s.state == "failed"):
            panel.plot([failed], [0.02], marker="x", color=_ACCENT, transform=panel.get_xaxis_transform())
        panel.set(xlabel="sample (crosses: failed)", ylabel=_describe(aim))
        _frame_values(panel.set_ylim, done, aim)
        figure.legend(loc="outside upper left", ncols=4)
    return figure


def _describe(aim: Aim) -> str:
    return aim.label if aim.name == SECONDS else f"mean {aim.full_label}"


def _frame_values(set_limits: Callable[..., Any], done: Sequence[Sample], aim: Aim) -> None:
    """Show the better part at a readable scale: a few hopeless samples would flatten what the figure is about."""
    values = aim.sign * np.array(_values(done, aim))
    if len(values) < 4 or np.ptp(values) == 0:
        return
    low = max(values.min(), np.median(values) - 2.5 * (values.max() - np.median(values) + 1e-6))
    margin = 0.06 * (values.max() - low)
    set_limits(*sorted((aim.sign * (low - margin), aim.sign * (values.max() + margin))))


def _draw_dots(panel: Any, x: Sequence[Any], y: Sequence[float], **style: Any) -> None:
    panel.scatter(x, y, s=18, color=_MAIN, linewidths=0, alpha=0.75, zorder=3, **style)


def draw_importances(results: SearchResults, aim: Aim) -> Figure | None:
    """Share of each parameter in what sets the best samples apart; None without importances."""
    shares = sorted(results.importances.get(aim.name, {}).items(), key=lambda item: -item[1])[:_MOST_BARS]
    if not shares:
        return None
    with _open_figure(7.2, 0.7 + 0.24 * len(shares)) as figure:
        panel = figure.subplots()
        panel.barh([name for name, _ in shares], [share for _, share in shares], color=_MAIN, height=0.62)
        for row, (_, share) in enumerate(shares):
            panel.annotate(f"{100 * share:.0f} %", (share, row), (3, 0), textcoords="offset points", va="center")
        panel.invert_yaxis()
        panel.set(xlabel=f"share of the importance for {aim.full_label}", xlim=(0, 1.12 * shares[0][1] or 1))
    return figure


def find_leading(results: SearchResults, aims: Sequence[Aim], most: int) -> list[tuple[str, Parameter]]:
    """Parameters that at least two finished samples have at different values, the most important first."""
    shares = [results.importances.get(aim.name, {}) for aim in aims]
    varied = [
        (name, parameter)
        for name, parameter in results.space.name_parameters()
        if len({s.params[name] for s in results.finished if name in s.params}) > 1
    ]
    return sorted(varied, key=lambda item: -sum(share.get(item[0], 0.0) for share in shares))[:most]


def draw_slices(results: SearchResults, aim: Aim) -> Figure | None:
    """The value against each parameter alone; None if nothing varies."""
    shown = find_leading(results, [aim], _MOST_SLICES)
    if not shown:
        return None
    n_columns = min(4, len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    with _open_figure(0.4 + 2.15 * n_columns, 2.0 * n_rows) as figure:
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
        for panel, (name, parameter) in zip(panels, shown, strict=False):
            _draw_slice(panel, name, parameter, results, aim)
        for panel in panels[len(shown) :]:
            panel.remove()
        _frame_values(panels[0].set_ylim, results.finished, aim)
        figure.supylabel(_describe(aim), fontsize=8)
    return figure


def _draw_slice(panel: Any, name: str, parameter: Parameter, results: SearchResults, aim: Aim) -> None:
    samples = [s for s in results.finished if name in s.params]
    if parameter.choices:
        present = [choice for choice in parameter.choices if any(s.params[name] == choice for s in samples)]
        places = {choice: place for place, choice in enumerate(present)}
        jitter = [0.5 * ((0.618034 * s.sample) % 1 - 0.5) for s in samples]  # even, and the same every time
        across = [places[s.params[name]] + j for s, j in zip(samples, jitter, strict=True)]
        _draw_dots(panel, across, _values(samples, aim))
        turned = sum(len(str(choice)) for choice in present) > 22
        panel.set_xticks(range(len(present)), [str(c) for c in present], rotation=30 if turned else 0)
        panel.set_xlim(-0.6, len(present) - 0.4)
    else:
        _draw_dots(panel, [s.params[name] for s in samples], _values(samples, aim))
        if parameter.log:
            _set_log_scale(panel)
        elif parameter.is_integer:
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.set_title(wrap(name, 30), fontsize=7, loc="left")


def _set_log_scale(panel: Any) -> None:
    """A logarithmic x axis with plain numbers: the house style draws '$' as it is, and powers need it."""
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 200 else (1.0,), numticks=6))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("e-0", "e-"))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _values(samples: Sequence[Sample], aim: Aim) -> list[float]:
    return [s.find_value(aim) for s in samples]


def draw_front(results: SearchResults) -> Figure | None:
    """One aim against the other, or against seconds, and what no other sample beats; None below two samples."""
    up, along = results.space.traded
    done = [s for s in results.finished if math.isfinite(s.find_value(up)) and math.isfinite(s.find_value(along))]
    if len(done) < 2:
        return None
    with _open_figure(7.2, 3.6 if along in results.outcomes else 3.0) as figure:
        panel = figure.subplots()
        _draw_dots(panel, _values(done, along), _values(done, up), label="sample")
        front = sorted((s for s in done if s.on_front), key=lambda s: s.find_value(along))
        ends: dict[str, Any] = {
            "color": INK,
            "linewidth": 1,
            "marker": "o",
            "markersize": 5.5,
            "markerfacecolor": "none",
        }
        style = "steps-post" if along.sign < 0 else "steps-pre"  # the corner that no sample reaches
        panel.plot(_values(front, along), _values(front, up), drawstyle=style, label="Pareto front", **ends)
        for s in front:
            where = (s.find_value(along), s.find_value(up))
            panel.annotate(str(s.sample), where, (4, -9), textcoords="offset points", fontsize=6.5)
        if results.default is not None and results.default in done:
            own = [results.default]
            panel.scatter(
                _values(own, along), _values(own, up), marker="D", s=30, color=_ACCENT, zorder=4, label="default"
            )
        if along in results.outcomes:
            _frame_values(panel.set_xlim, done, along)
        elif max(s.seconds for s in done) > 5 * min(s.seconds for s in done) > 0:
            _set_log_scale(panel)
        panel.set(xlabel="seconds of a sample" if along.name == SECONDS else _describe(along), ylabel=_describe(up))
        _frame_values(panel.set_ylim, done, up)
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def draw_parallel(results: SearchResults) -> Figure | None:
    """A line per finished sample across the leading parameters and its values; None if nothing varies."""
    aims = results.space.aims
    shown = find_leading(results, aims, _MOST_AXES)
    if not shown:
        return None
    with _open_figure(1.6 + 1.25 * (len(shown) + len(aims) - 1), 3.6) as figure:
        panel = figure.subplots()
        done = sorted(results.finished, key=lambda s: aims[0].weigh(s.find_value(aims[0])))
        best = (
            {s.sample for s in done[-max(1, len(done) // 10) :]}
            if len(aims) == 1
            else {s.sample for s in results.front}
        )
        ordered = [sorted(_values(done, aim), key=aim.weigh) for aim in aims]
        worst_and_best = [(values[0], values[-1]) for values in ordered]
        for sample in sorted(done, key=lambda s: s.sample in best):
            heights = [_find_height(sample.params.get(name), parameter) for name, parameter in shown]
            for aim, (low, high) in zip(aims, worst_and_best, strict=True):
                heights.append((sample.find_value(aim) - low) / (high - low) if high != low else 1.0)
            leads = sample.sample in best
            colour, width = (_MAIN, 1.4) if leads else (BAND, 0.7)
            panel.plot(heights, color=colour, linewidth=width, alpha=0.9 if leads else 0.7)
        for x, (name, parameter) in enumerate(shown):
            bounds = [str(choice) for choice in parameter.choices] or [f"{parameter.low:g}", f"{parameter.high:g}"]
            _draw_axis(panel, x, wrap(name, 18), bounds[0], bounds[-1])
        for x, (aim, (low, high)) in enumerate(zip(aims, worst_and_best, strict=True), start=len(shown)):
            _draw_axis(panel, x, _describe(aim).replace(" validation", "\nvalidation"), f"{low:.3f}", f"{high:.3f}")
        panel.set(xlim=(-0.4, len(shown) + len(aims) - 0.6), ylim=(-0.22, 1.28))
        panel.axis("off")
    return figure


def _draw_axis(panel: Any, x: int, name: str, low: str, high: str) -> None:
    panel.plot([x, x], [0, 1], color=INK, linewidth=0.8, zorder=4)
    panel.text(x, 1.12, name, ha="center", va="bottom", fontsize=6.5)
    panel.text(x, 1.03, high, ha="center", va="bottom", fontsize=6.5, color=SOFT)
    panel.text(x, -0.03, low, ha="center", va="top", fontsize=6.5, color=SOFT)


def _find_height(value: Any, parameter: Parameter) -> float:
    """Where a value lies between the ends of its axis; below it where the parameter was not searched."""
    if value is None:
        return -0.16
    if parameter.choices:
        return parameter.choices.index(value) / (len(parameter.choices) - 1)
    assert parameter.low is not None
    assert parameter.high is not None
    scale = math.log if parameter.log else float
    low, high = scale(parameter.low), scale(parameter.high)
    return (scale(value) - low) / (high - low)
