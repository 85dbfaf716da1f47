"""What MLflow shows of a study: its numbers as metrics of the parent run, and descriptions of runs in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ablations.findings.tables import PRIMARY, DatasetTable
from ablations.study.study import Study
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


def collect_numbers(table: DatasetTable, answer: str) -> DatasetNumbers:
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


def list_study_metrics(datasets: Sequence[DatasetNumbers]) -> dict[str, float]:
    """Metrics of the parent run, finite values alone; what stands before the last `/` is a section of charts.

    `pcc/DATASET/LEVEL` (floor and ceiling among the levels), `pcc_minus_default/DATASET/LEVEL` and the bounds of its
    95 % interval, `.../LEVEL low` and `.../LEVEL high`.
    """
    metrics: dict[str, float] = {}
    for one in datasets:
        name, levels = clean_metric_part(one.dataset), _tell_apart([row.level for row in one.levels])
        metrics |= {f"pcc/{name}/{level}": row.pcc for level, row in zip(levels, one.levels, strict=True)}
        metrics |= {f"pcc/{name}/floor": one.floor, f"pcc/{name}/ceiling": one.ceiling}
        for level, row in zip(levels, one.levels, strict=True):
            change = f"pcc_minus_default/{name}/{level}"
            metrics |= {change: row.difference, f"{change} low": row.low, f"{change} high": row.high}
    return {key: round(value, 6) for key, value in metrics.items() if math.isfinite(value)}


def _tell_apart(levels: Sequence[str]) -> list[str]:
    """Levels as parts of a metric's name, with a number where two labels would become one or stand for a floor."""
    names: list[str] = []
    for part in map(clean_metric_part, levels):
        taken, name, number = {*names, "floor", "ceiling"}, part, 1
        while name in taken:
            number += 1
            name = f"{part} {number}"
        names.append(name)
    return names


def clean_metric_part(text: str) -> str:
    """`text` as a part of a metric's name: MLflow takes letters, digits and `_ - . :` and spaces."""
    part = " ".join(re.sub(r"[^\w.\-: ]", "-", text).split())[:80]
    return part if part.strip(".") else f"level {part}"  # "." and ".." would be read as folders


# ---- descriptions ------------------------------------------------------------------------------------------------


def escaped(text: object) -> str:
    """Text from outside on one line of Markdown: nothing in it is a link, an image, HTML or a table's border."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def write_study_note(
    question: str,
    hypothesis: str,
    datasets: Sequence[DatasetNumbers],
    links: Mapping[str, str],
    opening: str = "",
) -> str:
    """Description of a parent run; without `datasets`, no answer yet.

    The answer comes first: MLflow folds all but the first lines.

    Parameters
    ----------
    links
        Words -> where they lead, as of `study_links`.
    opening
        The report's first line.
    """
    lines = [f"### {escaped(question)}", "", escaped(opening), "", f"**Hypothesis.** {escaped(hypothesis)}", ""]
    for one in datasets:
        lines += [f"**{escaped(one.dataset)}.** {escaped(one.answer)}", "", *_set_table(one), ""]
    return "\n".join([*lines, "See " + ", ".join(f"[{words}]({target})" for words, target in links.items()) + "."])


def write_parent_note(
    study: Study,
    experiment_id: str,
    run_id: str,
    datasets: Sequence[DatasetNumbers] = (),
    report: str | None = None,
    opening: str = "",
) -> str:
    """`study_note` of a study with the `study_links` of its run."""
    links = list_study_links(study.name, experiment_id, run_id, report)
    return write_study_note(study.question, study.hypothesis, datasets, links, opening)


def _set_table(one: DatasetNumbers) -> list[str]:
    lines = ["| level | mean test PCC | minus default (95 % interval) |", "|---|---:|---:|"]
    if math.isfinite(one.floor):
        lines.append(f"| floor: {escaped(one.floor_name)} | {_number(one.floor)} | |")
    for row in one.levels:
        mark = " (default)" if row.is_default else ""
        known = math.isfinite(row.difference)
        change = f"{_signed(row.difference)} ({_signed(row.low)} to {_signed(row.high)})" if known else ""
        lines.append(f"| {escaped(row.level)}{mark} | {_number(row.pcc)} | {change} |")
    if math.isfinite(one.ceiling):
        lines.append(f"| ceiling | {_number(one.ceiling)} | |")
    return lines


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # never -0.000


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "unknown"


def list_study_links(name: str, experiment_id: str, run_id: str, report: str | None = None) -> dict[str, str]:
    """Where a parent's description leads within the UI, by the words that stand there.

    Parameters
    ----------
    report
        File name of the page in the run's folder `report`, once it is attached.
    """
    runs = f"#/experiments/{experiment_id}/runs"
    query = quote(filter_study(name), safe="")
    links = {"the report": f"{runs}/{run_id}/artifacts/report/{quote(report)}"} if report else {}
    links["all trials of this study"] = f"{runs}{UI}&searchFilter={query}"
    links["the curves of the levels, laid over each other"] = (
        f"{runs}{UI}&viewStateShareKey={name_view(name)}&compareRunsMode=CHART"
    )
    return links


def filter_study(name: str) -> str:
    """MLflow query for the trials of a study, those another study computed first among them."""
    return f"tags.`cgd.study.{name}` LIKE '%'"


def name_view(name: str) -> str:
    return f"cgd-{name}"


def make_study_view(name: str, by_dataset: bool) -> dict[str, Any]:
    """State of MLflow's run page that lays a study's curves over each other, averaged by level.

    With `by_dataset` by level and data set, where there are several. The fields are those of MLflow's shared views.
    """
    tags = [f"cgd.study.{name}"] + ["cgd.dataset"] * by_dataset
    return {
        "searchFilter": filter_study(name),
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": tag} for tag in tags],
        },
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "runsHiddenMode": "FIRST_20_RUNS",
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "chartsSearchFilter": "^(val_pcc|train_loss)$",
    }


def write_trial_note(spec_name: str, levels: Mapping[str, str], config: Config, run_id: str, has_model: bool) -> str:
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
    changed = {path: value for path, value in config.flatten_used().items() if defaults.get(path) != value}
    fixed = ", ".join(f"`{path}` = {escaped(value)}" for path, value in changed.items()) or "nothing"
    lines = [f"### {escaped(spec_name)}", "", f"One trial of {belongs}.", ""]
    lines += [f"Differs from the defaults in {fixed}; everything else is held at its default (`config.yaml`).", ""]
    if has_model:
        lines += ["```python", "import mlflow", f'model = mlflow.pyfunc.load_model("runs:/{run_id}/model")']
        lines += ['model.predict("st.h5ad", params={"genes": ["GENE"]})  # spots x genes', "```"]
    return "\n".join(lines)
