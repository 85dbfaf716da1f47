"""The tables that answer the question: effects, every data set, the levels by data set, and the fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ablations.findings.results import StudyResults
from ablations.findings.rows import HIDDEN_PRIMARY
from ablations.findings.tables import DatasetTable, Row
from ablations.findings.wording import (
    CONFIDENCE_PERCENT,
    SCORE,
    format_bounds,
    format_number,
    format_p,
    format_percent,
    format_signed,
)
from ablations.report.sheets.sheet import DATA_SET, Cell, Line, Sheet
from ablations.statistics.paired import Estimate
from cgd.metrics.facts import HIDDEN_SCORES, METRICS, PRIMARY, SCORES

_FACTS = (("n_spots", "spots"), ("n_cells", "cells"), ("n_genes", "genes"), ("n_test", "test genes"))
COPIED = " Where a column does not say hidden entries it is over all entries, copied ones included."
_WIDTH = "model.latent_dim"  # of the ceiling, which is computed once per data set


def make_effects(results: StudyResults, tables: Sequence[DatasetTable]) -> Sheet:
    """Every level minus the default, in each outcome."""
    has_hidden = results.protocol == "published"
    columns = ["data set", results.study.title]
    for metric in results.outcomes:
        columns += [f"{METRICS[metric].heading} − default", "p", "adjusted p", "effect size"]
        columns += ["smallest detectable", "seeds agreeing"]
    columns += ["genes", *[f"{SCORE} − default, hidden entries", "adjusted p, hidden entries"] * has_hidden]
    lines = [
        Line(tuple(_show_effects(table, row, results.outcomes, has_hidden)), has_rule=row is levels[0])
        for table in tables
        if (levels := [row for row in table.levels if not row.is_default])
        for row in levels
    ]
    note = (
        f"A difference is level minus default ({results.study.default_label}), paired by seed, fold and gene, with its "
        f"{CONFIDENCE_PERCENT} interval; bold where it differs from 0. Arrow: what is better; what stands right of a "
        "difference is of it. Adjusted p: after Holm's correction over all outcomes, levels and data sets. Effect "
        "size: mean over standard deviation of the per-gene differences. Smallest detectable: the true difference this "
        "design would find 8 times in 10 (at p < 0.05, before the correction)."
    )
    return Sheet("effects", "Effects", tuple(columns), tuple(lines), n_names=2, note=note)


def _show_effects(table: DatasetTable, row: Row, outcomes: Sequence[str], has_hidden: bool) -> list[Cell]:
    cells = [Cell(table.name), show_level(table, row)]
    for metric in outcomes:
        found, by_seed = row.differences[metric], row.by_seed.get(metric)
        cells += [
            show_difference(found),
            Cell(format_p(found.p)),
            Cell(format_p(found.p_holm), is_strong=found.differs),
        ]
        cells += [Cell(format_signed(found.effect_size, 2)), Cell(format_number(found.mde))]
        cells.append(Cell(f"{row.count_agreeing(metric)} of {len(by_seed)}" if by_seed else "–"))
    cells.append(Cell(str(row.differences[PRIMARY].n_genes)))
    if has_hidden:
        hidden = row.differences[HIDDEN_PRIMARY]
        cells += [show_difference(hidden), Cell(format_p(hidden.p_holm), is_strong=hidden.differs)]
    return cells


def show_difference(found: Estimate) -> Cell:
    return Cell(format_signed(found.mean), bounds=format_bounds(found, sign=True), is_strong=found.differs)


def show_level(table: DatasetTable, row: Row, *more: str, outcomes: Sequence[str] = ()) -> Cell:
    """The name of a level (or floor), and what is to be said of it.

    `outcomes` are those that are shown beside it, all where none is given; of several it is said in which it is best.
    """
    shown = outcomes or table.outcomes
    best = [metric for metric in shown if row.kind == "level" and _is_best(table, row, metric)]
    where = f" in {' and '.join(METRICS[metric].label for metric in best)}" if len(shown) > 1 else ""
    tags = ["default"] * row.is_default + [f"best{where}"] * bool(best)
    return Cell(row.title, tags=(*tags, *more), is_strong=bool(best) or row.is_default)


def _is_best(table: DatasetTable, row: Row, metric: str) -> bool:
    best = table.find_best(metric)
    return best is not None and row.name == best.name


def make_data_set(results: StudyResults, table: DatasetTable) -> Sheet:
    """Floors, ceiling and levels of one data set in every metric."""
    metrics = (*SCORES, *(HIDDEN_SCORES if results.protocol == "published" else ()))
    has_paper = any(row.paper is not None for row in table.levels)
    columns = [results.study.title, *(METRICS[metric].heading for metric in metrics)]
    if has_paper and (paper := results.study.paper):
        columns.append(f"paper ({paper.protocol.replace('_', ' ')} protocol)")
    columns += ["genes scored", "replicates", "trials"]
    lines = [
        Line(tuple(_make_cells(table, row, metrics, has_paper)), row.kind, row is table.levels[0])
        for row in table.rows
        if not row.is_of_draws
    ]
    note = (
        "Beneath each mean: its interval, and how far it stands from the best floor in that metric (0 %) to the "
        "ceiling (100 %)." + COPIED * (results.protocol == "published")
    )
    return Sheet(
        f"{DATA_SET}{table.name}", table.title, tuple(columns), tuple(lines), note=note, intro=describe_data(table)
    )


def describe_data(table: DatasetTable) -> tuple[str, ...]:
    """`1 549 spots · 14 249 cells`, as far as recorded, and what is missing."""
    known = [(table.facts[key], what) for key, what in _FACTS if table.facts.get(key) is not None]
    counts = " · ".join(f"{value:,} {what}".replace(",", "\u202f") for value, what in known)
    absent = [f"Not recorded: {', '.join(table.absent_floors)}."] * bool(table.absent_floors)
    return tuple(text for text in (counts, *absent) if text)


def _make_cells(table: DatasetTable, row: Row, metrics: Sequence[str], has_paper: bool) -> list[Cell]:
    cells = [show_level(table, row, outcomes=(PRIMARY,))]
    for metric in metrics:
        found = row.estimates[metric]
        share = row.fractions.get(metric, math.nan)
        notes = (format_percent(share),) if math.isfinite(share) else ()
        is_best = metric == PRIMARY and "best" in cells[0].tags
        cells.append(Cell(format_number(found.mean), notes, bounds=format_bounds(found), is_strong=is_best))
    cells += [Cell(format_number(row.paper) if row.paper is not None else "")] * has_paper
    n_genes, n_unscored = row.estimates[PRIMARY].n_genes, row.estimates[PRIMARY].n_unscored
    cells.append(Cell(str(n_genes), (f"of {n_genes + n_unscored}",) * bool(n_unscored)))
    return cells + ([Cell(str(row.n_replicates)), show_trials(row)] if row.trials else [Cell(), Cell()])


def show_trials(row: Row) -> Cell:
    if row.trials is None:
        return Cell()
    notes = [f"{row.trials.failed} failed"] * bool(row.trials.failed)
    notes += [f"{row.trials.missing} missing"] * bool(row.trials.missing)
    return Cell(f"{row.trials.ok} ok", tuple(notes), is_bad=bool(notes))


def make_levels(results: StudyResults, tables: Sequence[DatasetTable], metric: str) -> Sheet:
    """The levels in rows and the data sets in columns, as in the paper's Table II, with floors and ceilings beneath."""

    def cell(table: DatasetTable, row: Row | None) -> Cell:
        if row is None:
            return Cell("")
        paper = (f"paper {format_number(row.paper)}",) * (row.paper is not None and metric == PRIMARY)
        found = row.estimates[metric]
        is_best = _is_best(table, row, metric)
        return Cell(format_number(found.mean), paper, bounds=format_bounds(found), is_strong=is_best)

    lines = [
        Line((show_label(results, label), *(cell(table, _find_level(table, label)) for table in tables)))
        for label in results.study.labels
    ]
    floors = [table.find_best_floor(metric) for table in tables]
    named = (Cell(format_number(row.get_mean(metric)), (row.title,)) if row else Cell("–") for row in floors)
    lines.append(Line((Cell("best floor"), *named), "floor", has_rule=True))
    ceilings = [table.find_ceiling(metric) for table in tables]
    tops = (Cell(format_number(row.get_mean(metric) if row else None)) for row in ceilings)
    lines.append(Line((Cell("ceiling"), *tops), "ceiling"))
    heads = (results.study.title, *(table.heading for table in tables))
    note = f"Mean {METRICS[metric].label} with its interval; bold where best."
    if metric != PRIMARY:
        return Sheet(
            f"levels:{metric}", f"Levels by data set, {METRICS[metric].heading}", heads, tuple(lines), note=note
        )
    if results.study.paper and any(row.paper is not None for table in tables for row in table.levels):
        note += f" The paper's numbers are of the {results.study.paper.protocol.replace('_', ' ')} protocol."
    return Sheet("levels", "Levels by data set", heads, tuple(lines), note=note)


