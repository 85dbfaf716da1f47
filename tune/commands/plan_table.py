"""How a plan and its forecast read on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ablations.findings.study_json import Forecast
from cgd.memory import peak_memory_mb
from tune.cluster.capacity import free_disk_mb, memory_mb
from tune.store.reading import FAILED, FINISHED, RunRecord
from tune.terminal.text import format_duration, format_mb, join_lines
from tune.trials.forecast import EpochShares
from tune.trials.plan import Plan, StudyPlan
from tune.trials.probing import Probes
from tune.trials.spec import TrialSpec

_WIDE = 110  # columns from which fingerprints are shown
_MOST_FAILURES = 3


def print_plan(console: Console, plan: Plan, known: Mapping[str, RunRecord], forecast: Forecast | None) -> None:
    """A table per study, as wide as the terminal."""
    for study in plan.studies:
        console.print(f"\n{join_lines(study.study.name)}: {join_lines(study.study.question)}", soft_wrap=True)
        console.print(_make_table(study, known, forecast, console.width >= _WIDE))


def _make_table(study: StudyPlan, known: Mapping[str, RunRecord], forecast: Forecast | None, wide: bool) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="bold")
    for heading in ("level", "data set"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=8)
    for heading in ("seed", "fold"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("state", no_wrap=True)
    costs = {trial.fingerprint: trial for trial in forecast.trials} if forecast else {}
    for heading in ("time", "memory") if forecast else ():
        table.add_column(heading, no_wrap=True, justify="right")
    if wide:
        table.add_column("fingerprint", no_wrap=True)
    for level, spec in study.trials:
        row = [join_lines(level), join_lines(spec.dataset), str(spec.seed), str(spec.fold)]
        row.append(_describe_state(known, spec))
        if forecast:
            cost = costs.get(spec.fingerprint)
            row += [format_duration(cost.seconds), format_mb(cost.memory_mb)] if cost else ["", ""]
        table.add_row(*row, *([spec.fingerprint] if wide else []))
    return table


def _describe_state(known: Mapping[str, RunRecord], spec: TrialSpec) -> str:
    record = known.get(spec.fingerprint)
    if record is None:
        return "to run"
    return {FINISHED: "finished", FAILED: "failed, runs again"}.get(record.status, "interrupted, continues")


def print_forecast(console: Console, forecast: Forecast, probes: Probes, shares: EpochShares, output: Path) -> None:
    """Time, memory and disk, what was assumed, and a warning where the machine will not do."""
    console.print()
    lines = _describe_costs(forecast, probes, shares) if forecast.trials else ["no forecast: every probe failed"]
    for line in (*lines, *_describe_failures(probes), *find_shortages(forecast, memory_mb(), free_disk_mb(output))):
        console.print(line)


def _describe_costs(forecast: Forecast, probes: Probes, shares: EpochShares) -> list[str]:
    most = "as many epochs as the finished trials ran" if shares else "at most: training may stop before its last epoch"
    lines = [
        f"forecast for {len(forecast.trials)} trials, {forecast.n_concurrent} at a time:",
        f"  time    about {format_duration(forecast.wall_seconds)} ({most})",
        f"  memory  about {format_mb(_total_memory(forecast))} at the peak, this command's own included",
        f"  disk    {format_mb(forecast.kept_mb)} that stay, and {format_mb(forecast.checkpoints_mb)} while trials run",
        f"  from {probes.n_probed} probe(s): seed, fold and fields that do not change the work to be done "
        "(train.learning_rate, ar.min_weight, ...) are taken to cost the same",
    ]
    if probes.n_borrowed:
        lines.append(f"  {probes.n_borrowed} more configurations are taken to cost what the closest one probed does")
    return lines


def _describe_failures(probes: Probes) -> list[str]:
    shown = list(probes.failed.items())[:_MOST_FAILURES]
    lines = [f"  no forecast for {join_lines(name)} and its like: {join_lines(reason)[:160]}" for name, reason in shown]
    more = len(probes.failed) - len(shown)
    return [*lines, f"  and {more} more probes failed"] if more else lines


def find_shortages(forecast: Forecast, memory: float, disk: float) -> list[str]:
    """Where the forecast goes beyond the memory or the free disk of this machine, both in MB."""
    found = []
    if (needed := _total_memory(forecast)) > memory:
        found.append(
            f"WARNING: {forecast.n_concurrent} trials at a time need about {format_mb(needed)} of memory and this "
            f"machine has {format_mb(memory)}: {_advise(forecast, memory)}"
        )
    if (space := forecast.kept_mb + forecast.checkpoints_mb) > disk:
        found.append(
            f"WARNING: about {format_mb(space)} of disk are needed and {format_mb(disk)} are free: "
            "free some, or choose another --output"
        )
    return found


def _total_memory(forecast: Forecast) -> float:
    return forecast.memory_mb + (peak_memory_mb() if forecast.trials else 0.0)


def _advise(forecast: Forecast, memory: float) -> str:
    largest = max(trial.memory_mb for trial in forecast.trials)
    fitting = math.floor((memory - peak_memory_mb()) / largest)
    if fitting >= 1:
        return f"use --max-concurrent {fitting}"
    return "even one is too large; use smaller data or a smaller model"


def describe_wait(forecast: Forecast, missing: Mapping[str, TrialSpec]) -> str:
    """What to expect of a run, from an earlier forecast of the same plan."""
    part = forecast.select(missing)
    some = "" if len(part.trials) == len(missing) else f" for {len(part.trials)} of them"
    wait = format_duration(part.wall_seconds)
    return f"forecast of {forecast.made}: about {wait}{some}, {forecast.n_concurrent} at a time"
