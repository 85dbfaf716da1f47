"""The rows every report shows, as numbers: per data set the floors, then the levels of the study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from ablations.findings.results import StudyResults
from ablations.findings.rows import (
    FAMILIES,
    DatasetTable,
    OlderRow,
    Predicted,
    Row,
    TrialCounts,
    is_ceiling,
    name_ceiling,
)
from ablations.statistics.intervals import N_RESAMPLES
from ablations.statistics.paired import Estimate, compare_by_seed, compare_paired, correct_family, summarise
from ablations.study.study import Combination
from cgd.metrics.facts import (
    DRAW_FLOORS,
    FLOORS,
    INTERVALS,
    JOINT_SCORES,
    METRICS,
    NOISE_CEILINGS,
    OUTCOMES,
    PRIMARY,
    REFERENCES,
)

_NOISE_CEILING, _NULL = NOISE_CEILINGS


def build_tables(results: StudyResults, n_resamples: int = N_RESAMPLES) -> list[DatasetTable]:
    """One table per data set of the study, in its order."""
    return _correct([_build_table(results, name, n_resamples) for name in results.datasets])


def _build_table(results: StudyResults, dataset: str, n_resamples: int) -> DatasetTable:
    genes = results.per_gene[results.per_gene["dataset"] == dataset]
    floors = results.floors[results.floors["dataset"] == dataset]
    expected = [name for name, floor in FLOORS.items() if results.protocol == "published" or not floor.is_fill]
    recorded = dict.fromkeys(floors["method"])
    ordered = [*expected, *NOISE_CEILINGS, *DRAW_FLOORS]
    methods = [*(m for m in ordered if m in recorded), *(m for m in recorded if m not in ordered)]
    references = [_build_reference(results, m, floors[floors["method"] == m], n_resamples) for m in methods]
    levels = [
        _build_level(results, dataset, level, genes, n_resamples) for level in results.study.combinations_on(dataset)
    ]
    effects = [row.differences[PRIMARY] for row in levels if row.differences and row.differences[PRIMARY].is_known]
    table = DatasetTable(
        name=dataset,
        facts=results.datasets[dataset],
        rows=(*references, *levels),
        absent_floors=tuple(FLOORS[method].label for method in expected if method not in recorded),
        copied_share=float(genes["copied_share"].mean()) if "copied_share" in genes and len(genes) else math.nan,
        outcomes=results.outcomes,
        floor_of=_find_best_floors(references),
        too_small=not all(effect.mde <= results.study.smallest_effect for effect in effects),  # NaN: sees nothing
        noise_known=bool(effects) and all(effect.noise_known for effect in effects),
        older=_summarise_older(results.older[results.older["dataset"] == dataset]),
    )
    versus = {metric: _compare_with_best(genes, table, metric, n_resamples) for metric in table.outcomes}
    over = {metric: _compare_with_floor(genes, floors, table, metric, n_resamples) for metric in table.outcomes}
    return replace(
        table,
        rows=tuple(
            replace(row, predicted=_find_predicted(row, floors, genes)) for row in _add_fractions(table, floors, genes)
        ),
        over_floor={metric: found for metric, found in over.items() if found is not None},
        best_versus={metric: found for metric, found in versus.items() if found},
    )


def _correct(tables: list[DatasetTable]) -> list[DatasetTable]:
    """The tables with Holm's correction over every level, data set and outcome, hidden entries in a family apart."""
    for metrics in FAMILIES:
        family = correct_family(
            row.differences.get(metric) for table in tables for row in table.rows for metric in metrics
        )
        tables = [
            replace(table, rows=tuple(_set_differences(row, metrics, family) for row in table.rows)) for table in tables
        ]
    return tables


def _set_differences(row: Row, metrics: Sequence[str], family: Iterator[Estimate | None]) -> Row:
    """The row with the next of the `family` in each metric that it has a difference in."""
    found = {metric: difference for metric in metrics if (difference := next(family))}
    return replace(row, differences={**row.differences, **found})


