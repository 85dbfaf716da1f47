"""The draws as text: of one data set what they score beside their floors and their ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable

from ablations.findings.results import StudyResults
from ablations.findings.tables import DatasetTable, Row
from ablations.findings.wording import OUTCOME_WORDS, format_bounds, format_number, format_percent, format_signed
from ablations.report.sheets.results import show_level, show_trials
from ablations.report.sheets.sheet import DRAWS, Cell, Line, Sheet
from cgd.metrics.facts import METRICS

DRAWN = "crps"  # the outcome that says how good draws are
SHOWN = (DRAWN, "energy_spots", "coverage_90_raw", "zeros_bias", "moran_error", "gene_correlation_error", "c2st_auc")
_WRITE: dict[str, Callable[[float], str]] = {
    "coverage_90_raw": lambda share: format_percent(share, 1),
    "zeros_bias": format_signed,
}


def make_draws(results: StudyResults, table: DatasetTable) -> Sheet | None:
    """Floors, ceiling and levels of one data set in the scores of draws; None where no trial has any."""
    if DRAWN not in results.outcomes:
        return None
    rows = [row for row in table.rows if row.is_of_draws or row.kind == "level"]
    columns = (results.study.title, *(METRICS[metric].heading for metric in SHOWN), "genes scored", "trials")
    lines = [Line(tuple(_make_cells(table, row)), row.kind, row is table.levels[0]) for row in rows]
    note = (
        f"{explain_draws()} Beneath {METRICS[DRAWN].label}: its interval, and how far it stands from "
        f"{OUTCOME_WORDS[DRAWN].floor} (0 %) to the ceiling (100 %)."
    )
    return Sheet(f"{DRAWS}{table.name}", f"{table.title}: the draws", columns, tuple(lines), note=note)


def explain_draws() -> str:
    """What the columns of the draws are."""
    metrics = "; ".join(f"{METRICS[name].label}: {METRICS[name].description.rstrip('.')}" for name in SHOWN)
    return f"{metrics}."


def show_draws(row: Row, is_best: bool) -> list[Cell]:
    """A cell per score; dashes where a row has none."""
    found = []
    for metric in SHOWN:
        if metric not in row.estimates:
            found.append(Cell(format_number(row.joint.get(metric, math.nan))))
            continue
        mean, share = row.estimates[metric], row.fractions.get(metric, math.nan)
        notes = (format_percent(share),) * (metric == DRAWN and math.isfinite(share))
        bounds = format_bounds(mean) if metric == DRAWN else ()
        text = _WRITE.get(metric, format_number)(mean.mean)
        found.append(Cell(text, notes, bounds=bounds, is_strong=is_best and metric == DRAWN))
    return found


def _make_cells(table: DatasetTable, row: Row) -> list[Cell]:
    floor = table.find_best_floor(DRAWN)
    tags = ("best floor",) * (floor is not None and row is floor)
    name = show_level(table, row, *tags, outcomes=(DRAWN,))
    n_genes = row.estimates[DRAWN].n_genes if row.knows(DRAWN) else 0
    return [name, *show_draws(row, "best" in name.tags), Cell(str(n_genes)), show_trials(row)]
