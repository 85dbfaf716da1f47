"""What a search will do, decided before anything runs: its space, its data and which genes each stage may look at.

The genes are divided once. One set of test genes is held out of everything; the others are divided again into folds of
training and validation genes, disjoint in their validation genes. Searching and choosing among the finalists see these
folds alone. (Ordinary k-fold splits would not do: there every gene is a test gene of one fold, so the validation genes
of a fold are test genes of others, and choosing by them is choosing by the test.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ablations.search.aim import AIMS, DRAWS, SECONDS
from ablations.search.space import Space
from cgd.config import CAUSALGED, Config, says_where
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import hide
from cgd.data.split import GeneSplit, make_splits
from cgd.errors import ConfigError, DataError
from cgd.metrics.facts import PRIMARY
from cgd.version import code_version
from tune.trials.plan import Planner
from tune.trials.spec import Replicate

_N_DRAWS = "sampling.n_samples"


@dataclass(frozen=True)
class SearchPlan:
    """A search before it runs."""

    name: str  # of the Optuna study, of the journal and of the folder of results
    space: Space  # what is searched and aimed at; it holds the base configuration
    base: Config
    planner: Planner  # the data sets, prepared; it plans the final comparison on the test genes
    dataset_keys: dict[str, str]  # name of a data set -> its key among the prepared ones
    candidates: tuple[Replicate, ...]  # where a sample is scored: one seed, the first folds
    confirmation: tuple[Replicate, ...]  # where the finalists are scored: other seeds, all folds
    n_samples: int  # configurations to try
    n_finalists: int  # how many of the best to confirm
    max_memory_mb: float | None  # the peak memory a configuration may need; None: any
    settings: dict[str, Any]  # everything a result depends on; a search is continued under the same settings alone


@dataclass(frozen=True)
class Replication:
    """How often a configuration is scored: folds of the search, and seeds and folds of the confirmation."""

    search_folds: int = 1
    seeds: int = 3
    folds: int = 2


def make_plan(
    space: Space,
    base: Config,
    datasets: list[str],
    replication: Replication,
    *,
    n_samples: int,
    n_finalists: int | None = None,
    max_memory_mb: float | None = None,
    name: str | None = None,
) -> SearchPlan:
    """Read the data and divide the genes; without `n_finalists`, three, or the best by each of several outcomes.

    Raises
    ------
    ConfigError, DataError
        The configuration asks for another division of the genes, or the data cannot be used for it.
    """
    _check(base, replication)
    widened = space.include(base)
    _check_draws(widened, base)
    seeds = list(range(base.seed + 1, base.seed + 1 + replication.seeds))
    planner = Planner(base, datasets, seeds, n_folds=1)
    keys = planner.prepare_under_base()
    n_folds = max(replication.folds, replication.search_folds)
    folds = {name: _divide(base, planner.plan.datasets[key], n_folds) for name, key in keys.items()}
    counts_seconds = any(aim.name == SECONDS for aim in space.aims)
    settings = {
        "space": widened.model_dump(mode="json"),
        "config": {
            path: value
            for path, value in base.flatten().items()
            if counts_seconds or not says_where(path)  # seconds depend on it, scores do not
        },
        "datasets": {name: planner.plan.datasets[key].sha256 for name, key in keys.items()},
        "search_folds": replication.search_folds,
        "max_memory_mb": max_memory_mb,
        "code_version": code_version(),
    }
    return SearchPlan(
        name or f"{space.name}-{widened.fingerprint(settings)[:8]}",
        widened,
        base,
        planner,
        keys,
        _list_replicates(keys, folds, [base.seed], replication.search_folds),
        _list_replicates(keys, folds, seeds, replication.folds),
        n_samples,
        n_finalists or (3 if len(space.outcomes) == 1 else len(space.outcomes)),
        max_memory_mb,
        settings,
    )


def _check(base: Config, replication: Replication) -> None:
    if base.method != CAUSALGED:
        raise ConfigError(f"method is {base.method}: a search is of {CAUSALGED}; remove it")
    if base.split.n_folds != 1:
        raise ConfigError(
            f"split.n_folds is {base.split.n_folds}: with several test folds the validation genes of one are test "
            "genes of another, and a search would choose by them. Leave it at 1; --folds divides the genes that are "
            "no test genes"
        )
    if base.evaluation.protocol != "heldout_genes":
        raise ConfigError(
            f"evaluation.protocol is {base.evaluation.protocol}: a search scores genes that were hidden whole; "
            "remove it and run the winner under that protocol with run_ablation.py"
        )
    if replication.search_folds > replication.folds:
        raise ConfigError(
            f"--search-folds {replication.search_folds} is more than --folds {replication.folds}: the confirmation "
            "scores on every fold that the search saw"
        )


def _check_draws(space: Space, base: Config) -> None:
    """Refuse a search by the draws among whose configurations are some that draw less than twice."""
    if AIMS[DRAWS] not in space.aims:
        return
    advice = f"{AIMS[DRAWS].label} compares draws and needs {_N_DRAWS} >= 2; --aim {PRIMARY} needs none"
    if base.sampling.n_samples < 2:
        raise ConfigError(f"{_N_DRAWS} is {base.sampling.n_samples} and the aim is {space.aim}: {advice}")
    for parameter in space.parameters:
        if parameter.path == _N_DRAWS and any(parameter.holds(few) for few in (0, 1)):
            raise ConfigError(f"space '{space.name}' searches {_N_DRAWS} below 2 and the aim is {space.aim}: {advice}")


def _divide(base: Config, prepared: PreparedPair, n_folds: int) -> list[GeneSplit]:
    folds = validation_folds(make_splits(prepared.panel, base.split)[0], prepared.panel, n_folds, base.split.seed)
    for split in folds:
        hide(prepared, split, base)  # data that cannot be used is found now
    return folds


def _list_replicates(
    keys: dict[str, str], folds: dict[str, list[GeneSplit]], seeds: list[int], n_folds: int
) -> tuple[Replicate, ...]:
    return tuple(
        Replicate(name, seed, fold, folds[name][fold], key)
        for name, key in keys.items()
        for seed in seeds
        for fold in range(n_folds)
    )


def validation_folds(split: GeneSplit, panel: tuple[str, ...], n_folds: int, seed: int) -> list[GeneSplit]:
    """Folds with the test genes of `split` and other, disjoint validation genes each; fold 0 is `split` itself.

    Parameters
    ----------
    panel
        All genes, in the order that splits keep.
    seed
        Of the order in which training genes take their turn.

    Raises
    ------
    DataError
        There are not genes enough for as many disjoint folds.
    """
    size = len(split.val)
    most = (len(split.train) + size) // size
    if n_folds > most:
        raise DataError(
            f"--folds {n_folds} asks for {n_folds} disjoint sets of {size} validation genes among the "
            f"{len(split.train) + size} that are no test genes: at most {most}; ask for fewer, or lower "
            "split.val_fraction"
        )
    turn = np.random.default_rng(seed).permutation(len(split.train))
    pool = [*split.val, *(split.train[i] for i in turn)]
    folds = []
    for fold in range(n_folds):
        val = set(pool[fold * size : (fold + 1) * size])
        train = set(pool) - val
        folds.append(
            GeneSplit(tuple(g for g in panel if g in train), tuple(g for g in panel if g in val), split.test, fold)
        )
    return folds
