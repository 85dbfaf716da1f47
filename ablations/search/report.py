"""The report of a search: one page, its figures, and every sample as CSV, all from the search's record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ablations.findings.wording import SCORE, format_percent
from ablations.report.figures.drawing import to_pdf, to_png, to_svg
from ablations.report.formats.files import to_csv, write_files
from ablations.report.pages.page import render_template
from ablations.search import wording
from ablations.search.figure import draw_front, draw_history, draw_importances, draw_parallel, draw_slices
from ablations.search.results import SearchResults

_FIGURES = {
    "history": (draw_history, "Every sample in the order of the search, and the best so far."),
    "importances": (
        draw_importances,
        "How much each parameter has to do with being among the best samples (PED-ANOVA). It says what the search "
        "found to matter between these bounds, not how much a field matters by itself.",
    ),
    "front": (draw_front, "Accuracy against cost; numbered: the samples that no other beats in both."),
    "parallel": (
        draw_parallel,
        "Every finished sample across the leading parameters, the best tenth dark; a line below an axis: not searched "
        "there.",
    ),
    "slices": (
        draw_slices,
        f"Validation {SCORE} against each of the leading parameters alone; hopeless samples cut off.",
    ),
}


def write_search_report(results: SearchResults, directory: Path) -> Path:
    """Write `search.html`, `samples.csv` and each figure as SVG, PDF and PNG; returns the page.

    Raises
    ------
    CGDError
        The directory cannot be written.
    """
    drawn = {name: draw(results) for name, (draw, _) in _FIGURES.items()} if results.finished else {}
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    contents: dict[str, str | bytes] = {}
    for name, figure in figures.items():
        contents |= {f"{name}.svg": to_svg(figure), f"{name}.pdf": to_pdf(figure), f"{name}.png": to_png(figure)}
    contents["samples.csv"] = to_csv(tidy_samples(results))
    page = render_search(results, {name: to_svg(figure, inline=True) for name, figure in figures.items()})
    write_files(directory, contents | {"search.html": page}, "the report")
    return directory / "search.html"


def render_search(results: SearchResults, svgs: dict[str, str]) -> str:
    """The page. Every text that comes from outside is escaped; only the SVGs are taken as they are."""
    ranked = sorted(results.finished, key=lambda sample: -sample.value)
    rest = [sample for sample in results.samples if not sample.is_finished]
    return render_template(
        "search.html",
        results=results,
        opening=wording.write_opening(results),
        cautions=wording.list_cautions(results),
        counts=wording.count_samples(results),
        figures=[(name, Markup(svg), _FIGURES[name][1]) for name, svg in svgs.items()],
        changes=wording.list_changes(results.winner_values, results.config),
        parameters=[(name, _describe_bounds(p), p.condition) for name, p in results.space.name_parameters()],
        ranked=[*ranked, *rest],
        score=wording.format_score,
        percent=format_percent,
        with_interval=wording.format_gain,
        short=wording.shorten_value,
    )


def _describe_bounds(parameter: Any) -> str:
    if parameter.choices:
        return ", ".join(map(str, parameter.choices))
    steps = f" in steps of {parameter.step:g}" if parameter.step else ""
    return f"{parameter.low:g} to {parameter.high:g}{steps}{', log scale' if parameter.log else ''}"


def tidy_samples(results: SearchResults) -> pd.DataFrame:
    """A row per sample: how it ended, what it is worth, what it cost, and each parameter in a column of its own."""
    columns = ["sample", "origin", "state", "value", "percent", "seconds", "peak_memory_mb", "n_parameters"]
    columns += ["fits_memory", "on_front", "reason", "run_id"]
    rows = [{key: getattr(s, key) for key in columns} | s.params for s in results.samples]
    names = [name for name, _ in results.space.name_parameters()]
    return pd.DataFrame(rows, columns=[*columns, *names])


def summary_text(results: SearchResults) -> str:
    """The search in plain text, for a terminal."""
    lines = [f"search {results.name}: {wording.write_opening(results)}", wording.count_samples(results)]
    if results.best is not None:
        lines.append(
            f"best sample: {results.best.sample}, validation {SCORE} {wording.format_score(results.best.value)}"
        )
    lines += [f"note: {text}" for text in wording.list_cautions(results)]
    if results.finalists:
        width = max(len(row.label) for row in results.finalists)
        lines += ["", "confirmed on validation genes, over other seeds:"]
        for row in sorted(results.finalists, key=lambda row: -row.value):
            gaps = "; ".join(f"{name} {wording.format_gain(found)}" for name, found in row.minus_default.items())
            minus = f"minus default: {gaps}" if gaps else ""
            lines.append(f"  {row.label:<{width}}  {wording.format_score(row.value)}  {minus}".rstrip())
    if results.winner_values:
        lines += ["", "the winner changes:"]
        for path, old, new in wording.list_changes(results.winner_values, results.config):
            lines.append(f"  {path}: {old} -> {wording.shorten_value(new)}")
    return "\n".join(lines)
