"""Command line of `tune/run_comparison.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.study.comparison import PROTOCOLS, Compared, make_comparison
from ablations.study.study import METHOD
from cgd.config import BROUGHT, CAUSALGED
from cgd.errors import ConfigError
from tune.commands.ending import EXIT_CODES, EXIT_FAILED, EXIT_OK, Ending, run_command
from tune.commands.options import add_run_options, add_study_options, make_base_config, parse_assignment, print_datasets

if TYPE_CHECKING:  # these import torch and ray, which --help does without
    from tune.terminal.logs import CommandLog
    from tune.trials.plan import Planner

SEEDS, FOLDS = 3, 5
BOTH = "both"
_SET_BY_OPTIONS = {METHOD: "name methods with --methods", "evaluation.protocol": "name it with --protocol"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_comparison.py",
        description="Compare CausalGeD with other methods and the floors on the same splits, and write Table I.",
        epilog=f"Trials the tracking store already has are not run again. NO_COLOR is honoured.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--methods",
        metavar="NAME,...",
        action="append",
        help="names, comma-separated or repeated; 'all', 'floors' for no other than the floors, or MODULE:CLASS of "
        "your own (default: all)",
    )
    add(
        "--predictions",
        metavar="NAME=FILE",
        action="append",
        default=[],
        help="predictions made elsewhere (.h5ad, .csv), scored in the same table; {dataset}, {fold} and {seed} stand "
        "for those of a trial; repeatable",
    )
    add_study_options(parser, seeds=str(SEEDS), folds=str(FOLDS))
    add(
        "--protocol",
        choices=[*PROTOCOLS, BOTH],
        default=BOTH,
        help="what is hidden at test time (default: both, a table each)",
    )
    add("--skip-missing", action="store_true", help="leave out methods whose packages are not installed")
    add_run_options(parser)
    add(
        "--export-splits",
        metavar="DIR",
        type=Path,
        help="write what a method may see of each data set and fold, to make predictions from, and stop",
    )
    add(
        "--write-results",
        metavar="FILE",
        type=Path,
        help="write the means of the newest comparisons in the store into this Markdown file, the whole Tables I as "
        "pages and CSV into the folder of its name, and stop",
    )
    add(
        "--comparison",
        metavar="RUN_ID",
        action="append",
        help="with --write-results: the comparisons to write, by their runs in the store; repeatable",
    )
    add("--list", action="store_true", help="list methods and data sets, and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    arguments.output = arguments.output.expanduser().resolve()
    return run_command("run_comparison", lambda log: _run(arguments, log), arguments.output, arguments.verbose)


def _run(arguments: argparse.Namespace, log: CommandLog) -> Ending:
    if arguments.list:
        from tune.comparison.methods import print_methods

        print_methods()
        print_datasets()
        return Ending()
    if arguments.clean:
        from tune.commands.clean import clean

        return clean(arguments)
    assigned = _check_options(arguments)
    if arguments.write_results:
        return _write_results(arguments)
    from tune.cluster.connection import check_reachable
    from tune.commands.execute import execute, print_notes
    from tune.comparison.methods import ALL, choose_methods, parse_brought
    from tune.trials.plan import Planner

    if arguments.folds is None and "split.n_folds" not in assigned:
        arguments.folds = FOLDS
    base = make_base_config(arguments, assigned, None)
    brought = parse_brought(arguments.predictions)
    methods, left_out = choose_methods(arguments.methods or [ALL], brought, arguments.skip_missing)
    for note in left_out:
        print(note)
    check_reachable(arguments.address)
    seeds = range(base.seed, base.seed + (arguments.seeds or SEEDS))
    files = {BROUGHT + one.name: one for one in brought}
    planner = Planner(base, arguments.dataset, seeds, base.split.n_folds, files)
    if arguments.export_splits:
        return _export(arguments.export_splits, planner)
    if arguments.audit:
        return _audit(planner, methods)
    for protocol in PROTOCOLS:
        if arguments.protocol in (BOTH, protocol):
            planner.add(make_comparison(methods, protocol))
    print_notes(planner.plan)
    return execute(arguments, planner.plan, log)


def _check_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of --set. Raises ConfigError for options that do not go together, or would have no effect."""
    if arguments.comparison and not arguments.write_results:
        raise ConfigError("--comparison needs --write-results FILE, into which these comparisons are written")
    if arguments.write_results:
        for option, given in (("--export-splits", arguments.export_splits), ("--audit", arguments.audit)):
            if given:
                raise ConfigError(f"{option} cannot stand beside --write-results; give one command for each")
    assigned = dict(parse_assignment(text) for text in arguments.values)
    for path, instead in _SET_BY_OPTIONS.items():
        if path in assigned:
            raise ConfigError(f"--set {path}: a comparison sets it itself; {instead}")
    return assigned


def _audit(planner: Planner, methods: list[Compared]) -> Ending:
    from tune.commands.audit import audit

    names = [CAUSALGED, *(one.name for one in methods if not one.name.startswith(BROUGHT))]
    for one in methods:
        if one.name not in names:
            print(f"{one.title}: predictions made elsewhere cannot be audited")
    passed = [audit(planner, planner.plan.base.with_values({"method": name}), name) for name in names]
    return Ending(EXIT_OK if all(passed) else EXIT_FAILED)


def _export(folder: Path, planner: Planner) -> Ending:
    from tune.comparison.export import export_splits

    for line in export_splits(planner, folder.expanduser()):
        print(line)
    return Ending()


def _write_results(arguments: argparse.Namespace) -> Ending:
    from tune.comparison.results_file import write_results
    from tune.store.opening import choose_store

    uri = choose_store(arguments.tracking_uri, arguments.output)
    for line in write_results(uri, arguments.write_results.expanduser(), arguments.comparison):
        print(line)
    return Ending()
