"""One self-contained page, one table and one figure per study, made from what the tracking store holds."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablations.figure import draw, to_svg
from ablations.results import HIDDEN_METRICS, METRICS, StudyResults
from ablations.stats import FEW_GENES, N_RESAMPLES, Estimate
from ablations.tables import PRIMARY, DatasetTable, Row, build_tables
from ablations.verdict import PERCENT, signed, troubles, verdict
from cgd.errors import CGDError

METRIC_NAMES = {"pcc": "PCC ↑", "ssim": "SSIM ↑", "rmse": "RMSE ↓", "js": "JS ↓", "spearman": "Spearman ↑"}
_COLUMNS = ["study", "protocol", "dataset", "paper_name", "kind", "name", "is_default", "quantity"]
_COLUMNS += ["value", "low", "high", "n_genes", "n_unscored"]


@dataclass(frozen=True)
class ReportFiles:
    """Where `write_report` put its files."""

    html: Path
    csv: Path
    figure: Path


def write_report(results: StudyResults, directory: str | Path) -> ReportFiles:
    """Write `<study>.html`, `.csv` and `.svg`; under the published protocol `<study>.published.*`.

    Each file replaces its predecessor in one step, so a reader never sees half a report.

    Raises
    ------
    CGDError
        The directory cannot be written.
    """
    tables = build_tables(results)
    figure = draw(tables, results.study.figure, results.study.title)
    suffix = ".published" if results.protocol == "published" else ""
    stem = Path(directory) / f"{results.study.name}{suffix}"
    files = ReportFiles(*(stem.with_name(stem.name + ending) for ending in (".html", ".csv", ".svg")))
    try:
        files.html.parent.mkdir(parents=True, exist_ok=True)
        _replace(files.html, render(results, tables, to_svg(figure, inline=True)))
        _replace(files.csv, tidy(results, tables).to_csv(index=False))
        _replace(files.figure, to_svg(figure))
    except OSError as error:
        raise CGDError(f"cannot write the report to {directory}: {error}; pass a directory you may write") from None
    return files


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def render(results: StudyResults, tables: list[DatasetTable], svg: str) -> str:
    """The page. Every text that comes from outside is escaped; only `svg` is taken as it is."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "interval": _interval, "signed": _signed, "plain": _plain}
    return environment.get_template("report.html").render(
        results=results,
        study=results.study,
        tables=[(table, verdict(results, table)) for table in tables],
        troubles=troubles(tables),
        stamp=stamp(results),
        copied=[(table.name, table.copied_share) for table in tables],
        svg=Markup(svg),
        metrics=METRICS,
        hidden=HIDDEN_METRICS if results.protocol == "published" else (),
        metric_names=METRIC_NAMES,
        primary=PRIMARY,
        paper_names=_paper_names(results),
        fixed=_fixed(results),
        trials=results.trials.astype(object).where(results.trials.notna(), None).to_dict("records"),
        confidence=PERCENT,
        n_resamples=N_RESAMPLES,
        few_genes=FEW_GENES,
    )


def stamp(results: StudyResults) -> str:
    """What every table of the published protocol must say; empty under any other."""
    if results.protocol != "published":
        return ""
    shown = 1 - results.config["evaluation.hidden_fraction"]
    return (
        f"Published protocol: all zeros and {shown:.0%} of the non-zeros of the test genes are copied from the truth."
    ).replace("%", " %")


def _paper_names(results: StudyResults) -> list[str]:
    rows = results.study.paper.values.values() if results.study.paper else ()
    return list(dict.fromkeys(name for row in rows for name in row))


def _fixed(results: StudyResults) -> dict[str, Any]:
    varied = {*results.study.paths, "seed"}
    return {path: value for path, value in results.config.items() if path not in varied}


def tidy(results: StudyResults, tables: list[DatasetTable]) -> pd.DataFrame:
    """Everything the report shows, one number a line, with its interval where it has one."""
    lines = [line for table in tables for row in table.rows for line in _lines(results, table, row)]
    if paper := results.study.paper:
        lines += [
            {"protocol": paper.protocol, "paper_name": name, "kind": "paper", "name": label}
            | {"is_default": label == results.study.default_label, "quantity": paper.metric, "value": value}
            for label, values in paper.values.items()
            for name, value in values.items()
        ]
    frame = pd.DataFrame(lines, columns=_COLUMNS).astype({"n_genes": "Int64", "n_unscored": "Int64"})
    return frame.assign(study=results.study.name)


def _lines(results: StudyResults, table: DatasetTable, row: Row) -> Iterator[dict[str, Any]]:
    known: dict[str, Any] = {"protocol": results.protocol, "dataset": table.name, "paper_name": table.paper_name}
    known |= {"kind": row.kind, "name": row.name, "is_default": row.is_default}
    estimates = dict(row.estimates) | {f"{metric}_minus_default": e for metric, e in row.differences.items()}
    for quantity, found in estimates.items():
        numbers = {"value": found.mean, "low": found.low, "high": found.high}
        yield known | {"quantity": quantity} | numbers | {"n_genes": found.n_genes, "n_unscored": found.n_unscored}
    for seed, value in row.by_seed.items():
        yield known | {"quantity": f"{PRIMARY}_minus_default_seed_{seed}", "value": value}
    if row.trials:
        counts = {f"trials_{name}": count for name, count in vars(row.trials).items()}
        costs = {"wall_seconds": row.wall_seconds, "peak_memory_mb": row.peak_memory_mb}
        for quantity, value in (counts | costs).items():
            yield known | {"quantity": quantity, "value": value}
    if row.kind == "level" and not math.isnan(table.copied_share):
        yield known | {"quantity": "copied_share", "value": table.copied_share}


def summary_text(results: StudyResults) -> str:
    """The tables in plain text, for a terminal."""
    tables = build_tables(results)
    lines = [f"{results.study.title} ({results.study.name}): {results.study.question}"]
    lines += [line for line in (stamp(results), *troubles(tables)) if line]
    for table in tables:
        width = max(len(_row_name(row)) for row in table.rows)
        lines += ["", f"{table.name}: {verdict(results, table)}"]
        header = f"{f'PCC [{PERCENT} interval]':<24}{'SSIM':>7}{'RMSE':>7}{'JS':>7}"
        if not math.isnan(table.copied_share):
            header += f"{'hidden PCC':>12}"
            lines.append(
                f"  {table.copied_share:.0%} of the scored entries are copied; hidden PCC is over the others alone"
            )
        lines.append(f"  {'':<{width}}  {header}")
        lines += [f"  {_row_name(row):<{width}}  {_row_text(row)}" for row in table.rows]
    return "\n".join(lines)


def _row_name(row: Row) -> str:
    return f"{row.title} (default)" if row.is_default else row.title


def _row_text(row: Row) -> str:
    pcc = f"{_number(row.primary.mean):>6} {_interval(row.primary)}"
    text = f"{pcc:<24}" + "".join(f"{_number(row.estimates[metric].mean):>7}" for metric in ("ssim", "rmse", "js"))
    hidden = row.estimates.get(f"hidden_{PRIMARY}")
    return text + (f"{_number(hidden.mean):>12}" if hidden else "")


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", "\u202f")


def _interval(found: Estimate) -> str:
    return f"[{_number(found.low)}, {_number(found.high)}]" if math.isfinite(found.low) else ""


def _signed(value: float) -> str:
    return signed(value) if math.isfinite(value) else "–"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
