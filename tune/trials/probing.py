"""Measuring what trials cost: a short probe of each configuration that costs something else, under Ray Tune."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cgd.data.preprocess import PreparedPair
from cgd.probe import Probe
from tune.trials.callback import Listener
from tune.trials.failure import Failure
from tune.trials.messages import TrialResult
from tune.trials.spec import Job, TrialSpec
from tune.trials.trial import Work
from tune.trials.tuning import run_tune

MOST_PROBES = 32

# Fields whose value changes what a step computes, not how much there is to compute. (`train.epochs` is multiplied in;
# a dropout, a guidance or a decay does change the work, and is not here.)
SAME_COST = frozenset(
    {
        "seed",
        "split.seed",
        "train.epochs",
        "train.patience",
        "train.tolerance",
        "train.learning_rate",
        "train.pretrain_learning_rate",
        "train.weight_decay",
        "train.warmup_fraction",
        "train.final_lr_fraction",
        "train.gradient_clip",
        "train.ema_decay",
        "train.kl_weight",
        "train.reconstruction_weight",
        "ar.max_weight",
        "ar.min_weight",
        "diffusion.schedule",
    }
)


@dataclass(frozen=True)
class Probes:
    """Outcome of probing."""

    of: Mapping[str, Probe]  # fingerprint -> probe of a trial that costs the same
    failed: Mapping[str, str]  # name of a probed trial -> why it could not be probed
    n_probed: int  # configurations
    n_borrowed: int  # configurations beyond the limit that were given the probe of the closest one
    warmup_seconds: float  # by how much the first trial of a worker takes longer than its later ones
    launch_seconds: float  # from asking for a worker to the start of its first trial


def group_by_cost(specs: Iterable[TrialSpec]) -> list[list[TrialSpec]]:
    """Trials on the same data that differ in seed, fold or fields that change no cost, together."""
    groups: dict[str, list[TrialSpec]] = {}
    for spec in specs:
        groups.setdefault(f"{spec.prepared} {sorted(select_cost_values(spec).items())!r}", []).append(spec)
    return list(groups.values())


def select_cost_values(spec: TrialSpec) -> dict[str, Any]:
    """The fields of a trial's configuration that its cost may depend on."""
    return {path: value for path, value in spec.config.flatten().items() if path not in SAME_COST}


def choose_groups(groups: Sequence[list[TrialSpec]], limit: int = MOST_PROBES) -> list[int]:
    """Which groups to probe: all up to `limit`, and beyond it the data sets in turn, at least one of each."""
    by_data: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        by_data.setdefault(group[0].prepared, []).append(index)
    in_turn = [i for row in itertools.zip_longest(*by_data.values()) for i in row if i is not None]
    return sorted(in_turn[: max(limit, len(by_data))])


def find_closest_group(group: list[TrialSpec], among: Sequence[list[TrialSpec]]) -> int:
    """Index of the group on the same data, or else data set, that differs in the fewest fields."""

    def distance(other: list[TrialSpec]) -> tuple[bool, bool, int]:
        mine, theirs = group[0], other[0]
        values, others = select_cost_values(mine), select_cost_values(theirs)
        n_different = sum(values[path] != others[path] for path in values)
        return mine.dataset != theirs.dataset, mine.prepared != theirs.prepared, n_different

    return min(range(len(among)), key=lambda i: distance(among[i]))


def run_probes(
    specs: Sequence[TrialSpec],
    datasets: Mapping[str, PreparedPair],
    output: Path,
    storage: str | None = None,
    limit: int = MOST_PROBES,
) -> Probes:
    """Probe on the connected Ray, as many at a time as it has CPUs.

    Parameters
    ----------
    specs
        Trials whose cost is wanted.
    datasets
        Prepared pairs by key.
    output
        Folder in which Ray Tune keeps its own files.
    storage
        Where the trials will keep their checkpoints for all nodes; without one, all must share the output folder.

    Raises
    ------
    KeyboardInterrupt
        The user stopped it, which Tune takes for the end of its work.
    """
    groups = group_by_cost(specs)
    chosen = [groups[i] for i in choose_groups(groups, limit)]
    probed = [group[0] for group in chosen]
    shared = {key: ray.put(datasets[key]) for key in {spec.prepared for spec in probed}}
    jobs = [Job(spec.fingerprint, spec.config, (i,)) for i, spec in enumerate(probed)]
    costs = _Costs()
    if jobs:
        work = Work("cost", [spec.replicate for spec in probed], shared, output, with_checkpoints=False)
        run_tune(work, jobs, costs, output, label="-probes", storage=storage, retries=0, keeps_files=False)
        if any(job.key not in costs.probes and job.key not in costs.failed for job in jobs):
            raise KeyboardInterrupt
    usable = [group for group in chosen if group[0].fingerprint in costs.probes]
    of: dict[str, Probe] = {}
    for group in groups:
        source = group if group in chosen else usable[find_closest_group(group, usable)] if usable else group
        if found := costs.probes.get(source[0].fingerprint):
            of |= {spec.fingerprint: found for spec in group}
    failed = {g[0].name: costs.failed[g[0].fingerprint] for g in chosen if g not in usable}
    warmup, launch = max(costs.warmup, default=0.0), min(costs.launch, default=0.0)
    return Probes(of, failed, len(chosen), len(groups) - len(chosen), warmup, launch)


class _Costs(Listener):
    """Keeps what probes measured, and why others could not measure."""

    def __init__(self) -> None:
        self.probes: dict[str, Probe] = {}
        self.failed: dict[str, str] = {}
        self.warmup: list[float] = []
        self.launch: list[float] = []

    def finish(self, key: str, result: TrialResult) -> None:
        found = result.summary
        if "warmup_seconds" in found:  # of a worker that had run no probe before
            self.warmup.append(found["warmup_seconds"])
            self.launch.append(found["launch_seconds"])
        self.probes[key] = Probe(
            setup_seconds=found["setup_seconds"],
            epoch_seconds=found["epoch_seconds"],
            predict_seconds=found["predict_seconds"],
            peak_memory_mb=found["peak_memory_mb"],
            checkpoint_mb=found["checkpoint_mb"],
            model_mb=found["model_mb"],
        )

    def fail(self, key: str, failure: Failure) -> None:
        self.failed[key] = f"{failure.kind}: {failure.message}"
