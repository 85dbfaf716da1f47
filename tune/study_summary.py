"""What MLflow shows of a study: its numbers as metrics of the parent run, and descriptions of runs in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ablations.tables import PRIMARY, DatasetTable
from cgd.config import Config

UI = "?workflowType=machine_learning"  # MLflow opens its pages for language models otherwise
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")


@dataclass(frozen=True)
class LevelNumbers:
    """Mean test PCC of one level on one data set, and its paired difference to the default (NaN: unknown)."""

    level: str
    pcc: float
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    is_default: bool = False


@dataclass(frozen=True)
class DatasetNumbers:
    """One data set of a study: its levels, the strongest floor and the ceiling (NaN: unknown)."""

    dataset: str
    levels: tuple[LevelNumbers, ...]
    floor: float = math.nan
    floor_name: str = ""
    ceiling: float = math.nan
    answer: str = ""


def numbers_of(table: DatasetTable, answer: str) -> DatasetNumbers:
    """Plain numbers of a report's table; `answer` is its verdict in a sentence."""
    levels = []
    for row in table.levels:
        difference = row.differences.get(PRIMARY)
        bounds = (difference.mean, difference.low, difference.high) if difference else (math.nan,) * 3
        levels.append(LevelNumbers(row.title, row.primary.mean, *bounds, row.is_default))
    floor = table.strongest_floor
    ceiling = next((row.primary.mean for row in table.references if row.kind == "ceiling"), math.nan)
    return DatasetNumbers(
        table.name,
        tuple(levels),
        floor.primary.mean if floor else math.nan,
        floor.title if floor else "",
        ceiling,
        answer,
    )


def study_metrics(datasets: Sequence[DatasetNumbers]) -> dict[str, float]:
    """Metrics of the parent run, finite values alone; what stands before the last `/` is a section of charts.

    `pcc/DATASET/LEVEL` (floor and ceiling among the levels), `pcc_minus_default/DATASET/LEVEL` and the bounds of its
    95 % interval, `.../LEVEL low` and `.../LEVEL high`.
    """
    metrics: dict[str, float] = {}
    for one in datasets:
        name = metric_part(one.dataset)
        found = {f"pcc/{name}/floor": one.floor, f"pcc/{name}/ceiling": one.ceiling}
        for row in one.levels:
            level = metric_part(row.level)
            change = f"pcc_minus_default/{name}/{level}"
            found[_free(f"pcc/{name}/{level}", found)] = row.pcc
            change = _free(change, found)
            found |= {change: row.difference, f"{change} low": row.low, f"{change} high": row.high}
        metrics |= {key: value for key, value in found.items() if math.isfinite(value)}
    return metrics


def metric_part(text: str) -> str:
    """`text` as a part of a metric's name: MLflow takes letters, digits and `_ - . :` and spaces."""
    part = " ".join(re.sub(r"[^\w.\-: ]", "-", text).split())[:80]
    return part if part.strip(".") else f"level {part}"  # "." and ".." would be read as folders


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """`name`, or with a number where two labels became one."""
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name} {count}"
    return free


# ---- descriptions ------------------------------------------------------------------------------------------------


def escaped(text: object) -> str:
    """Text from outside on one line of Markdown: nothing in it is a link, an image, HTML or a table's border."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def study_note(
    name: str, question: str, hypothesis: str, datasets: Sequence[DatasetNumbers], experiment_id: str, run_id: str
) -> str:
    """Description of a parent run: question, hypothesis, answer, table and links; without `datasets`, no answer yet."""
    lines = [f"### {escaped(question)}", "", f"**Hypothesis.** {escaped(hypothesis)}", ""]
    for one in datasets:
        lines += [f"**{escaped(one.dataset)}.** {escaped(one.answer)}", "", *_table(one), ""]
    return "\n".join([*lines, *_links(name, experiment_id, run_id, bool(datasets))])


def _table(one: DatasetNumbers) -> list[str]:
    lines = ["| level | mean test PCC | minus default (95 % interval) |", "|---|---|---|"]
    if math.isfinite(one.floor):
        lines.append(f"| floor: {escaped(one.floor_name)} | {_number(one.floor)} | |")
    for row in one.levels:
        mark = " (default)" if row.is_default else ""
        change = f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})" if math.isfinite(row.difference) else ""
        lines.append(f"| {escaped(row.level)}{mark} | {_number(row.pcc)} | {change} |")
    if math.isfinite(one.ceiling):
        lines.append(f"| ceiling | {_number(one.ceiling)} | |")
    return lines


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "unknown"


def _links(name: str, experiment_id: str, run_id: str, finished: bool) -> list[str]:
    runs = f"#/experiments/{experiment_id}/runs"
    query = quote(f"tags.`cgd.study.{name}` LIKE '%'", safe="")
    links = [f"[all trials of this study]({runs}{UI}&searchFilter={query})"]
    links += [f"[their curves side by side]({runs}{UI}&searchFilter={query}&compareRunsMode=CHART)"]
    if finished:
        links.insert(0, f"[the report]({runs}/{run_id}/artifacts/report)")
    return [f"See {', '.join(links)}."]


def trial_note(spec_name: str, levels: Mapping[str, str], config: Config, run_id: str, has_model: bool) -> str:
    """Description of a trial: what it is, what it does not share with the defaults, how to use its model.

    Parameters
    ----------
    spec_name
        Readable name of the trial.
    levels
        Study -> level, for every study the trial belongs to.
    """
    belongs = ", ".join(f"**{escaped(study)}** (level {escaped(level)})" for study, level in levels.items())
    defaults = Config().flatten()
    changed = {path: value for path, value in config.flatten().items() if defaults.get(path) != value}
    fixed = ", ".join(f"`{path}` = {escaped(value)}" for path, value in changed.items()) or "nothing"
    lines = [f"### {escaped(spec_name)}", "", f"One trial of {belongs}.", ""]
    lines += [f"Differs from the defaults in {fixed}; everything else is held at its default (`config.yaml`).", ""]
    if has_model:
        lines += ["```python", "import mlflow", f'model = mlflow.pyfunc.load_model("runs:/{run_id}/model")']
        lines += ['model.predict("st.h5ad", params={"genes": ["GENE"]})  # spots x genes', "```"]
    return "\n".join(lines)
