"""The report of a search: one page, its figures, and every sample as CSV, all from the search's record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from ablations.findings.wording import format_percent
from ablations.report.figures.drawing import to_pdf, to_png, to_svg
from ablations.report.formats.files import to_csv, write_files
from ablations.report.pages.page import render_template
from ablations.search import wording
from ablations.search.figure import draw_front, draw_history, draw_importances, draw_parallel, draw_slices
from ablations.search.results import FinalistRow, SearchResults
from cgd.metrics.facts import OUTCOMES


@dataclass(frozen=True)
class Drawn:
    """A figure with its file's name and what it shows."""

    name: str
    figure: Figure
    caption: str


def draw_figures(results: SearchResults) -> list[Drawn]:
    """Every figure that there is something to draw for; those of one outcome alone once per outcome."""
    if not results.finished:
        return []
    several = len(results.outcomes) > 1
    by = {aim: (f"_{aim.name}", f" by {aim.label}") if several else ("", "") for aim in results.outcomes}
    traded = " against ".join(aim.full_label for aim in results.space.traded)
    leading = "the front" if len(results.space.aims) > 1 else "the best tenth"
    drawn: list[tuple[str, Figure | None, str]] = []
    for aim, (end, text) in by.items():
        caption = f"Every sample in the order of the search, and the best{text} so far."
        drawn.append((f"history{end}", draw_history(results, aim), caption))
    for aim, (end, text) in by.items():
        caption = (
            f"How much each parameter has to do with being among the best samples{text} (PED-ANOVA). It says what the "
            "search found to matter between these bounds, not how much a field matters by itself."
        )
        drawn.append((f"importances{end}", draw_importances(results, aim), caption))
    caption = f"{_capitalise(traded)}; on the line, and numbered: the samples that no other beats in both."
    drawn.append(("front", draw_front(results), caption))
    caption = (
        f"Every finished sample across the leading parameters, {leading} dark, the better end of an aim on top; a line "
        "below an axis: not searched there."
    )
    drawn.append(("parallel", draw_parallel(results), caption))
    for aim, (end, _) in by.items():
        caption = (
            f"{_capitalise(aim.full_label)} against each of the leading parameters alone; hopeless samples cut off."
        )
        drawn.append((f"slices{end}", draw_slices(results, aim), caption))
    return [Drawn(name, figure, caption) for name, figure, caption in drawn if figure is not None]


def _capitalise(text: str) -> str:
    """The first letter alone: a label keeps its capitals."""
    return text[:1].upper() + text[1:]


def write_search_report(results: SearchResults, directory: Path) -> Path:
    """Write `search.html`, `samples.csv` and each figure as SVG, PDF and PNG; returns the page.

    Raises
    ------
    CGDError
        The directory cannot be written.
    """
    drawn = draw_figures(results)
    contents: dict[str, str | bytes] = {}
    for one in drawn:
        name, figure = one.name, one.figure
        contents |= {f"{name}.svg": to_svg(figure), f"{name}.pdf": to_pdf(figure), f"{name}.png": to_png(figure)}
    contents["samples.csv"] = to_csv(tidy_samples(results))
    write_files(directory, contents | {"search.html": render_search(results, drawn)}, "the report")
    return directory / "search.html"


def render_search(results: SearchResults, drawn: Sequence[Drawn]) -> str:
    """The page. Every text that comes from outside is escaped; only the SVGs are taken as they are."""
    first = results.space.aims[0]
    ranked = sorted(results.finished, key=lambda sample: -first.weigh(sample.find_value(first)))
    rest = [sample for sample in results.samples if not sample.is_finished]
    return render_template(
        "search.html",
        results=results,
        opening=wording.write_opening(results),
        cautions=wording.list_cautions(results),
        counts=wording.count_samples(results),
        aim=wording.describe_aim(results),
        front=[(sample, wording.find_role(sample, results)) for sample in results.front],
        front_text=wording.explain_front(results) if len(results.space.aims) > 1 else "",
        figures=[(one.name, Markup(to_svg(one.figure, inline=True)), one.caption) for one in drawn],
        finalists=rank_finalists(results),
        winners=[(winner, wording.label_winner(winner, results)) for winner in results.winners],
        changes={winner.label: wording.list_changes(winner.values, results.config) for winner in results.winners},
        parameters=[(name, _describe_bounds(p), p.condition) for name, p in results.space.name_parameters()],
        ranked=[*ranked, *rest],
        score=wording.format_score,
        worth=wording.format_worth,
        percent=format_percent,
        with_interval=wording.format_gain,
        short=wording.shorten_value,
    )


