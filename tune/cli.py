"""Command line of `tune/run_ablation.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.study import list_studies, load_studies, load_study
from cgd.config import Config
from cgd.errors import CGDError
from tune.arguments import open_ui, own_store, parse_assignment, positive, print_datasets, recorded, without_password
from tune.command import EXIT_CODES, EXIT_FAILED, EXIT_OK, EXIT_STOPPED, Ending, run_command

if TYPE_CHECKING:  # these import torch and ray, which --help and --list do without
    from tune.forecast import Forecast
    from tune.log_files import CommandLog
    from tune.plan import Plan, Planner
    from tune.runner import Runner, StudyOutcome


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_ablation.py",
        description="Run ablation studies of CausalGeD on Ray, log every trial to MLflow and write a report.",
        epilog=f"Trials the tracking store already has are not run again. NO_COLOR is honoured.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--study",
        metavar="NAME",
        action="append",
        help="a study by name or YAML path; repeatable; 'all' for all built in, 'paper' for the paper's five",
    )
    add(
        "--dataset",
        metavar="NAME|PATH",
        action="append",
        help="a name, a folder, or ST.h5ad,SC.h5ad; repeatable (default: the study's own, or simulated)",
    )
    add(
        "--seeds",
        metavar="N",
        type=positive,
        help="replicates: training seeds seed..seed+N-1 (default: the study's own, or 1)",
    )
    add(
        "--folds",
        metavar="K",
        type=positive,
        help="gene folds; 1 is one 70/20/10 split (default: the study's own, or split.n_folds)",
    )
    add(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="values",
        help="set a configuration field, e.g. train.epochs=5; repeatable",
    )
    add("--config", metavar="FILE", type=Path, help="base configuration (YAML); --set comes on top")
    add(
        "--protocol",
        choices=["heldout_genes", "published"],
        help="what is hidden at test time (default: heldout_genes)",
    )
    add(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("outputs"),
        help="checkpoints, reports and the MLflow store (default: outputs)",
    )
    add("--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, or sqlite in --output)")
    add("--max-concurrent", metavar="N", type=positive, help="trials at a time (default: one per CPU)")
    add("--address", metavar="ADDR", default="local", help="Ray cluster to join: auto or HOST:PORT (default: local)")
    add("--resume", action="store_true", help="continue what an interrupted command left; says so where nothing is")
    add(
        "--dry-run",
        action="store_true",
        help="print the trials, what the store has of them and a forecast of time, memory and disk, and stop",
    )
    add("--no-forecast", action="store_true", help="with --dry-run: no forecast, which runs a few steps of trials")
    add("--no-models", action="store_true", help="do not attach the fitted models to the trials' runs")
    add("--verbose", action="store_true", help="show on the terminal, too, what libraries log, and Ray's workers print")
    add(
        "--audit",
        action="store_true",
        help="leak audit: replace the hidden truth by noise and compare predictions bit for bit",
    )
    add("--list", action="store_true", help="list studies and data sets, and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    arguments.output = arguments.output.expanduser().resolve()
    return run_command("run_ablation", lambda log: _run(arguments, log), arguments.output, arguments.verbose)


def _run(arguments: argparse.Namespace, log: CommandLog) -> Ending:
    if arguments.list:
        return _list()
    assigned = dict(parse_assignment(text) for text in arguments.values)
    base = _base_config(arguments, assigned)
    studies = load_studies(arguments.study or [])
    if not studies and not arguments.audit:
        raise CGDError(f"name a study with --study: {', '.join(list_studies())}, all or paper")
    from tune.cluster import check_reachable
    from tune.plan import Planner
    from tune.store import store_uri

    check_reachable(arguments.address)
    seeds = range(base.seed, base.seed + arguments.seeds) if arguments.seeds else None
    n_folds = base.split.n_folds if arguments.folds or "split.n_folds" in assigned else None
    planner = Planner(base, arguments.dataset, seeds, n_folds)
    for study in studies:
        study.check_assigned(assigned)
        planner.add(study)
    for name, notes in planner.plan.notes.items():
        for note in notes:
            print(f"{name}: {note}")
    if arguments.audit:
        return _audit(planner)
    uri = store_uri(arguments.tracking_uri, arguments.output)
    if arguments.dry_run:
        from tune.dry_run import DryRun

        how = (arguments.address, arguments.max_concurrent, not arguments.no_models)
        DryRun(planner.plan, uri, arguments.output, *how).show(log, with_forecast=not arguments.no_forecast)
        return Ending()
    return _run_studies(arguments, planner.plan, uri, log)


def _list() -> Ending:
    print("Studies:")
    for name in list_studies():
        study = load_study(name)
        print(f"  {name:<20} {study.question}")
        print(f"  {'':<20} levels: {', '.join(study.labels)} (default {study.default_label})")
    print_datasets()
    return Ending()


def _base_config(arguments: argparse.Namespace, assigned: dict[str, Any]) -> Config:
    config = Config.from_yaml(arguments.config) if arguments.config else Config()
    values = dict(assigned)
    if arguments.folds:
        values["split.n_folds"] = arguments.folds
    if arguments.protocol:
        values["evaluation.protocol"] = arguments.protocol
    return config.with_values(values)


def _audit(planner: Planner) -> Ending:
    from cgd.data.split import make_splits
    from cgd.evaluation import audit_leakage

    passed = True
    for name, key in planner.under_base().items():
        prepared, config = planner.plan.datasets[key], planner.plan.base
        for split in make_splits(prepared.panel, config.split):
            audit = audit_leakage(config, prepared, split)
            passed &= audit.identical
            verdict = "bit-identical" if audit.identical else f"DIFFERS by up to {audit.largest_difference:.3g}"
            print(f"{name}, fold {split.fold}: {audit.n_values} values, {verdict} with the truth replaced by noise")
    return Ending(EXIT_OK if passed else EXIT_FAILED)


def _run_studies(arguments: argparse.Namespace, plan: Plan, uri: str, log: CommandLog) -> Ending:
    from ablations.report.index import write_index
    from tune.forecast import load_forecast
    from tune.runner import Runner
    from tune.store import opened

    output = arguments.output
    with opened(uri, output, log) as tracking:
        forecast = load_forecast(output, plan)
        record = forecast.to_record() if forecast else None
        log_models = not arguments.no_models
        runner = Runner(plan, tracking, output, recorded(arguments), forecast=record, log_models=log_models)
        _announce(runner, len(plan.trials), forecast)
        parents, complete = runner.run(arguments.resume, arguments.address, arguments.max_concurrent)
        outcomes = [runner.conclude(study, parents[study.study.name], complete) for study in plan.studies]
        index = write_index(output / "reports")
    return _print_outcomes(outcomes, index, uri, output if uri == own_store(output) else None, log)


def _announce(runner: Runner, n_trials: int, forecast: Forecast | None) -> None:
    from tune.plan_table import describe_wait

    missing = runner.missing()
    print(f"{n_trials} trials: {n_trials - len(missing)} in the store already, {len(missing)} to run")
    if forecast and forecast.of(missing).trials:
        print(describe_wait(forecast, missing))


def _print_outcomes(
    outcomes: list[StudyOutcome], index: Path, uri: str, output: Path | None, log: CommandLog
) -> Ending:
    for outcome in outcomes:
        print(f"\n{outcome.summary}")
    print()
    for outcome in outcomes:
        print(f"Report:       {outcome.report}")
    print(f"All reports:  {index}")
    print(f"MLflow store: {without_password(uri)}")
    print(f"Open the UI:  {open_ui(uri, output)}")
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
