"""The report of a study, made from what the tracking store holds: a page, and the same in the formats papers use."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from ablations.findings.stored import Stored
from ablations.report.content import Content
from ablations.report.figures.drawing import to_pdf, to_png, to_svg
from ablations.report.figures.effects import draw_effects, draw_leads
from ablations.report.figures.figure import draw
from ablations.report.formats.files import to_csv, write_files
from ablations.report.formats.latex import to_latex
from ablations.report.formats.markdown import to_markdown
from ablations.report.formats.tidy import tabulate_genes, tabulate_numbers
from ablations.report.pages.page import render_report

CARD: Literal["causalged.report"] = "causalged.report"
# in the order of `ReportFiles`
_ENDINGS = [".html", ".md", ".csv", ".per_gene.csv", ".tex", ".json", ".svg", ".pdf", ".png"]
_ENDINGS += [".effects.svg", ".effects.pdf", ".effects.png"]


class Card(Stored):
    """What the index needs to know of a report; `page` is the name of the file beside it."""

    kind: Literal["causalged.report"] = CARD
    name: str
    title: str
    question: str
    opening: str
    protocol: str
    page: str
    datasets: tuple[str, ...]


class ReportFiles(NamedTuple):
    """Where `write_report` put its files.

    Attributes
    ----------
    html, markdown
        The report.
    csv, per_gene
        Every number it shows; every trial, gene and metric.
    tex
        Its tables.
    card
        Name, question, opening line (after the published protocol's stamp), data sets and protocol, for an index.
    figure, effects
        The two figures as SVG; `_pdf` with embedded fonts, `_png` at 300 dots per inch.
    """

    html: Path
    markdown: Path
    csv: Path
    per_gene: Path
    tex: Path
    card: Path
    figure: Path
    figure_pdf: Path
    figure_png: Path
    effects: Path
    effects_pdf: Path
    effects_png: Path


def write_report(content: Content, directory: str | Path) -> ReportFiles:
    """Write `<study>.html` and everything beside it; under the published protocol `<study>.published.*`.

    Each file replaces its predecessor in one step, so a reader never sees half a report.

    Raises
    ------
    CGDError
        The directory cannot be written.
    """
    results = content.results
    is_said = results.study.name.endswith("_published")
    suffix = ".published" if results.protocol == "published" and not is_said else ""
    stem = Path(directory) / f"{results.study.name}{suffix}"
    files = ReportFiles(*(stem.with_name(stem.name + ending) for ending in _ENDINGS))
    contents = _make_contents(content, files)
    write_files(stem.parent, {getattr(files, name).name: text for name, text in contents.items()}, "the report")
    return files


def _make_contents(content: Content, files: ReportFiles) -> dict[str, str | bytes]:
    """Field of `ReportFiles` -> what goes into that file."""
    results, tables = content.results, content.tables
    figure = draw(results.study, tables, content.stamp)
    if content.table_one is not None:
        effects = draw_leads(results.study, content.table_one, content.stamp)
    else:
        effects = draw_effects(results.study, tables, content.stamp)
    found: dict[str, str | bytes] = {
        "html": render_report(content, to_svg(figure, inline=True), to_svg(effects, inline=True)),
        "markdown": to_markdown(content, files.figure_png.name, files.effects_png.name),
        "csv": to_csv(tabulate_numbers(results, tables, content.table_one)),
        "per_gene": to_csv(tabulate_genes(results)),
        "tex": to_latex(content),
        "card": _make_card(content, files),
    }
    for name, drawing in (("figure", figure), ("effects", effects)):
        found |= {name: to_svg(drawing), f"{name}_pdf": to_pdf(drawing), f"{name}_png": to_png(drawing)}
    return found


def _make_card(content: Content, files: ReportFiles) -> str:
    study = content.results.study
    return Card(
        name=study.name,
        title=study.title,
        question=study.question,
        opening=content.headline,
        protocol=content.results.protocol,
        page=files.html.name,
        datasets=tuple(table.name for table in content.tables),
    ).to_json()
