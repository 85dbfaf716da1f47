"""From studies to trials: what a command will do, decided before anything runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from ablations.study import Study
from cgd.config import Config
from cgd.data.catalog import load_dataset
from cgd.data.pair import Pair
from cgd.data.preprocess import PreparedPair, prepare
from cgd.data.protocol import hide
from cgd.data.split import GeneSplit, make_splits
from cgd.errors import DataError, StudyError
from cgd.evaluation import trial_fingerprint
from cgd.version import code_version
from tune.trial import TrialSpec


@dataclass(frozen=True)
class StudyPlan:
    """A study on its data sets: (level, trial) in order, and the floors it needs."""

    study: Study
    trials: tuple[tuple[str, TrialSpec], ...]
    floors: tuple[FloorSpec, ...]
    key: str


@dataclass(frozen=True)
class FloorSpec:
    """Floors of one data set and fold."""

    fingerprint: str
    dataset: str
    fold: int
    config: Config
    split: GeneSplit
    prepared: str


@dataclass
class Plan:
    """Everything a command will do."""

    base: Config
    datasets: dict[str, PreparedPair] = field(default_factory=dict)  # by prepared key
    dataset_keys: dict[str, str] = field(default_factory=dict)  # data set name -> prepared key under the base config
    studies: list[StudyPlan] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)  # data set name -> what was matched or dropped

    @property
    def trials(self) -> dict[str, TrialSpec]:
        """Distinct trials by fingerprint: studies share those they have in common."""
        return {spec.fingerprint: spec for plan in self.studies for _, spec in plan.trials}

    @property
    def floors(self) -> dict[str, FloorSpec]:
        return {spec.fingerprint: spec for plan in self.studies for spec in plan.floors}


class Planner:
    """Turns studies into trials; each data set is read and prepared once."""

    def __init__(self, base: Config, datasets: list[str], seeds: list[int]) -> None:
        self.plan = Plan(base)
        self.seeds = seeds
        self._splits: dict[str, list[GeneSplit]] = {}
        self._hidden: set[str] = set()
        self._pairs: dict[str, Pair] = {}
        for name in datasets:
            pair = load_dataset(name)
            if pair.name in self._pairs:
                raise DataError(f"two data sets are called '{pair.name}'; give each folder its own name")
            self._pairs[pair.name] = pair
            self.plan.dataset_keys[pair.name] = self._prepare(pair.name, base)

    def add(self, study: Study) -> None:
        """Plan one study. Raises StudyError or DataError before anything runs."""
        if study.name in (plan.study.name for plan in self.plan.studies):
            raise StudyError(f"two studies are called '{study.name}'; give one another name")
        base, names = self.plan.base, list(self._pairs)
        folds = list(range(base.split.n_folds))
        trials, floors = [], {}
        for trial in study.trials(base, names, self.seeds, folds):
            key = self._prepare(trial.dataset, trial.config)
            split = self._split(key, trial.config)[trial.fold]
            self._check(key, split, trial.config)
            prepared = self.plan.datasets[key]
            name = _trial_name(study, trial.level, trial.dataset, trial.seed, trial.fold, base.split.n_folds)
            fingerprint = trial_fingerprint(trial.config, prepared, split)
            spec = TrialSpec(fingerprint, name, trial.dataset, trial.seed, trial.fold, trial.config, split, key)
            trials.append((trial.level, spec))
            floor = self._floor(trial.dataset, trial.fold)
            floors[floor.fingerprint] = floor
        digest = hashlib.sha256(json.dumps([study.name, [spec.fingerprint for _, spec in trials]]).encode())
        self.plan.studies.append(StudyPlan(study, tuple(trials), tuple(floors.values()), digest.hexdigest()[:16]))

    def _prepare(self, name: str, config: Config) -> str:
        """Key of the prepared pair; trials with the same data section share it."""
        key = f"{name}:{config.fingerprint_of('data')}"
        if key not in self.plan.datasets:
            prepared = self.plan.datasets[key] = prepare(self._pairs[name], config.data)
            self._note(name, prepared.notes)
        return key

    def _check(self, key: str, split: GeneSplit, config: Config) -> None:
        """Hide once, so that data that cannot be used is found now and what is dropped is said."""
        name = f"{key}:{split.sha256}"
        if name not in self._hidden:
            self._hidden.add(name)
            prepared = self.plan.datasets[key]
            self._note(prepared.name, hide(prepared, split, config).notes)

    def _note(self, name: str, notes: tuple[str, ...]) -> None:
        known = self.plan.notes.setdefault(name, [])
        known.extend(note for note in notes if note not in known)

    def _split(self, key: str, config: Config) -> list[GeneSplit]:
        name = f"{key}:{config.fingerprint_of('split')}"
        if name not in self._splits:
            self._splits[name] = make_splits(self.plan.datasets[key].panel, config.split)
        return self._splits[name]

    def _floor(self, dataset: str, fold: int) -> FloorSpec:
        base, key = self.plan.base, self.plan.dataset_keys[dataset]
        split = self._split(key, base)[fold]
        prepared = self.plan.datasets[key]
        parts = [base.fingerprint_of(section) for section in ("data", "split", "evaluation")]
        parts += [prepared.sha256, split.sha256, code_version(), str(base.model.latent_dim)]
        fingerprint = "floors-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return FloorSpec(fingerprint, dataset, fold, base, split, key)


def _trial_name(study: Study, level: str, dataset: str, seed: int, fold: int, n_folds: int) -> str:
    folds = f" · fold {fold}" if n_folds > 1 else ""
    return f"{study.name}={level} · {dataset} · seed {seed}{folds}"
