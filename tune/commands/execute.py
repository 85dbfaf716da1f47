"""What every command that runs studies does with its plan: show it, run it, say how it ended."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from ablations.report.pages.index import write_index
from cgd.errors import TrackingError
from tune.checkpoints.options import check_checkpoint_options
from tune.cluster.resources import Share
from tune.commands.dry_run import show_plan
from tune.commands.ending import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, Ending
from tune.commands.options import make_ui_command, record_arguments
from tune.commands.plan_table import describe_wait
from tune.store.errors import hide_password
from tune.store.opening import choose_store, explain_absence, name_own_store, open_store
from tune.store.reading import KILLED
from tune.terminal.logs import CommandLog
from tune.trials.conclusion import StudyOutcome
from tune.trials.forecast import load_forecast
from tune.trials.plan import Plan
from tune.trials.runner import Runner


def print_notes(plan: Plan) -> None:
    """What was matched, dropped or left out."""
    for name, notes in plan.notes.items():
        for note in notes:
            print(f"{name}: {note}")


def read_share(arguments: argparse.Namespace) -> Share:
    """What the command's options give to each trial."""
    return Share(arguments.cpus_per_worker, arguments.gpus_per_trial)


def execute(arguments: argparse.Namespace, plan: Plan, log: CommandLog) -> Ending:
    """A dry run of the plan, or the plan itself with its reports. `arguments`: of `tune.commands.options`."""
    output, share = arguments.output, read_share(arguments)
    uri = choose_store(arguments.tracking_uri, output)
    if arguments.dry_run:
        show_plan(arguments, plan, uri, share, log)
        return Ending()
    keeping = check_checkpoint_options(arguments)
    with open_store(uri, output, log) as tracking:
        forecast = load_forecast(output, plan)
        runner = Runner(
            plan,
            tracking,
            output,
            record_arguments(arguments),
            forecast=forecast,
            log_models=not arguments.no_models,
            share=share,
            keeping=keeping,
        )
        n_trials, missing = len(plan.trials), runner.find_missing()
        print(f"{n_trials} trials: {n_trials - len(missing)} in the store already, {len(missing)} to run")
        if forecast and forecast.select(missing).trials:
            print(describe_wait(forecast, missing))
        parents, complete = runner.run(arguments.resume, arguments.address, arguments.max_concurrent)
        outcomes = _conclude(runner, parents, complete)
        index = write_index(output / "reports")
    ui = make_ui_command(uri, output if uri == name_own_store(output) else None)
    return _print_outcomes(outcomes, index, ui, hide_password(uri), log)


def _conclude(runner: Runner, parents: dict[str, str], complete: bool) -> list[StudyOutcome]:
    """Every study's report. Raises UndeliveredError if the store goes away meanwhile."""
    outcomes: list[StudyOutcome] = []
    try:
        with explain_absence():
            for study in runner.plan.studies:
                outcomes.append(runner.conclude(study, parents[study.study.name], complete))
    except BaseException:  # whatever ends the command, its runs must not stay RUNNING
        with suppress(TrackingError):  # it may be the store itself that failed
            for study in runner.plan.studies[len(outcomes) :]:
                runner.tracking.end(parents[study.study.name], KILLED)
        raise
    return outcomes


def _print_outcomes(outcomes: list[StudyOutcome], index: Path, ui: str, uri: str, log: CommandLog) -> Ending:
    for outcome in outcomes:
        print(f"\n{outcome.summary}")
    print()
    for outcome in outcomes:
        print(f"Report:       {outcome.report}")
    print(f"All reports:  {index}")
    print(f"MLflow store: {uri}")
    print(f"Open the UI:  {ui}")
    print(f"Log:          {log.path}")
    failed = dict.fromkeys(pair for outcome in outcomes for pair in outcome.failed)
    missing = dict.fromkeys(name for outcome in outcomes for name in outcome.missing)
    errors = [f"FAILED  {name}: {error}" for name, error in failed]
    if missing:
        errors.append(f"stopped: {len(missing)} trials did not run; the same command with --resume continues")
        return Ending(EXIT_STOPPED, tuple(errors))
    if failed:
        errors.append(f"{len(failed)} trial(s) failed; the same command runs them again")
    return Ending(EXIT_FAILED if failed else EXIT_OK, tuple(errors))
