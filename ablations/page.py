"""The page of a report: one HTML file that fetches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablations.content import Content, design, facts, method, stamp_meaning
from ablations.verdict import PERCENT
from ablations.wording import number, plain

_TEMPLATES = Path(__file__).parent / "templates"


def render(content: Content, figure: str, effects: str) -> str:
    """The page. Every text that comes from outside is escaped; only the two SVGs are taken as they are."""
    return render_template(
        "report.html",
        content=content,
        results=content.results,
        study=content.results.study,
        figure=Markup(figure),
        effects_figure=Markup(effects),
        facts=[facts(table) for table in content.tables],
        design=design(content),
        method=method(content),
        stamp_meaning=stamp_meaning(content) if content.stamp else "",
        confidence=PERCENT,
    )


def render_template(name: str, **values: Any) -> str:
    """A template of this room, with everything escaped and nothing undefined."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "plain": plain}
    return environment.get_template(name).render(**values)