def rank_finalists(results: SearchResults) -> list[FinalistRow]:
    """The configurations of the confirmation, the best by the first aim first."""
    first = results.space.aims[0]
    return sorted(results.finalists, key=lambda row: -first.weigh(row.find_value(first)))


def _describe_bounds(parameter: Any) -> str:
    if parameter.choices:
        return ", ".join(map(str, parameter.choices))
    steps = f" in steps of {parameter.step:g}" if parameter.step else ""
    return f"{parameter.low:g} to {parameter.high:g}{steps}{', log scale' if parameter.log else ''}"


def tidy_samples(results: SearchResults) -> pd.DataFrame:
    """A row per sample: how it ended, what it is worth, what it cost, and each parameter in a column of its own."""
    scores = [name for name in OUTCOMES if any(name in sample.scores for sample in results.samples)]
    columns = ["percent", "seconds", "peak_memory_mb", "n_parameters", "fits_memory", "on_front", "reason", "run_id"]
    columns = ["sample", "origin", "state", *columns]
    rows = [
        {key: getattr(s, key) for key in columns} | {name: s.scores.get(name, math.nan) for name in scores} | s.params
        for s in results.samples
    ]
    names = [name for name, _ in results.space.name_parameters()]
    return pd.DataFrame(rows, columns=[*columns[:3], *scores, *columns[3:], *names])


def summary_text(results: SearchResults) -> str:
    """The search in plain text, for a terminal."""
    lines = [f"search {results.name}: {wording.write_opening(results)}", wording.count_samples(results)]
    for outcome in results.outcomes:
        by = f" by {outcome.label}" if len(results.outcomes) > 1 else ""
        if (best := results.find_best(outcome)) is not None:
            score = wording.format_score(best.find_value(outcome))
            lines.append(f"best sample{by}: {best.sample}, {outcome.full_label} {score}")
    lines += [f"note: {text}" for text in wording.list_cautions(results)]
    if len(results.space.aims) > 1 and results.front:
        lines += ["", wording.explain_front(results), *_tabulate_front(results)]
    if results.finalists:
        lines += ["", "confirmed on validation genes, over other seeds:", *_tabulate_finalists(results)]
    for winner in results.winners:
        if changes := wording.list_changes(winner.values, results.config):
            lines += ["", f"the {wording.label_winner(winner, results)}, {winner.label}, changes:"]
            lines += [f"  {path}: {old} -> {wording.shorten_value(new)}" for path, old, new in changes]
    return "\n".join(lines)


def _tabulate_front(results: SearchResults) -> list[str]:
    aims = results.space.aims
    rows = [["sample", *(aim.label for aim in aims), ""]]
    for sample in results.front:
        values = [wording.format_worth(sample.find_value(aim), aim) for aim in aims]
        rows.append([str(sample.sample), *values, wording.find_role(sample, results)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        f"  {'  '.join(text.rjust(width) for text, width in zip(row, widths, strict=False))}  {row[-1]}".rstrip()
        for row in rows
    ]


def _tabulate_finalists(results: SearchResults) -> list[str]:
    lines, width = [], max(len(row.label) for row in results.finalists)
    several = len(results.outcomes) > 1
    for row in rank_finalists(results):
        for i, outcome in enumerate(results.outcomes):
            found = row.minus_default.get(outcome.name, {})
            gaps = "; ".join(f"{name} {wording.format_gain(gap)}" for name, gap in found.items())
            label, minus = "" if i else row.label, f"minus default: {gaps}" if gaps else ""
            score = f"{outcome.label} " * several + wording.format_score(row.find_value(outcome))
            lines.append(f"  {label:<{width}}  {score}  {minus}".rstrip())
    return lines
