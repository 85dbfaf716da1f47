"""The page of a report: one HTML file that fetches nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablations.findings.wording import CONFIDENCE_PERCENT, SCORE, format_number, format_value
from ablations.report.content import Content, describe_replicates, describe_statistics, explain_stamp
from cgd.metrics.facts import METRICS

_PIXELS_PER_POINT = 1.42  # 8 points of the figure then read like the text of the tables
_TEMPLATES = Path(__file__).parent / "templates"


def render_report(content: Content, figure: str, effects: str) -> str:
    """The page. Every text that comes from outside is escaped; only the two SVGs are taken as they are."""
    return render_template(
        "report.html",
        content=content,
        results=content.results,
        study=content.results.study,
        figure=Markup(figure),
        effects_figure=Markup(effects),
        figure_width=_measure_width(figure),
        effects_width=_measure_width(effects),
        design=describe_replicates(content),
        method=describe_statistics(content.results.study),
        stamp_meaning=explain_stamp(content) if content.stamp else "",
        confidence=CONFIDENCE_PERCENT,
        scores=" and ".join(METRICS[metric].label for metric in content.results.outcomes),
    )


def _measure_width(svg: str) -> int:
    """How wide a figure may become on the page, from its own width in points."""
    found = re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)
    assert found, "matplotlib gives the width of an SVG in points"
    return round(_PIXELS_PER_POINT * float(found[1]))


def render_template(name: str, **values: Any) -> str:
    """A template of this room, with everything escaped and nothing undefined."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["label"] = SCORE
    environment.filters |= {"number": format_number, "plain": format_value}
    return environment.get_template(name).render(**values)
