"""From studies to trials: what a command will do, decided before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablations.study.study import Study, Trial
from cgd.baselines.predictions import Brought, BroughtFile
from cgd.config import Config
from cgd.data.catalog import load_dataset
from cgd.data.pair import Pair
from cgd.data.preprocess import PreparedPair, prepare
from cgd.data.protocol import hide
from cgd.data.split import GeneSplit, make_splits
from cgd.errors import DataError, StudyError
from cgd.evaluation import trial_code
from cgd.version import code_version
from tune.trials.spec import TrialSpec

DEFAULT_DATASET = "simulated"
_LONGEST_NAME = 200  # bytes: file systems take 255


@dataclass(frozen=True)
class StudyPlan:
    """A study on its data sets."""

    study: Study
    base: Config  # the study's own: the command's, with its folds and with what the study holds fixed
    trials: tuple[tuple[str, TrialSpec], ...]  # (level, trial) in order
    floors: tuple[FloorSpec, ...]  # those its data sets and folds need
    dataset_keys: dict[str, str]  # data set name -> key of the pair as prepared under `base`
    key: str  # names exactly these trials


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

    base: Config  # the command's; studies may hold some of it fixed at other values
    datasets: dict[str, PreparedPair] = field(default_factory=dict)  # prepared pairs by key
    studies: list[StudyPlan] = field(default_factory=list)  # in the order they were added
    notes: dict[str, list[str]] = field(
        default_factory=dict
    )  # of data sets, studies: what was matched, dropped, left out

    @property
    def trials(self) -> dict[str, TrialSpec]:
        """Distinct trials by fingerprint: studies share those they have in common."""
        found: dict[str, TrialSpec] = {}
        for plan in self.studies:
            for _, spec in plan.trials:
                found.setdefault(spec.fingerprint, spec)  # the first study names and owns it
        return found

    @property
    def floors(self) -> dict[str, FloorSpec]:
        return {spec.fingerprint: spec for plan in self.studies for spec in plan.floors}


class Planner:
    """Turns studies into trials; each data set is read and prepared once.

    Parameters
    ----------
    base
        The command's configuration.
    datasets, seeds, n_folds
        What the command names. None leaves it to each study, and where that is silent to the embedded data set, the
        seed of `base` alone and `split.n_folds` of `base`.
    brought
        Name of a method -> the files that are its predictions.

    Raises
    ------
    DataError
        A data set cannot be read, or two have the same name.
    """

    def __init__(
        self,
        base: Config,
        datasets: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        n_folds: int | None = None,
        brought: Mapping[str, Brought] | None = None,
    ) -> None:
        self.plan = Plan(base)
        self._brought = brought or {}
        self._datasets, self._seeds, self._n_folds = datasets, seeds, n_folds
        self._splits: dict[str, list[GeneSplit]] = {}
        self._hidden: set[str] = set()
        self._read: set[tuple[Path, str]] = set()
        self._pairs: dict[str, Pair] = {}
        self._names: dict[str, str] = {}  # as given -> name of the pair
        for given in datasets or ():
            self._load(given)

    def add(self, study: Study) -> None:
        """Plan one study. Raises StudyError or DataError before anything runs."""
        if study.name in (plan.study.name for plan in self.plan.studies):
            raise StudyError(f"two studies are called '{study.name}'; give one another name")
        n_folds = self._n_folds or study.folds
        command = self.plan.base.with_values({"split.n_folds": n_folds}) if n_folds else self.plan.base
        base = study.base(command)
        names = [self._load(given) for given in self._datasets or study.datasets or (DEFAULT_DATASET,)]
        first = command.seed
        seeds = self._seeds if self._seeds is not None else range(first, first + (study.seeds or 1))
        rows = study.trials(command, names, list(seeds), list(range(base.split.n_folds)))
        trials = tuple((row.level, self._make_spec(study, row, base)) for row in rows)
        floors = {(row.dataset, row.fold): self._make_floor(row.dataset, row.fold, base) for row in rows}
        self._note_left_out(study, names)
        digest = hashlib.sha256(json.dumps([study.name, [spec.fingerprint for _, spec in trials]]).encode())
        keys = {name: self._prepare(name, base) for name in names}
        self.plan.studies.append(StudyPlan(study, base, trials, tuple(floors.values()), keys, digest.hexdigest()[:16]))

    def prepare_under_base(self) -> dict[str, str]:
        """Data set name -> key of the pair prepared under the command's own configuration."""
        names = list(self._pairs) or [self._load(DEFAULT_DATASET)]
        return {name: self._prepare(name, self.plan.base) for name in names}

    def _load(self, given: str) -> str:
        """Name of the pair that `given` (a name, a folder or two files) stands for; reads it the first time."""
        if given not in self._names:
            pair = load_dataset(given)
            _check_name(pair.name, given)
            other = self._pairs.setdefault(pair.name, pair)
            if other is not pair and other.sha256 != pair.sha256:
                raise DataError(f"two data sets are called '{pair.name}'; give each folder its own name")
            self._names[given] = pair.name
        return self._names[given]

    def _make_spec(self, study: Study, trial: Trial, base: Config) -> TrialSpec:
        key = self._prepare(trial.dataset, trial.config)
        split = self._find_split(key, trial.config)[trial.fold]
        self._check(key, split, trial.config)
        prepared = self.plan.datasets[key]
        brought = self._read_brought(trial, prepared, split)
        parts = [prepared.sha256, split.sha256] + ([brought.sha256] if brought else [])
        code = trial_code(trial.config)
        fold = f" · fold {trial.fold}" if base.split.n_folds > 1 else ""
        return TrialSpec(
            fingerprint=trial.config.fingerprint(*parts, code),
            name=f"{study.name}={trial.level} · {trial.dataset} · seed {trial.seed}{fold}",
            dataset=trial.dataset,
            seed=trial.seed,
            fold=trial.fold,
            config=trial.config,
            split=split,
            prepared=key,
            code_version=code,
            trial_key=trial.config.fingerprint(*parts),
            brought=brought,
        )

    def _read_brought(self, trial: Trial, prepared: PreparedPair, split: GeneSplit) -> BroughtFile | None:
        """The file a trial's predictions are in, once it is known to hold them."""
        brought = self._brought.get(trial.config.method)
        if brought is None:
            return None
        file = brought.find_file(trial.dataset, trial.fold, trial.seed)
        if (checked := (file.path, split.sha256)) not in self._read:
            self._read.add(checked)
            file.read(split.test, hide(prepared, split, trial.config).visible.spot_names)
        return file

    def _prepare(self, name: str, config: Config) -> str:
        """Key of the prepared pair; trials with the same data section share it."""
        key = f"{name}:{config.fingerprint_section('data')}"
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

    def _find_split(self, key: str, config: Config) -> list[GeneSplit]:
        name = f"{key}:{config.fingerprint_section('split')}"
        if name not in self._splits:
            self._splits[name] = make_splits(self.plan.datasets[key].panel, config.split)
        return self._splits[name]

    def _note_left_out(self, study: Study, names: Sequence[str]) -> None:
        for level in (level for axis in study.axes for level in axis.levels):
            if level.only_on is not None and not set(level.only_on) & set(names):
                self._note(f"study {study.name}", (f"level '{level.label}' runs on {', '.join(level.only_on)} only",))

    def _make_floor(self, dataset: str, fold: int, base: Config) -> FloorSpec:
        key = self._prepare(dataset, base)
        split = self._find_split(key, base)[fold]
        prepared = self.plan.datasets[key]
        # some floors are draws about the centre and by the untrained network of the configuration
        parts = [base.fingerprint(prepared.sha256, split.sha256, code_version("cgd.evaluation"))]
        fingerprint = "floors-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return FloorSpec(fingerprint, dataset, fold, base, split, key)


def _check_name(name: str, given: str) -> None:
    """Refuse a data set whose name, which is that of a folder, cannot be the name of one below another."""
    if name in ("", ".", "..") or set(name) & set("/\0\n\r") or len(name.encode()) > _LONGEST_NAME:
        raise DataError(
            f"the data set {given} would be called {name[:_LONGEST_NAME]!r}, which is no name of a folder; rename its "
            "folder or its ST file"
        )
