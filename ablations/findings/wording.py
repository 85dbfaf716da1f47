"""Numbers as every report writes them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from ablations.findings.rows import Row
from ablations.statistics.intervals import CONFIDENCE
from ablations.statistics.paired import Estimate
from cgd.metrics.facts import METRICS, PRIMARY, REFERENCES

SCORE = METRICS[PRIMARY].label  # what the number that answers a question is called
CONFIDENCE_PERCENT = f"{100 * CONFIDENCE:.0f} %"


@dataclass(frozen=True)
class Outcome:
    """An outcome in sentences: what it measures, what a level does well or badly, what a floor of it is called."""

    noun: str
    verb: str
    floor: str


OUTCOME_WORDS = {
    "pcc": Outcome("the best guess", "predict", "the best floor"),
    "crps": Outcome("the draws", "draw", "the best floor of draws"),
}


def describe_outcome(metric: str) -> str:
    """`The draws (CRPS, lower is better)`."""
    noun = OUTCOME_WORDS[metric].noun
    return f"{noun[0].upper()}{noun[1:]} ({METRICS[metric].label}, {METRICS[metric].direction} is better)"


def name_extreme(metric: str) -> str:
    """What the best mean in a metric is: `highest` or `lowest`."""
    return "highest" if METRICS[metric].sign > 0 else "lowest"


def format_number(value: float | None, digits: int = 3) -> str:
    """`1 234.568`, with a true minus sign and a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}".replace(",", "\u202f")
    return text.replace("-", "−") if re.search("[1-9]", text) else text.lstrip("-")  # not -0.000


def format_bounds(found: Estimate, sign: bool = False) -> tuple[str, ...]:
    """`0.123` and `0.234` of an interval; empty where there is none."""
    write = format_signed if sign else format_number
    return (write(found.low), write(found.high)) if math.isfinite(found.low) else ()


def format_interval(found: Estimate, sign: bool = False) -> str:
    """`[0.123, 0.234]`; empty where there is none."""
    bounds = format_bounds(found, sign)
    return f"[{', '.join(bounds)}]" if bounds else ""


def format_signed(value: float, digits: int = 3) -> str:
    """`+0.021`, `−0.021`, or a dash for nothing."""
    return f"{value:+.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def format_p(value: float) -> str:
    """`0.043`, `< 0.001`, or a dash for nothing."""
    if not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_percent(share: float, digits: int = 0) -> str:
    """`87 %`, or a dash for nothing."""
    return f"{format_number(100 * share, digits)} %" if math.isfinite(share) else "–"


def shorten_name(row: Row) -> str:
    """A floor or the ceiling in few words; a level as it is called."""
    return REFERENCES[row.name].short_label if row.kind != "level" and row.name in REFERENCES else row.title


def format_value(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
