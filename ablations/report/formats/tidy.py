"""Everything a report shows, as data: one number a line, and one line per trial and gene."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ablations.findings.forecast import compare_forecast
from ablations.findings.results import StudyResults
from ablations.findings.rows import is_ceiling
from ablations.findings.table_one import Overall, TableOne
from ablations.findings.tables import DatasetTable, Row
from ablations.report.sheets.sheet import Sheet
from ablations.statistics.paired import Estimate
from cgd.metrics.facts import COSTS

_STATISTICS = ("p", "p_holm", "effect_size", "mde", "standard_error", "df", "n_genes", "n_unscored")
_COLUMNS = ["study", "protocol", "dataset", "paper_name", "kind", "name", "is_default", "quantity"]
_COLUMNS += ["value", "low", "high", *_STATISTICS]
_COSTS = (*COSTS, "n_replicates")
_PREDICTED = {"noise_ceiling": "ceiling", "noise_ceiling_null": "null", "share_predicted": "share"}


def tabulate_numbers(
    results: StudyResults, tables: Sequence[DatasetTable], found: TableOne | None = None
) -> pd.DataFrame:
    """Everything the report shows, one number a line, with its interval and statistics where it has them.

    `kind` is floor, ceiling, level, older (`name` is level @ code version), paper or forecast. Of a comparison
    `METRIC_reference_minus` is the lead of the reference over the row; lines without a data set are over all of them.
    """
    lines = [line for table in tables for row in table.rows for line in _list_row(results, table, row)]
    lines += [line for table in tables for line in _list_older(results, table)]
    lines += _list_comparison(results, found) if found else []
    lines += [*_list_paper(results), *_list_forecast(results)]
    frame = pd.DataFrame(lines, columns=_COLUMNS).astype({"n_genes": "Int64", "n_unscored": "Int64"})
    return frame.assign(study=results.study.name)


def tabulate_genes(results: StudyResults) -> pd.DataFrame:
    """One row per trial and gene, floors and ceiling too; a column per metric, empty where unscorable."""
    levels = results.per_gene.rename(columns={"level": "name"}).assign(kind="level")
    floors = results.floors.rename(columns={"method": "name"})
    floors = floors.assign(kind=["ceiling" if is_ceiling(name) else "floor" for name in floors["name"]])
    keys = ["study", "protocol", "dataset", "kind", "name", "seed", "fold", "gene"]
    parts = [part for part in (floors, levels) if len(part)]
    both = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*keys, *results.metrics])
    both = both.assign(study=results.study.name, protocol=results.protocol)
    for key in ("seed", "fold"):
        both[key] = both[key].astype("Int64") if key in both else pd.array([pd.NA] * len(both), dtype="Int64")
    return both[[*keys, *results.metrics]]


def _list_row(results: StudyResults, table: DatasetTable, row: Row) -> Iterator[dict[str, Any]]:
    known = _name_row(results, table, row)
    for quantity, found in _collect_estimates(table, row).items():
        yield known | {"quantity": quantity} | _list_numbers(found)
    for quantity, value in _collect_numbers(table, row).items():
        yield known | {"quantity": quantity, "value": value}


def _name_row(results: StudyResults, table: DatasetTable, row: Row) -> dict[str, Any]:
    where = {"protocol": results.protocol, "dataset": table.name, "paper_name": table.paper_name}
    return where | {"kind": row.kind, "name": row.name, "is_default": row.is_default}


def _collect_estimates(table: DatasetTable, row: Row) -> dict[str, Estimate]:
    found = dict(row.estimates) | {f"{metric}_minus_default": e for metric, e in row.differences.items()}
    for metric in table.outcomes if row.kind == "level" else ():
        best, versus, over = table.find_best(metric), table.best_versus.get(metric, {}), table.over_floor.get(metric)
        if row.name in versus:
            found[f"{metric}_minus_best"] = versus[row.name]
        if best is not None and row.name == best.name and over:
            found[f"{metric}_minus_strongest_floor"] = over
    return found


def _list_numbers(found: Estimate) -> dict[str, Any]:
    return {"value": found.mean, "low": found.low, "high": found.high} | {k: getattr(found, k) for k in _STATISTICS}


def _collect_numbers(table: DatasetTable, row: Row) -> dict[str, float]:
    found = {f"{metric}_fraction": share for metric, share in row.fractions.items()}
    for metric, by_seed in row.by_seed.items():
        found |= {f"{metric}_minus_default_seed_{seed}": value for seed, value in by_seed.items()}
    if row.trials:
        found |= {f"trials_{name}": count for name, count in vars(row.trials).items()}
        found |= {name: getattr(row, name) for name in _COSTS} | dict(row.joint)
        found |= {name: value for name, value in row.intervals.items() if name not in row.estimates}
        found["is_cheapest_as_good"] = int(table.cheapest is not None and table.cheapest.name == row.name)
    if row.predicted:
        found |= {name: getattr(row.predicted, field) for name, field in _PREDICTED.items()}
    if row.kind == "level" and not math.isnan(table.copied_share):
        found["copied_share"] = table.copied_share
    return found


def _list_comparison(results: StudyResults, found: TableOne) -> list[dict[str, Any]]:
    lines = []
    for one in found.data_sets:
        for place in one.places:
            known = _name_row(results, one.table, place.row)
            leads = {f"{metric}_reference_minus": lead for metric, lead in place.leads.items()}
            leads |= {f"{metric}_minus_best_floor": over for metric, over in place.over_floor.items()}
            lines += [known | {"quantity": quantity} | _list_numbers(lead) for quantity, lead in leads.items()]
            lines += [known | {"quantity": f"{m}_rank", "value": rank} for m, rank in place.ranks.items()]
    return lines + [line for row in found.overall for line in _list_overall(results, row)]


def _list_overall(results: StudyResults, row: Overall) -> Iterator[dict[str, Any]]:
    known = {"protocol": results.protocol, "kind": row.kind, "name": row.name, "is_default": row.is_reference}
    values = {"accuracy_score": row.accuracy_score}
    for metric, standing in row.standings.items():
        values |= {f"mean_{metric}": standing.mean, f"mean_{metric}_rank": standing.mean_rank}
        for what, counts in (("lead", standing.leads), ("over_floor", standing.over_floor)):
            if counts:
                values |= {f"data_sets_{metric}_{what}_{key}": value for key, value in vars(counts).items()}
    yield from (known | {"quantity": quantity, "value": value} for quantity, value in values.items())


def _list_older(results: StudyResults, table: DatasetTable) -> list[dict[str, Any]]:
    known = {"protocol": results.protocol, "dataset": table.name, "paper_name": table.paper_name, "kind": "older"}
    return [
        known | {"name": f"{row.level} @ {row.code_version}", "quantity": quantity, "value": value}
        for row in table.older
        for quantity, value in (*row.means.items(), ("trials_ok", row.n_trials))
    ]


def _list_paper(results: StudyResults) -> list[dict[str, Any]]:
    paper = results.study.paper
    if paper is None:
        return []
    return [
        {"protocol": paper.protocol, "paper_name": name, "kind": "paper", "name": label}
        | {"is_default": label == results.study.default_label, "quantity": paper.metric, "value": value}
        for label, values in paper.values.items()
        for name, value in values.items()
    ]


def _list_forecast(results: StudyResults) -> list[dict[str, Any]]:
    found = compare_forecast(results)
    if found is None:
        return []
    return [
        {"protocol": results.protocol, "kind": "forecast", "name": name, "quantity": quantity, "value": value}
        for quantity in ("wall_seconds", "trial_seconds", "peak_memory_mb")
        for check in (getattr(found, quantity),)
        for name, value in (("forecast", check.forecast), ("outcome", check.outcome), ("ratio", check.ratio))
    ]


_PLAIN = str.maketrans({"−": "-", "–": "", "\u202f": "", "↑": "", "↓": ""})


def tabulate_sheets(sheets: Sequence[Sheet]) -> pd.DataFrame:
    """Tables that share their columns as one for a spreadsheet: plain digits, bounds in columns of their own."""
    lines = [(sheet.title, line) for sheet in sheets for line in sheet.lines]
    kinds = ["method" if line.kind == "level" else line.kind for _, line in lines]
    found = {"data set": [title for title, _ in lines], "kind": kinds}
    columns = sheets[0].columns
    for i, heading in enumerate(columns):
        cells = [line.cells[i] for _, line in lines]
        name = _make_plain(f"{columns[i - 1]}, {heading}" if columns.count(heading) > 1 else heading)
        found[name] = [_make_plain(cell.text) for cell in cells]
        for j, end in enumerate(("low", "high") if any(cell.bounds for cell in cells) else ()):
            found[f"{name}, {end}"] = [_make_plain(cell.bounds[j]) if cell.bounds else "" for cell in cells]
        if any(cell.tags or cell.notes for cell in cells):
            found[f"{name}, note"] = ["; ".join((*cell.tags, *cell.notes)) for cell in cells]
    return pd.DataFrame(found)


def _make_plain(text: str) -> str:
    return " ".join(text.translate(_PLAIN).split())