def make_fractions(results: StudyResults, tables: Sequence[DatasetTable]) -> Sheet:
    """How far each level stands from the best floor to the ceiling, so that data sets compare."""
    metrics = [*results.outcomes, *[HIDDEN_PRIMARY] * (results.protocol == "published")]
    heads = [(table, metric) for table in tables for metric in metrics]
    lines = []
    for label in results.study.labels:
        rows = [(_find_level(table, label), metric) for table, metric in heads]
        shares = [row.fractions.get(metric, math.nan) if row else math.nan for row, metric in rows]
        means = [_average([s for s, (_, m) in zip(shares, heads, strict=True) if m == one]) for one in results.outcomes]
        shown = (Cell(format_percent(share)) for share in (*shares, *means * (len(tables) > 1)))
        lines.append(Line((show_label(results, label), *shown)))
    labels = " and ".join(METRICS[metric].label for metric in results.outcomes)
    note = (
        f"{labels} on the scale from the best floor (0 %) to the ceiling (100 %); below 0 % a level does worse "
        "than a method that learns nothing of this kind."
    )
    if _WIDTH in results.study.paths:
        note += f" The ceiling is that of a latent of {results.config[_WIDTH]} dimensions, whatever the level."
    columns = [results.study.title, *(f"{table.heading}{_name_column(metric)}" for table, metric in heads)]
    columns += [f"mean over data sets{_name_column(metric)}" for metric in results.outcomes] * (len(tables) > 1)
    return Sheet("fractions", "Data sets compared", tuple(columns), tuple(lines), note=note)


def _average(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares)


def _name_column(metric: str) -> str:
    """What follows the name of a data set where a column is not of the best guess over all entries."""
    names = {PRIMARY: "", HIDDEN_PRIMARY: ", hidden entries"}
    return names[metric] if metric in names else f", {METRICS[metric].label}"


def show_label(results: StudyResults, label: str) -> Cell:
    is_default = label == results.study.default_label
    return Cell(label, tags=("default",) * is_default, is_strong=is_default)


def _find_level(table: DatasetTable, label: str) -> Row | None:
    return next((row for row in table.levels if row.name == label), None)
