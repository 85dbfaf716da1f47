"""A comparison of methods: a study whose factor is the method, made by the command rather than written in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ablations.study.study import METHOD, Study
from cgd.config import CAUSALGED

Protocol = Literal["heldout_genes", "published"]
PROTOCOLS: tuple[Protocol, ...] = ("heldout_genes", "published")
TITLE = "CausalGeD"
_SAID = {
    "heldout_genes": "with the answer hidden",
    "published": "under the published protocol, which copies most of the answer",
}


@dataclass(frozen=True)
class Compared:
    """A method as a table names it; `note` is what the table must say about it."""

    name: str
    title: str
    note: str = ""


def name_comparison(protocol: str) -> str:
    """Name of the study of a protocol."""
    return "comparison" if protocol == "heldout_genes" else f"comparison_{protocol}"


def make_comparison(methods: Sequence[Compared], protocol: Protocol) -> Study:
    """CausalGeD, which the others are compared with, and `methods` in their order."""
    levels = [Compared(CAUSALGED, TITLE), *methods]
    return Study.from_dict(
        {
            "name": name_comparison(protocol),
            "question": f"Which method predicts genes that were never measured best, {_SAID[protocol]}?",
            "hypothesis": f"{TITLE} is ahead of every other method and of every floor.",
            "factor": {"path": METHOD, "name": "Method"},
            "levels": [{"value": one.name, "label": one.title, "note": one.note} for one in levels],
            "default": CAUSALGED,
            "fixed": {"evaluation.protocol": protocol},
        },
        "comparison",
    )
