"""Command line of `tune/run_ablation.py`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ablations.study.study import list_studies, load_studies, load_study
from cgd.errors import CGDError
from tune.commands.ending import EXIT_CODES, EXIT_FAILED, EXIT_OK, Ending, run_command
from tune.commands.options import add_run_options, add_study_options, make_base_config, parse_assignment, print_datasets

if TYPE_CHECKING:  # these import torch and ray, which --help and --list do without
    from tune.terminal.logs import CommandLog


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_ablation.py",
        description="Run ablation studies of CausalGeD on Ray, log every trial to MLflow and write a report.",
        epilog=f"Trials the tracking store already has are not run again. NO_COLOR is honoured.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--study",
        metavar="NAME",
        action="append",
        help="a study by name or YAML path; repeatable; 'all' for all built in, 'paper' for the paper's five",
    )
    add_study_options(parser, seeds="the study's own, or 1", folds="the study's own, or split.n_folds")
    parser.add_argument(
        "--protocol",
        choices=["heldout_genes", "published"],
        help="what is hidden at test time (default: heldout_genes)",
    )
    add_run_options(parser)
    parser.add_argument("--list", action="store_true", help="list studies and data sets, and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    arguments.output = arguments.output.expanduser().resolve()
    return run_command("run_ablation", lambda log: _run(arguments, log), arguments.output, arguments.verbose)


def _run(arguments: argparse.Namespace, log: CommandLog) -> Ending:
    if arguments.list:
        return _list()
    if arguments.clean:
        from tune.commands.clean import clean

        return clean(arguments)
    assigned = dict(parse_assignment(text) for text in arguments.values)
    base = make_base_config(arguments, assigned, arguments.protocol)
    studies = load_studies(arguments.study or [])
    if not studies and not arguments.audit:
        raise CGDError(f"name a study with --study: {', '.join(list_studies())}, all or paper")
    from tune.cluster.connection import check_reachable
    from tune.commands.execute import execute, print_notes
    from tune.trials.plan import Planner

    check_reachable(arguments.address)
    seeds = range(base.seed, base.seed + arguments.seeds) if arguments.seeds else None
    n_folds = base.split.n_folds if arguments.folds or "split.n_folds" in assigned else None
    planner = Planner(base, arguments.dataset, seeds, n_folds)
    for study in studies:
        study.check_assigned(assigned)
        planner.add(study)
    print_notes(planner.plan)
    if arguments.audit:
        from tune.commands.audit import audit

        return Ending(EXIT_OK if audit(planner, planner.plan.base) else EXIT_FAILED)
    return execute(arguments, planner.plan, log)


def _list() -> Ending:
    print("Studies:")
    for name in list_studies():
        study = load_study(name)
        print(f"  {name:<20} {study.question}")
        print(f"  {'':<20} levels: {', '.join(study.labels)} (default {study.default_label})")
    print_datasets()
    return Ending()
