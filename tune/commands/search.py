"""Command line of `tune/run_search.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ablations.search.aim import BOTH, CHOICES, DRAWS
from ablations.search.space import Space, list_spaces, load_space
from cgd.config import Config
from cgd.metrics.facts import PRIMARY
from tune.checkpoints.options import add_checkpoint_options, check_checkpoint_options
from tune.commands.ending import EXIT_CODES, EXIT_FAILED, EXIT_STOPPED, Ending, run_command
from tune.commands.options import (
    add_place_options,
    add_resource_options,
    add_workers,
    file_name,
    make_ui_command,
    parse_assignment,
    positive,
    positive_number,
    print_datasets,
    record_arguments,
)
from tune.store.errors import hide_password
from tune.terminal.logs import CommandLog


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_search.py",
        description="Search hyper-parameters of CausalGeD with Optuna on Ray, on validation genes alone; confirm the "
        "best over seeds and folds; compare the winner with the default once on the test genes.",
        epilog=f"{EXIT_CODES}\n\nSamples that fail are part of a search: code 1 is for the confirmation and the test.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--space", metavar="NAME|PATH", default="full", help="what is searched: a name or a YAML file (default: full)")
    add("--samples", metavar="N", type=positive, default=100, help="configurations to try (default: 100)")
    add(
        "--dataset",
        metavar="NAME|PATH",
        action="append",
        help="a name, a folder, or ST.h5ad,SC.h5ad; repeatable, each weighs the same (default: simulated)",
    )
    add("--search-folds", metavar="K", type=positive, default=1, help="validation folds per sample (default: 1)")
    add(
        "--finalists",
        metavar="N",
        type=positive,
        help=f"best configurations to confirm (default: 3; with --aim {BOTH} the best by each)",
    )
    add("--seeds", metavar="N", type=positive, default=3, help="seeds of the confirmation and the test (default: 3)")
    add("--folds", metavar="K", type=positive, default=2, help="validation folds of the confirmation (default: 2)")
    add(
        "--aim",
        choices=list(CHOICES),
        help=f"{PRIMARY}: the best guess; {DRAWS}: the draws; {BOTH}: their Pareto front; or one against seconds "
        f"(default: what the space says, else {PRIMARY})",
    )
    add("--max-memory-mb", metavar="MB", type=positive_number, help="peak memory a winner may need")
    add(
        "--warm-start",
        metavar="FROM",
        help="try this first too: a configuration (.yaml), or the best of an earlier search (a .journal or a database "
        "URL, with #NAME where it holds several)",
    )
    add("--storage", metavar="URL", help="database of the search (default: OUTPUT/search/NAME.journal)")
    add("--name", metavar="NAME", type=file_name, help="name of the search (default: from its space and settings)")
    add_resource_options(parser)
    add("--config", metavar="FILE", type=Path, help="default configuration (YAML); --set comes on top")
    add(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="values",
        help="set a configuration field; a field that the space searches is then held at this value; repeatable",
    )
    add_place_options(parser, "journals, checkpoints, reports and the MLflow store")
    add("--resume", action="store_true", help="continue the search that an interrupted command left")
    add_checkpoint_options(parser)
    add("--list", action="store_true", help="list spaces and data sets, and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    arguments.output = arguments.output.expanduser().resolve()
    return run_command("run_search", lambda log: _run(arguments, log), arguments.output, arguments.verbose)


def _list() -> Ending:
    print("Spaces:")
    for name in list_spaces():
        space = load_space(name)
        print(f"  {name:<14} {space.description}")
        print(f"  {'':<14} {len(dict.fromkeys(p.path for p in space.parameters))} fields")
    print_datasets()
    return Ending()


def _read_inputs(arguments: argparse.Namespace) -> tuple[Space, Config]:
    assigned = dict(parse_assignment(text) for text in arguments.values)
    values = add_workers(assigned, arguments.workers_per_trial)
    base = (Config.from_yaml(arguments.config) if arguments.config else Config()).with_values(values)
    space = load_space(arguments.space)
    if arguments.aim:
        space = space.aim_at(arguments.aim)
    held = [path for path in values if path in {parameter.path for parameter in space.parameters}]
    if held:
        print(f"held at the given value instead of searched: {', '.join(held)}")
    return space.hold(held), base


def _run(arguments: argparse.Namespace, log: CommandLog) -> Ending:
    if arguments.list:
        return _list()
    space, base = _read_inputs(arguments)
    # these import torch and ray, which --help and --list do without
    from tune.cluster.connection import check_reachable
    from tune.commands.execute import print_notes, read_share
    from tune.search.plan import Replication, make_plan
    from tune.search.run import SearchCommand
    from tune.store.opening import choose_store, name_own_store, open_store

    check_reachable(arguments.address)
    plan = make_plan(
        space,
        base,
        arguments.dataset or ["simulated"],
        Replication(arguments.search_folds, arguments.seeds, arguments.folds),
        n_samples=arguments.samples,
        n_finalists=arguments.finalists,
        max_memory_mb=arguments.max_memory_mb,
        name=arguments.name,
    )
    print_notes(plan.planner.plan)
    output, keeping = arguments.output, check_checkpoint_options(arguments)
    uri = choose_store(arguments.tracking_uri, output)
    with open_store(uri, output, log) as tracking:
        command = SearchCommand(plan, tracking, output, record_arguments(arguments), read_share(arguments), keeping)
        command.open(arguments.storage, arguments.warm_start, arguments.resume)
        outcome = command.run(arguments.address, arguments.max_concurrent)
    where = {
        **outcome.files,
        "MLflow store": hide_password(uri),
        "Open the UI": make_ui_command(uri, output if uri == name_own_store(output) else None),
    }
    print(f"\n{outcome.summary}\n")
    width = max(map(len, where)) + 2
    for what, place in where.items():
        print(f"{what + ':':<{width}}{place}")
    if outcome.stopped:
        return Ending(EXIT_STOPPED, ("stopped; the same command with --resume continues",))
    failed = tuple(f"FAILED  {name}: {error}" for name, error in outcome.failed)
    return Ending(EXIT_FAILED, failed) if failed else Ending()