def _find_best_floors(references: list[Row]) -> dict[str, str]:
    """Metric -> name of the floor that does best in it."""
    floors = [row for row in references if row.kind == "floor"]
    found = {}
    for metric in dict.fromkeys(metric for row in floors for metric in row.estimates if METRICS[metric].direction):
        known = [row for row in floors if row.knows(metric)]
        if known:
            found[metric] = max(known, key=lambda row: METRICS[metric].sign * row.get_mean(metric)).name
    return found


def _add_fractions(table: DatasetTable, floors: pd.DataFrame, genes: pd.DataFrame) -> tuple[Row, ...]:
    """The rows with `fractions`: 0 is the best floor in a metric, 1 the ceiling; NaN where that is not above it.

    Floor and ceiling of a level are taken over its own folds and genes, which are fewer where trials failed.
    """
    found = []
    for row in table.rows:
        if row.kind != "level" and row.name in NOISE_CEILINGS:  # on a scale of their own (`Row.predicted`)
            found.append(row)
            continue
        own = genes.loc[genes["level"] == row.name, ["fold", "gene"]].drop_duplicates()
        seen = floors.merge(own, on=["fold", "gene"]) if row.kind == "level" else floors
        ends = _find_ends(seen, table.floor_of, list(row.estimates))
        # rounded, so that the floor itself stands at 0 whatever the order of its sum
        fractions = {m: round((e.mean - ends[m][0]) / ends[m][1], 12) for m, e in row.estimates.items()}
        found.append(replace(row, fractions=fractions))
    return tuple(found)


def _find_ends(floors: pd.DataFrame, floor_of: Mapping[str, str], metrics: list[str]) -> dict[str, tuple[float, float]]:
    """Metric -> mean of its best floor, and how far the ceiling is from there (NaN where it is no better)."""
    means = floors.groupby("method")[metrics].mean()
    ends = {}
    for metric in metrics:
        floor, ceiling = (
            float(means.loc[method, metric]) if method in means.index else math.nan
            for method in (floor_of.get(metric, ""), name_ceiling(metric))
        )
        ends[metric] = (floor, ceiling - floor if METRICS[metric].sign * (ceiling - floor) > 0 else math.nan)
    return ends


def _compare_with_best(genes: pd.DataFrame, table: DatasetTable, metric: str, n_resamples: int) -> dict[str, Estimate]:
    """Level -> level minus the best in an outcome, on the same genes."""
    if (best := table.find_best(metric)) is None:
        return {}
    reference = genes[genes["level"] == best.name]
    others = {row.name: genes[genes["level"] == row.name] for row in table.levels if row is not best}
    return {name: compare_paired(own, reference, [metric], n_resamples)[metric] for name, own in others.items()}


def _summarise_older(runs: pd.DataFrame) -> tuple[OlderRow, ...]:
    known = [name for name in OUTCOMES if name in runs]
    groups = runs.groupby(["level", "code_version"], sort=False)
    return tuple(
        OlderRow(str(level), str(version), group[known].mean().to_dict(), len(group), str(group["when"].max()))
        for (level, version), group in groups
    )


def _list_scores(results: StudyResults) -> list[str]:
    return [metric for metric in results.metrics if metric != "copied_share"]


def _build_reference(results: StudyResults, method: str, table: pd.DataFrame, n_resamples: int) -> Row:
    estimates = summarise(table, _list_scores(results), n_resamples)
    title = REFERENCES[method].label if method in REFERENCES else method
    joint = _average(table.drop_duplicates("fold"), JOINT_SCORES)  # of all genes of a fold, and so in each row of it
    return Row("ceiling" if is_ceiling(method) else "floor", method, title, estimates, {}, joint=joint)


