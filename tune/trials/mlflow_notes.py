"""What MLflow shows of a study: its numbers as metrics of the parent run, and descriptions of runs in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ablations.findings.rows import DatasetTable
from ablations.findings.wording import CONFIDENCE_PERCENT, format_interval, format_number, format_signed
from ablations.report.content import Content
from ablations.report.formats.markdown import escape
from ablations.statistics.paired import Estimate
from ablations.study.study import Study
from cgd.config import Config
from cgd.metrics.facts import CEILING, METRICS

UI = "?workflowType=machine_learning"  # MLflow opens its pages for language models otherwise
FLOOR = "floor"


def list_study_metrics(tables: Sequence[DatasetTable]) -> dict[str, float]:
    """Metrics of the parent run, finite values alone; what stands before the last `/` is a section of charts.

    Of each outcome, such as PCC: `pcc/DATASET/LEVEL` (floor and ceiling among the levels),
    `pcc_minus_default/DATASET/LEVEL` and the bounds of its 95 % interval, `.../LEVEL low` and `.../LEVEL high`.
    """
    metrics: dict[str, float] = {}
    for table in tables:
        for metric in table.outcomes:
            metrics |= _list_outcome_metrics(table, metric)
    return {key: round(value, 6) for key, value in metrics.items() if math.isfinite(value)}


def _list_outcome_metrics(table: DatasetTable, metric: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    name = clean_metric_part(table.name)
    for end, row in ((FLOOR, table.find_best_floor(metric)), (CEILING, table.find_ceiling(metric))):
        metrics |= {f"{metric}/{name}/{end}": row.get_mean(metric)} if row else {}
    for level, row in zip(_tell_apart([row.title for row in table.levels]), table.levels, strict=True):
        metrics[f"{metric}/{name}/{level}"] = row.get_mean(metric)
        if (found := row.differences.get(metric)) is not None:
            change = f"{metric}_minus_default/{name}/{level}"
            metrics |= {change: found.mean, f"{change} low": found.low, f"{change} high": found.high}
    return metrics


def _tell_apart(levels: Sequence[str]) -> list[str]:
    """Levels as parts of a metric's name, with a number where two labels would become one or stand for a floor."""
    names: list[str] = []
    for part in map(clean_metric_part, levels):
        taken, name, number = {*names, FLOOR, CEILING}, part, 1
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


def write_parent_note(
    study: Study, experiment_id: str, run_id: str, content: Content | None = None, report: str | None = None
) -> str:
    """Description of a parent run, the answer first: MLflow folds all but the first lines.

    Parameters
    ----------
    content
        What the report says; no answer yet without it.
    report
        File name of the page in the run's folder `report`, once it is attached.
    """
    opening = content.headline if content else ""
    lines = [f"### {escape(study.question)}", "", escape(opening), ""]
    lines += [f"**Hypothesis.** {escape(study.hypothesis)}", ""]
    for table, (name, answer) in zip(content.tables, content.verdicts, strict=True) if content else ():
        lines += [f"**{escape(name)}.** {escape(answer)}", "", *_set_table(table), ""]
    links = list_study_links(study.name, experiment_id, run_id, report)
    return "\n".join([*lines, "See " + ", ".join(f"[{words}]({target})" for words, target in links.items()) + "."])


def _set_table(table: DatasetTable) -> list[str]:
    """Two columns for each outcome."""
    change = f"minus default ({CONFIDENCE_PERCENT} interval)"
    heads = [f" mean test {METRICS[metric].label} | {change} |" for metric in table.outcomes]
    lines = [f"| level |{''.join(heads)}", f"|---|{'---:|---:|' * len(table.outcomes)}"]
    floors = {metric: row for metric in table.outcomes if (row := table.find_best_floor(metric))}
    for row in {row.name: row for row in floors.values()}.values():
        means = (format_number(row.get_mean(m)) if floors.get(m) is row else "" for m in table.outcomes)
        lines.append(f"| {FLOOR}: {escape(row.title)} |{''.join(f' {mean} | |' for mean in means)}")
    for row in table.levels:
        cells = (f" {format_number(row.get_mean(m))} | {_set_change(row.differences.get(m))} |" for m in table.outcomes)
        lines.append(f"| {escape(row.title)}{' (default)' * row.is_default} |{''.join(cells)}")
    tops = [table.find_ceiling(metric) for metric in table.outcomes]
    means = (
        f" {format_number(row.get_mean(m)) if row else ''} | |" for m, row in zip(table.outcomes, tops, strict=True)
    )
    return lines + [f"| {CEILING} |{''.join(means)}"] * any(tops)


def _set_change(found: Estimate | None) -> str:
    return f"{format_signed(found.mean)} {format_interval(found, sign=True)}" if found and found.is_known else ""


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
    belongs = ", ".join(f"**{escape(study)}** (level {escape(level)})" for study, level in levels.items())
    defaults = Config().flatten()
    changed = {path: value for path, value in config.flatten_used().items() if defaults.get(path) != value}
    fixed = ", ".join(f"`{path}` = {escape(str(value))}" for path, value in changed.items()) or "nothing"
    lines = [f"### {escape(spec_name)}", "", f"One trial of {belongs}.", ""]
    lines += [f"Differs from the defaults in {fixed}; everything else is held at its default (`config.yaml`).", ""]
    if has_model:
        lines += ["```python", "import mlflow", f'model = mlflow.pyfunc.load_model("runs:/{run_id}/model")']
        lines += ['model.predict("st.h5ad", params={"genes": ["GENE"]})  # spots x genes', "```"]
    return "\n".join(lines)
