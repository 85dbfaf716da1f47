"""Options of every command that runs studies, and the configuration they make."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from cgd.config import Config
from cgd.errors import ConfigError
from tune.checkpoints.options import add_checkpoint_options, add_clean_option
from tune.store.errors import hide_password


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def parse_assignment(text: str) -> tuple[str, Any]:
    """`PATH=VALUE` of --set as path and value. Raises ConfigError for anything else."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text}: expected PATH=VALUE, e.g. --set train.epochs=5")
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: '{value}' is not a YAML value") from None


def file_name(text: str) -> str:
    """A name that is a file's and a folder's too, for argparse."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise argparse.ArgumentTypeError(
            f"expected letters, digits, '.', '_' and '-', a letter or digit first; got {text}"
        )
    return text


def print_datasets() -> None:
    """The data sets a command can name, for --list."""
    from cgd.data.catalog import list_datasets  # imports anndata, which --help does without

    print("Data sets:")
    for name in list_datasets():
        print(f"  {name}")


def record_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments as JSON can hold them, without passwords: they are kept beside the results."""
    values = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    return {key: hide_password(value) if isinstance(value, str) else value for key, value in values.items()}


def make_ui_command(uri: str, output: Path | None) -> str:
    """The command that opens the UI, without a password; `output` is the folder of our own store."""
    if output is None:
        uri = hide_password(uri)
        server = f"mlflow server --host 127.0.0.1 --gunicorn-opts '--threads 4' --backend-store-uri {shlex.quote(uri)}"
        return uri if uri.startswith("http") else server
    folder = "" if output == Path("outputs").resolve() else f" OUTPUT={shlex.quote(str(output))}"
    return f"make ui{folder}  (http://127.0.0.1:5000)"


def add_study_options(parser: argparse.ArgumentParser, seeds: str, folds: str) -> None:
    """What is run and where; `seeds` and `folds` say what holds where none are given."""
    add = parser.add_argument
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
        help=f"replicates: training seeds seed..seed+N-1 (default: {seeds})",
    )
    add("--folds", metavar="K", type=positive, help=f"gene folds; 1 is one 70/20/10 split (default: {folds})")
    add(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="values",
        help="set a configuration field, e.g. train.epochs=5; repeatable",
    )
    add("--config", metavar="FILE", type=Path, help="base configuration (YAML); --set comes on top")
    add_place_options(parser, "checkpoints, reports and the MLflow store")


def add_place_options(parser: argparse.ArgumentParser, content: str) -> None:
    """Where it runs and where results go; `content` says what the output folder holds."""
    add = parser.add_argument
    add("--output", metavar="DIR", type=Path, default=Path("outputs"), help=f"{content} (default: outputs)")
    add("--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, or sqlite in --output)")
    add("--address", metavar="ADDR", default="local", help="Ray cluster to join: auto or HOST:PORT (default: local)")
    add("--verbose", action="store_true", help="show on the terminal, too, what libraries log, and Ray's workers print")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How it is run, and what is only shown."""
    add_resource_options(parser)
    add = parser.add_argument
    add("--resume", action="store_true", help="continue what an interrupted command left; says so where nothing is")
    add(
        "--dry-run",
        action="store_true",
        help="print the trials, what the store has of them and a forecast of time, memory and disk, and stop",
    )
    add("--no-forecast", action="store_true", help="with --dry-run: no forecast, which runs a few steps of trials")
    add("--no-models", action="store_true", help="do not attach the fitted models to the trials' runs")
    add_checkpoint_options(parser)
    add_clean_option(parser)
    add(
        "--audit",
        action="store_true",
        help="leak audit: replace the hidden truth by noise and compare predictions bit for bit",
    )


def add_resource_options(parser: argparse.ArgumentParser) -> None:
    """What each trial gets, and how many run at a time."""
    add = parser.add_argument
    add("--max-concurrent", metavar="N", type=positive, help="trials at a time (default: as many as fit)")
    add(
        "--workers-per-trial",
        metavar="N",
        type=positive,
        help="processes that train a trial together, on one machine or several (default: train.n_workers, 1)",
    )
    add(
        "--cpus-per-worker",
        metavar="CPUS",
        type=positive_number,
        help="CPUs a worker counts for (default: runtime.n_threads)",
    )
    add(
        "--gpus-per-trial",
        metavar="GPUS",
        type=positive_number,
        help="with runtime.device=cuda: a part such as 0.25 lets trials of one worker share a GPU (default: one for "
        "each worker)",
    )


def add_workers(assigned: dict[str, Any], n_workers: int | None) -> dict[str, Any]:
    """The values of --set and what --workers-per-trial says. Raises ConfigError where they contradict each other."""
    if n_workers is None:
        return assigned
    if assigned.get("train.n_workers", n_workers) != n_workers:
        found = assigned["train.n_workers"]
        raise ConfigError(f"--workers-per-trial {n_workers} and --set train.n_workers={found}: give one of them")
    return {**assigned, "train.n_workers": n_workers}


def make_base_config(arguments: argparse.Namespace, assigned: dict[str, Any], protocol: str | None) -> Config:
    """The command's configuration: the file, then `assigned` (dotted path -> value), folds and protocol."""
    config = Config.from_yaml(arguments.config) if arguments.config else Config()
    values = dict(add_workers(assigned, arguments.workers_per_trial))
    if arguments.folds:
        values["split.n_folds"] = arguments.folds
    if protocol:
        values["evaluation.protocol"] = protocol
    return config.with_values(values)
