"""Command line of `tune/run_search.py`."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ablations.space import Space, list_spaces, load_space
from cgd.config import Config
from cgd.errors import CGDError
from tune.cli import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, EXIT_USAGE, _open_ui, _parse_assignment, _positive, _recorded


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_search.py",
        description="Search hyper-parameters of CausalGeD with Optuna on Ray, on validation genes alone; confirm the "
        "best over seeds and folds; compare the winner with the default once on the test genes.",
        epilog="Exit codes: 0 the search ended, 1 some final trials failed, 2 wrong arguments or data, 130 stopped "
        "with Ctrl-C. A stopped or killed search is continued by the same command with --resume.",
    )
    add = parser.add_argument
    add("--space", metavar="NAME|PATH", default="full", help="what is searched: a name or a YAML file (default: full)")
    add("--samples", metavar="N", type=_positive, default=100, help="configurations to try (default: 100)")
    add(
        "--dataset",
        metavar="NAME|PATH",
        action="append",
        help="a name, a folder, or ST.h5ad,SC.h5ad; repeatable, each weighs the same (default: simulated)",
    )
    add("--search-folds", metavar="K", type=_positive, default=1, help="validation folds per sample (default: 1)")
    add("--finalists", metavar="N", type=_positive, default=3, help="best configurations to confirm (default: 3)")
    add("--seeds", metavar="N", type=_positive, default=3, help="seeds of the confirmation and the test (default: 3)")
    add("--folds", metavar="K", type=_positive, default=2, help="validation folds of the confirmation (default: 2)")
    add(
        "--objective",
        choices=["accuracy", "pareto"],
        default="accuracy",
        help="validation PCC, or the Pareto front of it and the seconds it takes (default: accuracy)",
    )
    add("--max-memory-mb", metavar="MB", type=_megabytes, help="peak memory a winner may need")
    add(
        "--warm-start",
        metavar="FROM",
        help="try this first too: a configuration (.yaml), or the best of an earlier search (a .journal or a database "
        "URL, with #NAME where it holds several)",
    )
    add("--storage", metavar="URL", help="database of the search (default: OUTPUT/search/NAME.journal)")
    add("--name", metavar="NAME", help="name of the search (default: from its space and settings)")
    add("--max-concurrent", metavar="N", type=_positive, help="trials at a time (default: one per CPU)")
    add("--config", metavar="FILE", type=Path, help="default configuration (YAML); --set comes on top")
    add(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="values",
        help="set a configuration field; a field that the space searches is then held at this value; repeatable",
    )
    add(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("outputs"),
        help="journals, checkpoints, reports and the MLflow store (default: outputs)",
    )
    add("--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, or sqlite in --output)")
    add("--resume", action="store_true", help="continue the search that an interrupted command left")
    add("--list", action="store_true", help="list spaces and data sets, and stop")
    return parser


def _megabytes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a positive number of megabytes, got {text}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return _list() if arguments.list else _run(arguments)
    except CGDError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\nstopped; the same command with --resume continues", file=sys.stderr)
        return EXIT_STOPPED


def _list() -> int:
    from cgd.data.catalog import available

    print("Spaces:")
    for name in list_spaces():
        space = load_space(name)
        print(f"  {name:<14} {space.description}")
        print(f"  {'':<14} {len(dict.fromkeys(p.path for p in space.parameters))} fields")
    print("Data sets:")
    for name in available():
        print(f"  {name}")
    return EXIT_OK


def _inputs(arguments: argparse.Namespace) -> tuple[Space, Config]:
    values = dict(_parse_assignment(text) for text in arguments.values)
    base = (Config.from_yaml(arguments.config) if arguments.config else Config()).with_values(values)
    space = load_space(arguments.space)
    held = [path for path in values if path in {parameter.path for parameter in space.parameters}]
    if held:
        print(f"held at the given value instead of searched: {', '.join(held)}")
    return space.holding(held), base


def _run(arguments: argparse.Namespace) -> int:
    space, base = _inputs(arguments)
    from tune.search_plan import Replication, make_plan  # these import torch and ray, which --help does without

    plan = make_plan(
        space,
        base,
        arguments.dataset or ["simulated"],
        Replication(arguments.search_folds, arguments.seeds, arguments.folds),
        n_samples=arguments.samples,
        n_finalists=arguments.finalists,
        objective=arguments.objective,
        max_memory_mb=arguments.max_memory_mb,
        name=arguments.name,
    )
    for name, notes in plan.planner.plan.notes.items():
        for note in notes:
            print(f"{name}: {note}")
    return _run_plan(arguments, plan)


def _run_plan(arguments: argparse.Namespace, plan: Any) -> int:
    from tune.lock import locked
    from tune.search_command import SearchCommand
    from tune.tracking import Tracking, sqlite_file

    output = arguments.output.expanduser().resolve()
    uri = arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{output / 'mlflow.db'}"
    own_store = uri == f"sqlite:///{output / 'mlflow.db'}"
    database = sqlite_file(uri)
    with locked(output), locked(database.parent) if database and not own_store else nullcontext():
        tracking = Tracking(uri, output / "artifacts")
        if own_store:
            tracking.mark_killed()
        command = SearchCommand(plan, tracking, output, _recorded(arguments))
        command.open(arguments.storage, arguments.warm_start, arguments.resume)
        outcome = command.run(arguments.max_concurrent)
    print(f"\n{outcome.summary}\n")
    for what, where in outcome.files.items():
        print(f"{what + ':':<14}{where}")
    print(f"{'MLflow store:':<14}{uri}")
    print(f"{'Open the UI:':<14}{_open_ui(uri, output if own_store else None)}")
    if outcome.stopped:
        print("stopped; the same command with --resume continues", file=sys.stderr)
        return EXIT_STOPPED
    for name, error in outcome.failed:
        print(f"FAILED  {name}: {error}", file=sys.stderr)
    return EXIT_FAILED if outcome.failed else EXIT_OK