def _build_level(results: StudyResults, dataset: str, level: Combination, genes: pd.DataFrame, n_resamples: int) -> Row:
    own = genes[genes["level"] == level.label]
    default = genes[genes["level"] == results.study.default_label]
    scores = _list_scores(results)
    trials = results.trials[(results.trials["dataset"] == dataset) & (results.trials["level"] == level.label)]
    finished = trials[trials["status"] == "FINISHED"]
    paper, name = results.study.paper, results.datasets[dataset].get("paper_name")
    worker_seconds = finished["wall_seconds"] * finished["n_workers"]
    return Row(
        kind="level",
        name=level.label,
        title=level.label,
        estimates=summarise(own, scores, n_resamples),
        differences={} if level.is_default else compare_paired(own, default, scores, n_resamples),
        by_seed={metric: compare_by_seed(own, default, metric) for metric in results.outcomes if not level.is_default},
        is_default=level.is_default,
        paper=paper.values.get(level.label, {}).get(name or "") if paper and paper.metric == PRIMARY else None,
        trials=_count_trials(trials, n_expected=len(results.trials[["seed", "fold"]].drop_duplicates())),
        errors=tuple(dict.fromkeys(str(error) for error in trials["error"] if isinstance(error, str))),
        train_seconds=float(finished["train_seconds"].mean()),
        wall_seconds=float(finished["wall_seconds"].mean()),
        peak_memory_mb=float(finished["peak_memory_mb"].max()),
        n_parameters=float(finished["n_parameters"].mean()),
        n_replicates=len(finished[["seed", "fold"]].drop_duplicates()),
        cpu_hours=_sum_hours(worker_seconds * finished["n_threads"]),
        gpu_hours=_sum_hours(worker_seconds * finished["device"].map({"cuda": 1.0, "cpu": 0.0}).astype(float)),
        intervals=_average(finished, INTERVALS),
        joint=_average(finished, JOINT_SCORES),
    )


def _average(trials: pd.DataFrame, columns: Sequence[str]) -> dict[str, float]:
    """Mean of each column over the trials that recorded it; NaN where none did."""
    return trials.reindex(columns=list(columns)).astype(float).mean().to_dict()


def _find_predicted(row: Row, floors: pd.DataFrame, genes: pd.DataFrame) -> Predicted | None:
    """How much of the predictable a level or floor predicts, over its genes of which that is known."""
    own = genes[genes["level"] == row.name] if row.kind == "level" else floors[floors["method"] == row.name]
    means = own.groupby(["fold", "gene"])[[PRIMARY]].mean()
    for method in NOISE_CEILINGS:
        known = floors[floors["method"] == method].set_index(["fold", "gene"])[PRIMARY]
        means = means.join(known.rename(method))
    known = means.dropna(subset=[PRIMARY, _NOISE_CEILING])
    if known.empty or row.kind == "ceiling":
        return None
    return Predicted(*(float(known[name].mean()) for name in (PRIMARY, _NOISE_CEILING, _NULL)))


def _sum_hours(seconds: pd.Series) -> float:
    """Their sum; NaN where any is unknown, or there is none."""
    return float(seconds.sum(skipna=False, min_count=1)) / 3600


def _count_trials(trials: pd.DataFrame, n_expected: int) -> TrialCounts:
    ok = int((trials["status"] == "FINISHED").sum())
    failed = int(trials["status"].isin(["FAILED", "KILLED"]).sum())
    return TrialCounts(ok, failed, max(n_expected, len(trials)) - ok - failed)


def _compare_with_floor(
    genes: pd.DataFrame, floors: pd.DataFrame, table: DatasetTable, metric: str, n_resamples: int
) -> Estimate | None:
    best, floor = table.find_best(metric), table.find_best_floor(metric)
    if best is None or floor is None:
        return None
    theirs = floors[floors["method"] == floor.name].drop(columns="dataset")
    return compare_paired(genes[genes["level"] == best.name], theirs, [metric], n_resamples)[metric]
