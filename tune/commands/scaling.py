"""How fast a trial trains with 1, 2, ... workers, on the path trials take: `python tune/measure_scaling.py`."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from cgd.config import Config
from cgd.data.catalog import load_dataset
from cgd.data.preprocess import PreparedPair, prepare
from cgd.data.split import GeneSplit, make_splits
from cgd.parallel import ALONE, Parallel
from tune.cluster.connection import check_reachable, connect_for
from tune.cluster.resources import Request, Share
from tune.commands.ending import Ending, run_command
from tune.commands.options import parse_assignment, positive
from tune.trials.train_group import Group, Report

_STEPS = 50  # in an epoch, so that its validation weighs little
_CONFIG_HELP = (
    f"configuration (YAML); --set comes on top. Where neither names train.steps_per_epoch, epochs have {_STEPS} steps"
)
_LEFT_OUT = 1  # epochs at the start, which also pay for what torch does once


@dataclass(frozen=True)
class Speed:
    """What a trial of `n_workers` workers took."""

    n_workers: int
    steps_per_second: float  # of the median epoch, which validates once
    start_seconds: float  # from asking for the workers to the end of the first epoch
    trial_seconds: float  # from asking for the workers until they are gone


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="measure_scaling.py",
        description="Steps per second of a trial with 1 to N workers: on GPUs with --set runtime.device=cuda.",
    )
    add = parser.add_argument
    add("--dataset", metavar="NAME|PATH", default="simulated", help="a name, a folder, or ST.h5ad,SC.h5ad")
    add("--workers", metavar="N", type=positive, default=2, help="the most workers (default: 2)")
    add("--epochs", metavar="N", type=positive, default=5, help="epochs of each trial, the first left out (default: 5)")
    add("--config", metavar="FILE", type=Path, help=_CONFIG_HELP)
    add("--set", metavar="PATH=VALUE", action="append", default=[], dest="values", help="set a configuration field")
    add("--address", metavar="ADDR", default="local", help="Ray cluster to join (default: local)")
    add("--output", metavar="DIR", type=Path, default=Path("outputs"), help="where a log goes (default: outputs)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    output = arguments.output.expanduser().resolve()
    return run_command("measure_scaling", lambda log: _run(arguments, output), output, verbose=False)


def _run(arguments: argparse.Namespace, output: Path) -> Ending:
    check_reachable(arguments.address)
    config = make_config(arguments)
    counts = range(1, arguments.workers + 1)
    configs = [config.with_values({"train.n_workers": n}) for n in counts]
    requests = [Share().request(one) for one in configs]
    pair = prepare(load_dataset(arguments.dataset), config.data)
    split = make_splits(pair.panel, config.split)[0]
    output.mkdir(parents=True, exist_ok=True)
    with connect_for(requests, arguments.address, None), tempfile.TemporaryDirectory(dir=output) as scratch:
        dataset = ray.put(pair)
        print(f"{'workers':>7} {'steps/s':>9} {'speed-up':>9} {'first epoch after':>18} {'trial':>8}")
        speeds: list[Speed] = []
        for one, request in zip(configs, requests, strict=True):
            speeds.append(measure(one, request, dataset, split, Path(scratch)))
            print(_format_row(speeds[-1], speeds[0]), flush=True)
    return Ending()


def make_config(arguments: argparse.Namespace) -> Config:
    """What is measured: --set comes before --config, and that before epochs of 50 steps; --epochs holds in any case."""
    config = Config.from_yaml(arguments.config) if arguments.config else Config()
    values = dict(parse_assignment(text) for text in arguments.values)
    if "steps_per_epoch" not in config.train.model_fields_set:
        values.setdefault("train.steps_per_epoch", _STEPS)
    fixed = {"train.epochs": arguments.epochs + _LEFT_OUT, "train.patience": arguments.epochs + _LEFT_OUT}
    return config.with_values({**values, **fixed})


def _format_row(speed: Speed, first: Speed) -> str:
    ratio = speed.steps_per_second / first.steps_per_second
    return (
        f"{speed.n_workers:>7} {speed.steps_per_second:>9.2f} {ratio:>9.2f} {speed.start_seconds:>16.1f} s "
        f"{speed.trial_seconds:>6.1f} s"
    )


def measure(config: Config, request: Request, dataset: ray.ObjectRef, split: GeneSplit, scratch: Path) -> Speed:
    """Train one trial as a study would, and time it."""
    start = time.perf_counter()
    arrived: list[tuple[float, dict[str, float]]] = []
    work = partial(train, config, dataset, split)

    def report(metrics: dict[str, float]) -> None:
        arrived.append((time.perf_counter() - start, metrics))

    if request.n_workers == 1:
        remote = ray.remote(num_cpus=request.cpus, num_gpus=request.gpus, max_retries=0)(_run_alone)
        arrived = ray.get(remote.remote(work, time.time()))
    else:
        Group("scaling", request, config.runtime.device, scratch).run(work, report)
    seconds = [metrics["epoch_seconds"] for _, metrics in arrived[_LEFT_OUT:]]
    rate = config.train.steps_per_epoch / statistics.median(seconds)
    return Speed(request.n_workers, rate, arrived[0][0], time.perf_counter() - start)


def _run_alone(work: Callable[[Report, Parallel], Any], asked: float) -> list[tuple[float, dict[str, float]]]:
    found: list[tuple[float, dict[str, float]]] = []
    work(lambda metrics: found.append((time.time() - asked, metrics)), ALONE)
    return found


def train(config: Config, dataset: ray.ObjectRef, split: GeneSplit, report: Report, parallel: Parallel) -> None:
    """Fit as one of `parallel`; rank 0 reports the metrics of each epoch."""
    from cgd.evaluation import evaluate

    prepared: PreparedPair = ray.get(dataset)
    evaluate(config, prepared, split, scored="validation", parallel=parallel, on_epoch=report)
