"""What a search tries before it draws: the default, and what it is warm-started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState

from ablations.search.aim import list_aims
from cgd.config import Config
from cgd.errors import ConfigError
from cgd.metrics.facts import PRIMARY
from tune.search.book import DEFAULT, SETTINGS, VALUES, WARM, Point
from tune.search.plan import SearchPlan
from tune.search.storage import SearchError, open_earlier


def first_points(plan: SearchPlan, warm_start: str | None) -> tuple[list[Point], list[str]]:
    """Points to try first, and what to tell the user about them.

    Parameters
    ----------
    warm_start
        A configuration (.yaml), or the storage of an earlier search.

    Raises
    ------
    SearchError, ConfigError
        There is no such file or search, or nothing in it can be tried here.
    """
    points = [Point(DEFAULT, plan.space.point(plan.base))]
    if warm_start is None:
        return points, []
    values, source = _read_values(plan, warm_start)
    params, left_out = _keep_inside(plan, values)
    if not params:
        raise SearchError(f"--warm-start {warm_start}: nothing in it lies within the space '{plan.space.name}'")
    notes = [f"warm start from {source}"]
    if left_out:
        notes.append(f"outside the space, and so drawn instead: {', '.join(left_out)}")
    return [*points, Point(WARM, params)], notes


def _read_values(plan: SearchPlan, warm_start: str) -> tuple[dict[str, Any], str]:
    """Dotted path -> value of the configuration to start from, and where it is from."""
    if warm_start.endswith((".yaml", ".yml")):
        return Config.from_yaml(Path(warm_start)).flatten(), warm_start
    study = open_earlier(warm_start)
    settings = study.user_attrs.get(SETTINGS, {})
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in finished if all(value <= 0 for value in trial.constraints.values())]
    place, sign = _find_aim(plan, settings, study.directions)
    best = max(feasible, key=lambda trial: sign * trial.values[place], default=None)
    if best is None:
        raise SearchError(f"--warm-start {warm_start}: no sample of it is finished")
    searched = best.user_attrs.get(VALUES)
    if searched is None:
        raise SearchError(f"--warm-start {warm_start} was not made by run_search.py: its trials name no fields")
    _check_division(plan, settings, warm_start)
    return {
        **settings.get("config", {}),
        **searched,
    }, f"{study.study_name}, trial {best.number} ({best.values[place]:.4f})"


def _find_aim(plan: SearchPlan, settings: Mapping[str, Any], directions: Sequence[StudyDirection]) -> tuple[int, int]:
    """By which value of an earlier search its best is chosen, and its sign: this search's first aim, or its own."""
    earlier = [aim.name for aim in list_aims(settings.get("space", {}).get("aim", PRIMARY))]
    first = plan.space.aims[0].name
    place = earlier.index(first) if first in earlier else 0
    return place, 1 if directions[place] == StudyDirection.MAXIMIZE else -1


def _check_division(plan: SearchPlan, settings: Mapping[str, Any], warm_start: str) -> None:
    """Refuse an earlier search of the same data with other test genes: it chose by what is tested here."""
    before, now = settings.get("config", {}), plan.base.flatten()
    other = [path for path in now if path.startswith(("data.", "split.")) and before.get(path) != now[path]]
    shared = set(settings.get("datasets", {}).values()) & set(plan.settings.get("datasets", {}).values())
    if other and shared:
        raise SearchError(
            f"--warm-start {warm_start}: that search was made on the same data under another {', '.join(other)}, so "
            "its validation genes may be test genes here, and its best was chosen by them. Give this one "
            "the same with --set"
        )


def _keep_inside(plan: SearchPlan, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Sampler's parameters that give `values` as far as the space goes, and the paths that lie outside of it."""
    searched = {parameter.path for parameter in plan.space.parameters}
    try:
        config = plan.base.with_values({path: value for path, value in values.items() if path in searched})
        params = plan.space.point(config)
    except ConfigError as error:
        raise ConfigError(f"the warm start cannot be expressed in the space '{plan.space.name}': {error}") from None
    outside = plan.space.find_outside(config)
    return {name: value for name, value in params.items() if name not in outside}, sorted(outside)
