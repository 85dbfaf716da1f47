"""A TPE sampler whose proposals depend on the seed, the position in the search and the results so far, and no more.

Optuna's samplers carry a random state from one trial to the next, which is lost when the driver ends: a continued
search would propose the same points again, or others than an uninterrupted one. Here every sample has a sampler of
its own, seeded by its position.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from ablations.search.space import SamplerSettings
from cgd.random import derive_seed

SAMPLE = "sample"  # user attribute of a trial: its position in the search


class PositionedSampler(BaseSampler):
    """TPE, seeded again for each sample; a trial that takes the place of an interrupted one has the same position.

    `constant_liar` is always on: it makes concurrent trials keep their distance and does nothing to one alone.
    """

    def __init__(self, settings: SamplerSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self._current: tuple[int, TPESampler] | None = None

    def _make(self, sample: int) -> TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate and group, chosen with open eyes
            return TPESampler(
                n_startup_trials=self.settings.n_startup_trials,
                n_ei_candidates=self.settings.n_ei_candidates,
                multivariate=self.settings.multivariate,
                group=self.settings.group,
                constant_liar=True,
                seed=derive_seed(self.seed, "search", sample) % 2**32,
            )

    def _find(self, trial: FrozenTrial) -> TPESampler:
        if self._current is None or self._current[0] != trial.number:
            self._current = (trial.number, self._make(trial.user_attrs[SAMPLE]))
        return self._current[1]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._find(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._find(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._find(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Nothing: a TPE sampler learns from the storage alone."""
