"""What a command would do: its trials, what the store has of them, and what the rest will cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray

from tune.cluster.connection import check_here, connect_for
from tune.cluster.resources import NO_SHARE, Request, Share, has_groups
from tune.commands.plan_table import print_forecast, print_plan
from tune.store.errors import hide_password
from tune.store.reading import FINISHED, RunRecord, open_reader
from tune.terminal.logs import CommandLog
from tune.terminal.text import make_console
from tune.trials.forecast import (
    GROUP_START_SECONDS,
    EpochShares,
    Forecast,
    forecast_trial,
    make_forecast,
    measure_epoch_shares,
    save_forecast,
)
from tune.trials.plan import Plan
from tune.trials.preflight import check_nodes
from tune.trials.probing import Probes, group_by_cost, run_probes
from tune.trials.spec import TrialSpec


@dataclass(frozen=True)
class DryRun:
    """A plan, and where and how it would run.

    Attributes
    ----------
    plan
        What would run.
    uri
        The tracking store; looking does not create it.
    output
        Folder in which the forecast is kept.
    address, max_concurrent, log_models, share, storage
        As for the real run.
    """

    plan: Plan
    uri: str
    output: Path
    address: str
    max_concurrent: int | None
    log_models: bool
    share: Share = NO_SHARE
    storage: str | None = None

    def show(self, log: CommandLog, with_forecast: bool) -> None:
        """Print the plan and, unless everything is finished, a forecast from probes, which is kept."""
        plan, console, store = self.plan, make_console(), open_reader(self.uri)
        known = store.find_runs("trial") if store else {}
        missing = find_unfinished(plan, known)
        requests = [self.share.request(spec.config) for spec in missing]
        probed = [spec for spec in missing if spec.has_epochs]
        if with_forecast and probed:
            log.open(self.output)
            n = len(group_by_cost(probed))
            console.print(f"probing what {len(probed)} trials cost, {n} configurations (--no-forecast skips it) ...")
            names = [study.study.name for study in plan.studies]
            shares = measure_epoch_shares(store.find_finished("trial"), names) if store else {}
            forecast, probes = self._forecast(probed, shares, requests)
            print_plan(console, plan, known, forecast)
            print_forecast(console, forecast, probes, shares, self.output)
            if has_groups(requests):
                console.print(
                    "  of several workers each is taken to need the memory of one, and seconds are those of one "
                    f"worker and {GROUP_START_SECONDS:g} for the start of a group",
                    soft_wrap=True,
                )
            if left := len(missing) - len(probed):
                console.print(f"  {left} trials of other methods are not in it: they have no steps to probe")
            if forecast.trials:
                save_forecast(self.output, plan, forecast)
        else:
            self._check(requests)
            print_plan(console, plan, known, None)
        n_trials, n_finished = len(plan.trials), len(plan.trials) - len(missing)
        place = hide_password(self.uri)
        text = f"\n{n_trials} distinct trials: {n_finished} finished in {place}, {len(missing)} to run"
        console.print(text, soft_wrap=True)

    def _check(self, requests: list[Request]) -> None:
        """Raise ResourceError if a trial could never run; a cluster has to be asked."""
        check_here(requests, self.address, self.max_concurrent)
        if requests and self.address != "local":
            with connect_for(requests, self.address, self.max_concurrent):
                return

    def _forecast(
        self, specs: list[TrialSpec], shares: EpochShares, requests: list[Request]
    ) -> tuple[Forecast, Probes]:
        with connect_for(requests, self.address, self.max_concurrent) as limit:
            check_nodes(self.output, storage=self.storage)
            n_cpus = int(ray.cluster_resources().get("CPU", 1))
            probes = run_probes(specs, self.plan.datasets, self.output)
        probed = [(spec, probes.of[spec.fingerprint]) for spec in specs if spec.fingerprint in probes.of]
        trials = [forecast_trial(spec, probe, shares, self.log_models) for spec, probe in probed]
        slots = limit or max(n_cpus, 1)
        return make_forecast(trials, slots, probes.warmup_seconds, probes.launch_seconds), probes


def find_unfinished(plan: Plan, known: Mapping[str, RunRecord]) -> list[TrialSpec]:
    """Trials the store has no finished run of, in the order they will run."""
    return [spec for key, spec in plan.trials.items() if key not in known or known[key].status != FINISHED]
