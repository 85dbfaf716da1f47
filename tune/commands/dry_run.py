"""What a command would do: its trials, what the store has of them, and what the rest will cost."""

from __future__ import annotations

import argparse

import ray

from tune.cluster.connection import check_here, connect_for
from tune.cluster.resources import Request, Share, has_groups
from tune.commands.plan_table import print_forecast, print_plan
from tune.store.errors import hide_password
from tune.store.reading import FINISHED, open_reader
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


def show_plan(arguments: argparse.Namespace, plan: Plan, uri: str, share: Share, log: CommandLog) -> None:
    """Print the plan and, unless everything is finished, a forecast from probes, which is kept.

    `arguments` are those of the real run, `share` what it gives to each trial; looking does not create the store.
    """
    console, output, store = make_console(), arguments.output, open_reader(uri)
    known = store.find_runs("trial") if store else {}
    missing = [spec for key, spec in plan.trials.items() if key not in known or known[key].status != FINISHED]
    requests = [share.request(spec.config) for spec in missing]
    probed = [spec for spec in missing if spec.has_epochs]
    if probed and not arguments.no_forecast:
        log.open(output)
        n = len(group_by_cost(probed))
        console.print(f"probing what {len(probed)} trials cost, {n} configurations (--no-forecast skips it) ...")
        names = [study.study.name for study in plan.studies]
        shares = measure_epoch_shares(store.find_finished("trial"), names) if store else {}
        forecast, probes = _forecast(arguments, plan, probed, shares, requests)
        print_plan(console, plan, known, forecast)
        print_forecast(console, forecast, probes, shares, output)
        if has_groups(requests):
            console.print(
                "  of several workers each is taken to need the memory of one, and seconds are those of one "
                f"worker and {GROUP_START_SECONDS:g} for the start of a group",
                soft_wrap=True,
            )
        if left := len(missing) - len(probed):
            console.print(f"  {left} trials of other methods are not in it: they have no steps to probe")
        if forecast.trials:
            save_forecast(output, plan, forecast)
    else:
        _check(requests, arguments.address, arguments.max_concurrent)
        print_plan(console, plan, known, None)
    n_trials, n_finished = len(plan.trials), len(plan.trials) - len(missing)
    text = f"\n{n_trials} distinct trials: {n_finished} finished in {hide_password(uri)}, {len(missing)} to run"
    console.print(text, soft_wrap=True)


def _check(requests: list[Request], address: str, max_concurrent: int | None) -> None:
    """Raise ResourceError if a trial could never run; a cluster has to be asked."""
    check_here(requests, address, max_concurrent)
    if requests and address != "local":
        with connect_for(requests, address, max_concurrent):
            return


def _forecast(
    arguments: argparse.Namespace, plan: Plan, specs: list[TrialSpec], shares: EpochShares, requests: list[Request]
) -> tuple[Forecast, Probes]:
    with connect_for(requests, arguments.address, arguments.max_concurrent) as limit:
        check_nodes(arguments.output, storage=arguments.checkpoint_storage)
        n_cpus = int(ray.cluster_resources().get("CPU", 1))
        probes = run_probes(specs, plan.datasets, arguments.output, arguments.checkpoint_storage)
    probed = [(spec, probes.of[spec.fingerprint]) for spec in specs if spec.fingerprint in probes.of]
    trials = [forecast_trial(spec, probe, shares, not arguments.no_models) for spec, probe in probed]
    return make_forecast(trials, limit or max(n_cpus, 1), probes.warmup_seconds, probes.launch_seconds), probes
