"""The tables around the answer: costs, the paper's numbers, forecast, older code, and the intervals of 90 %."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ablations.findings.forecast import compare_forecast
from ablations.findings.results import StudyResults
from ablations.findings.tables import DatasetTable, Row
from ablations.findings.wording import format_number, format_percent
from ablations.report.sheets.results import show_label, show_level
from ablations.report.sheets.sheet import Cell, Line, Sheet
from cgd.metrics.facts import INTERVALS, METRICS, NOISE_CEILINGS, OUTCOMES, PRIMARY

_GUARANTEED_FROM = 19  # calibration genes from which 90 % is guaranteed: 1 - 2 / (genes + 1)

_COSTS = {"wall_seconds": 1, "cpu_hours": 2, "gpu_hours": 2, "peak_memory_mb": 0, "n_parameters": 0}  # and digits


def make_costs(results: StudyResults, tables: Sequence[DatasetTable]) -> Sheet:
    """What a level costs."""
    columns = ("data set", results.study.title, *(METRICS[cost].label for cost in _COSTS))
    lines = [
        Line(tuple(_show_cost(table, row)), has_rule=row is table.levels[0]) for table in tables for row in table.levels
    ]
    note = (
        "Seconds are the mean wall time of a finished trial, hours their sum, memory the largest peak. Cheapest: the "
        "shortest trials among the levels that are best, or whose paired difference to the best has an interval that "
        f"reaches 0{', in both outcomes' * (len(results.outcomes) > 1)}."
    )
    return Sheet("cost", "Cost", columns, tuple(lines), n_names=2, note=note, intro=tuple(_describe_cheapest(tables)))


def _show_cost(table: DatasetTable, row: Row) -> list[Cell]:
    is_cheapest = table.cheapest is not None and row.name == table.cheapest.name
    name = show_level(table, row, *(["cheapest as good"] * is_cheapest))
    return [Cell(table.name), name, *(Cell(format_number(getattr(row, cost), n)) for cost, n in _COSTS.items())]


def _describe_cheapest(tables: Sequence[DatasetTable]) -> list[str]:
    """Per data set the level one would take if seconds count."""
    found = []
    for table in tables:
        best = {row.name: row for metric in table.outcomes if (row := table.find_best(metric))}
        if not best:
            continue
        names = " and ".join(f"{row.title} ({format_number(row.wall_seconds, 1)} s)" for row in best.values())
        if table.cheapest is None and len(best) > 1:
            found.append(f"{table.name}: no level is as good as the best in both outcomes, {names}.")
        elif table.cheapest is not None and list(best) == [table.cheapest.name]:
            seconds = f"{format_number(table.cheapest.wall_seconds, 1)} s a trial"
            found.append(
                f"{table.name}: the best level, {table.cheapest.title}, is also the cheapest as good ({seconds})."
            )
        elif table.cheapest is not None:
            seconds = f"{format_number(table.cheapest.wall_seconds, 1)} s a trial"
            found.append(
                f"{table.name}: {table.cheapest.title} ({seconds}) is the cheapest level not shown to be behind the "
                f"best, {names}."
            )
    return found


def make_predicted(results: StudyResults, tables: Sequence[DatasetTable]) -> Sheet | None:
    """How much of the predictable each level and the best floor predict; None where the noise ceiling is unknown."""
    lines = []
    for table in tables:
        rows = [row for row in (table.find_best_floor(PRIMARY), *table.levels) if row and row.predicted]
        lines += [Line(tuple(_show_predicted(results, table, row)), row.kind, row is rows[0]) for row in rows]
    if not lines:
        return None
    ceiling, null = NOISE_CEILINGS.values()
    what = "Method" if results.study.is_comparison else results.study.title
    columns = (
        "data set",
        what,
        f"mean {METRICS[PRIMARY].label}",
        ceiling.short_label,
        null.short_label,
        "share predicted",
    )
    note = f"{ceiling.label}: {ceiling.description} {null.label}: {null.description} All over the same genes."
    title = "Share of the predictable that is predicted"
    return Sheet("predicted", title, columns, tuple(lines), n_names=2, note=note[0].upper() + note[1:])


def _show_predicted(results: StudyResults, table: DatasetTable, row: Row) -> list[Cell]:
    found = row.predicted
    assert found is not None, "the caller leaves out rows without"
    if row.kind == "level" and not results.study.is_comparison:
        name = show_level(table, row, outcomes=(PRIMARY,))
    else:
        name = Cell(row.title, tags=("best floor",) * (row.kind == "floor"))
    numbers = (Cell(format_number(value)) for value in (found.mean, found.ceiling, found.null))
    return [Cell(table.name), name, *numbers, Cell(format_percent(found.share))]


def make_paper(results: StudyResults) -> Sheet | None:
    """What the paper claims and its own numbers, no line where it states none; None where it says nothing."""
    paper = results.study.paper
    if paper is None:
        return None
    names = list(dict.fromkeys(name for row in paper.values.values() for name in row))
    lines = [
        Line((show_label(results, label), *(Cell(format_number(values.get(name))) for name in names)))
        for label, values in paper.values.items()
    ]
    where = f"{paper.figure}, {paper.protocol.replace('_', ' ')} protocol"
    return Sheet(
        key="paper",
        title=f"What the paper reports ({where})",
        columns=(results.study.title, *names),
        lines=tuple(lines),
        note=f"{METRICS[paper.metric].heading} as stated in {where}." if lines else "",
        intro=tuple(text for text in (paper.claim, paper.note) if text),
    )


def make_forecast(results: StudyResults) -> Sheet | None:
    """What was forecast beside what came; None without a forecast or where nothing ran after it."""
    found = compare_forecast(results)
    if found is None:
        return None
    checks = {
        f"wall time, s ({found.n_concurrent} at once)": found.wall_seconds,
        "all trials, s": found.trial_seconds,
        "largest peak memory, MB": found.peak_memory_mb,
    }
    note = (
        f"Over the {found.n_trials} trials that ran after the forecast was made ({found.made}); the wall time is that "
        "in which any of them ran."
    )
    lines = []
    for name, check in checks.items():
        texts = (name, format_number(check.forecast, 0), format_number(check.outcome, 0), format_number(check.ratio, 2))
        lines.append(Line(tuple(map(Cell, texts))))
    return Sheet("forecast", "Forecast and outcome", ("", "forecast", "outcome", "ratio"), tuple(lines), note=note)


def make_older(results: StudyResults, tables: Sequence[DatasetTable]) -> Sheet | None:
    """Results of other versions of the code; None where there are none."""
    rows = [(table, row) for table in tables for row in table.older]
    if not rows:
        return None
    metrics = [m for m in OUTCOMES if any(math.isfinite(row.means.get(m, math.nan)) for _, row in rows)] or [PRIMARY]
    lines = []
    for table, row in rows:
        means = (format_number(row.means.get(metric)) for metric in metrics)
        texts = (table.name, row.level, row.code_version, *means, str(row.n_trials), row.when)
        lines.append(Line(tuple(map(Cell, texts)), has_rule=row is table.older[0]))
    heads = (METRICS[metric].heading for metric in metrics)
    columns = ("data set", results.study.title, "code version", *heads, "trials", "newest")
    current = results.code_version or "not recorded"
    note = f"By other versions of the code, and in none of the tables above; those are of version {current}."
    return Sheet("older", "Results of older code", columns, tuple(lines), n_names=3, note=note)


def make_intervals(results: StudyResults, tables: Sequence[DatasetTable]) -> Sheet | None:
    """Coverage and width of the intervals of 90 %; None where no trial recorded any."""
    is_comparison = results.study.is_comparison
    lines = []
    for table in tables:
        known = [row for row in table.levels if any(map(math.isfinite, row.intervals.values()))]
        for row in known:
            name = Cell(row.title) if is_comparison else show_level(table, row)
            lines.append(Line((Cell(table.name), name, *_show_intervals(row)), has_rule=row is known[0]))
    if not lines:
        return None
    what = "Method" if is_comparison else results.study.title
    columns = ("data set", what, *(METRICS[name].label for name in INTERVALS))
    note = (
        "Share of the truth inside, mean over test genes, then over trials; 90 % is asked for. Calibrated on the "
        "validation genes; the draws alone are not. Widths are in standard deviations of a gene over the spots; "
        "without the model: the same bounds at every spot, calibrated the same way."
    )
    return Sheet("intervals", "Intervals of 90 %", columns, tuple(lines), n_names=2, note=note)


def _show_intervals(row: Row) -> list[Cell]:
    found = {key: row.intervals.get(key, math.nan) for key in INTERVALS}
    cells = [Cell(format_percent(found[key], 1)) for key in ("coverage_90", "coverage_90_raw")]
    cells += [Cell(format_number(found[key], 2)) for key in ("interval_width_90", "interval_width_90_constant")]
    n_genes = found["calibration_genes"]
    is_few = n_genes < _GUARANTEED_FROM
    return [*cells, Cell(format_number(n_genes, 0), ("too few to guarantee 90 %",) * is_few, is_bad=is_few)]
