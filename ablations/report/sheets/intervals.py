"""The table of the intervals: do they hold what they promise, and what is their width worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ablations.findings.results import INTERVALS, StudyResults
from ablations.findings.tables import DatasetTable, Row
from ablations.findings.wording import format_number, format_percent
from ablations.report.sheets.results import show_level
from ablations.report.sheets.sheet import Cell, Line, Sheet

_GUARANTEED_FROM = 19  # calibration genes from which 90 % is guaranteed: 1 - 2 / (genes + 1)


def make_intervals(results: StudyResults, tables: Sequence[DatasetTable]) -> Sheet | None:
    """Coverage and width of the intervals of 90 %; None where no trial recorded any."""
    known = [(table, [row for row in table.levels if _is_known(row)]) for table in tables]
    lines = [Line(tuple(_show_intervals(table, row)), has_rule=row is rows[0]) for table, rows in known for row in rows]
    if not lines:
        return None
    columns = ("data set", results.study.title, "coverage", "of the draws alone", "width", "width without the model")
    note = (
        "Share of the truth inside, mean over test genes, then over trials; 90 % is asked for. Calibrated on the "
        "validation genes; the draws alone are not. Widths are in standard deviations of a gene over the spots; "
        "without the model: the same bounds at every spot, calibrated the same way."
    )
    return Sheet("intervals", "Intervals of 90 %", (*columns, "calibration genes"), tuple(lines), n_names=2, note=note)


def _is_known(row: Row) -> bool:
    return any(math.isfinite(row.intervals.get(key, math.nan)) for key in INTERVALS)


def _show_intervals(table: DatasetTable, row: Row) -> list[Cell]:
    found = {key: row.intervals.get(key, math.nan) for key in INTERVALS}
    cells = [Cell(table.name), show_level(table, row)]
    cells += [Cell(format_percent(found[key], 1)) for key in ("coverage_90", "coverage_90_raw")]
    cells += [Cell(format_number(found[key], 2)) for key in ("interval_width_90", "interval_width_90_constant")]
    n_genes = found["calibration_genes"]
    is_few = n_genes < _GUARANTEED_FROM
    return [*cells, Cell(format_number(n_genes, 0), ("too few to guarantee 90 %",) * is_few, is_bad=is_few)]
