"""The book of a search: which samples were drawn, which are done, which were interrupted.

The Optuna storage is the only truth. A sample is a position in the search (user attribute `sample`). Its trial is
enqueued with the position, in one write, before anything is drawn for it; it is told in one write when it ends. A
trial that a kill left running is marked as failed, and one with the same position and parameters takes its place.
"""

from __future__ import annotations

import math
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ablations.search.aim import SECONDS, Aim, find_front
from cgd.config import Config
from tune.search.plan import SearchPlan
from tune.search.sampler import SAMPLE, PositionedSampler
from tune.search.storage import SearchError, readable_storage_errors
from tune.trials.messages import TrialResult, average_score

# user attributes of trials and studies
GIVEN, ORIGIN, VALUES, REASON, INTERRUPTED = "given", "origin", "values", "reason", "interrupted"
MEMORY, PARAMETERS, SCORES = "peak_memory_mb", "n_parameters", "scores"
SETTINGS, UID, POINTS, SAMPLER = "settings", "uid", "points", "sampler"
DEFAULT, WARM, DRAWN = "default", "warm start", "sampled"


@dataclass(frozen=True)
class Point:
    """Parameters to try before any is drawn; those left out are drawn."""

    origin: str
    params: dict[str, Any]


class SearchBook:
    """The samples of one search, whose Optuna study is in `storage`, or will be.

    `points` are tried first; a continued search keeps those it was started with. `resume` continues a study that is
    there already.

    Raises
    ------
    SearchError
        The study is there and `resume` is not asked for, or it was made under other settings.
    """

    def __init__(self, plan: SearchPlan, storage: BaseStorage, points: Sequence[Point], resume: bool) -> None:
        self.plan, self.storage = plan, storage
        self.sampler = PositionedSampler(plan.space.sampler, plan.base.seed)
        self._reported: dict[int, int] = {}  # trial number -> last percentage
        with readable_storage_errors(plan.name):
            self.existed = plan.name in optuna.get_all_study_names(storage)
            if self.existed and not resume:
                raise SearchError(
                    f"the search '{plan.name}' exists already; --resume continues it, and --name starts another"
                )
            self.study = optuna.create_study(
                storage=storage,
                sampler=self.sampler,
                pruner=optuna.pruners.NopPruner(),  # Ray stops trials
                study_name=plan.name,
                directions=[aim.direction for aim in plan.space.aims],
                load_if_exists=self.existed,
            )
            attributes = self.study.user_attrs
            if UID in attributes:  # the last one written: with it the others are there
                _check_settings(plan, attributes[SETTINGS])
            else:
                self._begin(points)
            self.uid: str = self.study.user_attrs[UID]
            self.points = [Point(p["origin"], p["params"]) for p in self.study.user_attrs[POINTS]]
            self.n_interrupted = self.replace_interrupted()

    def _begin(self, points: Sequence[Point]) -> None:
        names = [aim.name if aim.name == SECONDS else f"mean {aim.full_label}" for aim in self.plan.space.aims]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.set_metric_names(names)
        self.study.set_user_attr(SETTINGS, self.plan.settings)
        self.study.set_user_attr(
            SAMPLER, {"name": "TPE", **self.plan.space.sampler.model_dump(), "constant_liar": True}
        )
        self.study.set_user_attr(POINTS, [{"origin": p.origin, "params": p.params} for p in points])
        self.study.set_user_attr(UID, uuid.uuid4().hex[:12])

    # ---- reading ----------------------------------------------------------------------------------------------------

    def list_trials(self) -> list[FrozenTrial]:
        """The trial of each sample, by position; interrupted ones are not among them."""
        trials = [trial for trial in self.study.get_trials(deepcopy=False) if _counts(trial)]
        return sorted(trials, key=lambda trial: trial.user_attrs[SAMPLE])

    def list_finished(self) -> list[FrozenTrial]:
        """Samples that ended one way or another."""
        return [trial for trial in self.list_trials() if trial.state.is_finished()]

    def rank(self, aim: Aim | None = None) -> list[FrozenTrial]:
        """Samples that ran to their end within the memory asked for, the best first, by the first aim or another."""
        by = aim or self.plan.space.aims[0]
        complete = [t for t in self.list_trials() if t.state == TrialState.COMPLETE and self.fits_memory(t)]
        return sorted(complete, key=lambda t: (-by.weigh(read_value(t, by)), t.user_attrs[SAMPLE]))

    def fits_memory(self, trial: FrozenTrial) -> bool:
        """Whether a finished trial stayed below the memory asked for."""
        limit = self.plan.max_memory_mb
        return limit is None or trial.user_attrs.get(MEMORY, math.inf) <= limit

    def find_front(self) -> list[FrozenTrial]:
        """Of `rank`, those that no other beats in both aims, or in the aim and seconds where there is one alone."""
        aims = self.plan.space.traded
        ranked = self.rank()
        return [ranked[i] for i in find_front([[read_value(t, aim) for aim in aims] for t in ranked], aims)]

    def read_config(self, trial: FrozenTrial) -> Config:
        """Configuration of a sample."""
        return self.plan.base.with_values(trial.user_attrs[VALUES])

    # ---- drawing ----------------------------------------------------------------------------------------------------

    def prepare_next(self) -> bool:
        """Make sure that a trial waits to be asked for; False if all samples were drawn."""
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return True
        sample = 1 + max((trial.user_attrs[SAMPLE] for trial in self.list_trials()), default=-1)
        if sample >= self.plan.n_samples:
            return False
        point = self.points[sample] if sample < len(self.points) else Point(DRAWN, {})
        self._enqueue(sample, point)
        return True

    def _enqueue(self, sample: int, point: Point) -> None:
        attributes = {SAMPLE: sample, ORIGIN: point.origin, GIVEN: point.params}
        self.study.enqueue_trial(point.params, user_attrs=attributes)

    def draw(self, trial: optuna.Trial) -> Config:
        """Sample the parameters of a trial. Raises ConfigError if they do not go together."""
        values = self.plan.space.suggest(trial, self.plan.base)
        config = self.plan.base.with_values(values)
        trial.set_user_attr(VALUES, values)
        return config

    # ---- telling ----------------------------------------------------------------------------------------------------

    def report(self, trial: optuna.Trial, value: float, percent: int) -> None:
        """The value so far; the first of a percentage counts."""
        new = percent > self._reported.get(trial.number, -1)
        if new and len(self.plan.space.aims) == 1 and math.isfinite(value):  # Optuna takes no reports for several
            self._reported[trial.number] = percent
            trial.report(value, step=percent)

    def complete(self, trial: optuna.Trial, result: TrialResult) -> None:
        """A sample ran to its end; without a score that is aimed at it failed."""
        aims = self.plan.space.aims
        values = [result.summary[SECONDS] if aim.name == SECONDS else result.find_score(aim.name) for aim in aims]
        if missing := [aim.full_label for aim, value in zip(aims, values, strict=True) if not math.isfinite(value)]:
            self.fail(trial, f"it has no {' and no '.join(missing)}")
            return
        for key in (SECONDS, MEMORY, PARAMETERS):
            trial.set_user_attr(key, result.summary[key])
        trial.set_user_attr(SCORES, result.scores)
        if self.plan.max_memory_mb is not None:
            trial.set_constraint("memory", result.summary[MEMORY] - self.plan.max_memory_mb)
        self.study.tell(trial, values)

    def prune(self, trial: optuna.Trial) -> None:
        """A sample was stopped early."""
        if self.plan.max_memory_mb is not None:
            trial.set_constraint("memory", 0.0)  # not known: it is judged by its value alone
        self.study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """A sample failed, for good."""
        trial.set_user_attr(REASON, reason[:2000])
        self.study.tell(trial, state=TrialState.FAIL)

    def replace_interrupted(self) -> int:
        """End the trials that nobody runs any more and enqueue each again; returns how many there were."""
        trials, study_id = self.study.get_trials(deepcopy=False), self.storage.get_study_id_from_name(self.plan.name)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        there = {t.user_attrs[SAMPLE] for t in trials if _counts(t) and t.state != TrialState.RUNNING}
        for trial in sorted(running, key=lambda trial: trial.user_attrs[SAMPLE]):
            attributes = trial.user_attrs
            if attributes[SAMPLE] not in there:  # first its successor: a kill in between leaves both, not none
                drawn = trial.params if VALUES in attributes else attributes[GIVEN]
                self._enqueue(attributes[SAMPLE], Point(attributes[ORIGIN], drawn))
            trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            self.storage.set_trial_user_attr(trial_id, INTERRUPTED, True)
            self.study.tell(trial.number, state=TrialState.FAIL)
        return len(running)


def read_value(trial: FrozenTrial, aim: Aim) -> float:
    """What a finished sample is worth by an aim; NaN where that was not scored."""
    if aim.name == SECONDS:
        return float(trial.user_attrs.get(SECONDS, math.nan))
    return average_score(trial.user_attrs.get(SCORES, {}), aim.name)


def _counts(trial: FrozenTrial) -> bool:
    return not trial.user_attrs.get(INTERRUPTED)


def _check_settings(plan: SearchPlan, before: Mapping[str, Any]) -> None:
    changed = [key for key, value in plan.settings.items() if before.get(key) != value]
    if changed:
        raise SearchError(
            f"the search '{plan.name}' was made with another {', '.join(changed)}; its values do not compare with "
            "new ones. Give the same arguments, or --name for another search"
        )
