"""Ray Tune's side of a search: samples drawn from Optuna, results told to it, hopeless trials stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from optuna.trial import FrozenTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ablations.search.aim import Aim
from ablations.search.space import Space, Stopping
from cgd.config import Config
from cgd.errors import ConfigError
from cgd.files import write_atomically
from tune.search.book import ORIGIN, SAMPLE, VALUES, SearchBook
from tune.search.plan import SearchPlan
from tune.search.runs import Candidate
from tune.trials.failure import Failure
from tune.trials.messages import METRIC, PERCENT, Epoch, TrialResult, from_report
from tune.trials.spec import Job


class BookedSearch(OptunaSearch):
    """OptunaSearch that draws by the book of the search and tells each outcome as soon as it arrives.

    Results are kept in `folder`, `SAMPLE.json` each, before they are told: what is told is never without its result.
    `refused` is called with the position and the reason of a sample whose parameters the configuration refuses.
    """

    def __init__(self, book: SearchBook, folder: Path, refused: Callable[[int, str], None]) -> None:
        aims = book.plan.space.aims
        super().__init__(
            space=self._draw,
            metric=[METRIC.get(aim.name, aim.name) for aim in aims],
            mode=[aim.mode for aim in aims],
            sampler=book.sampler,
            storage=book.storage,
            study_name=book.plan.name,
        )
        self.book, self.folder, self.refused = book, folder, refused
        self.candidates: dict[str, Candidate] = {}  # by key
        self._config: Config | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher into a snapshot that is never read

    @property
    def metric(self) -> str:
        """What every report must hold; seconds arrive with the result alone."""
        return METRIC[self.book.plan.space.aims[0].name]

    @property
    def mode(self) -> str:
        """Direction of `metric`; those of the study are Optuna's."""
        return self.book.plan.space.aims[0].mode

    def _draw(self, trial: Any) -> None:
        self._config = self.book.draw(trial)

    def suggest(self, trial_id: str) -> Any:
        """The next sample as parameters of `run_trial`, or `Searcher.FINISHED`."""
        while self.book.prepare_next():
            try:
                super().suggest(trial_id)
            except ConfigError as error:
                refused = self._ot_trials.pop(trial_id)
                self.book.fail(refused, str(error))
                self.refused(refused.user_attrs[SAMPLE], str(error))
                continue
            trial, config = self._ot_trials[trial_id], self._config
            assert config is not None
            sample = trial.user_attrs[SAMPLE]
            candidate = describe_sample(self.book, sample, config, trial.user_attrs[ORIGIN])
            self.candidates[candidate.key] = candidate
            replicates = tuple(range(len(self.book.plan.candidates)))
            return Job(candidate.key, config, replicates).to_params()
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell what a worker reported. Tune repeats the last report when a trial ends: that is told once."""
        trial = self._ot_trials[trial_id]
        if trial_id in self._completed_trials:
            return
        message = from_report(result)
        if isinstance(message, Epoch):
            value = message.scores.get(self.book.plan.space.aims[0].name, math.nan)
            self.book.report(trial, value, message.percent)
            return
        self._completed_trials.add(trial_id)
        if isinstance(message, TrialResult):
            write_atomically(result_file(self.folder, trial.user_attrs[SAMPLE]), message.to_json())
            self.book.complete(trial, message)
        elif isinstance(message, Failure):
            self.book.fail(trial, f"{message.kind}: {message.message}")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell what ended without a result of its own: it was stopped early, or its worker died."""
        if trial_id in self._completed_trials:
            return
        trial = self._ot_trials[trial_id]
        if error or not result:
            self.book.fail(trial, "the worker process died")
            self._completed_trials.add(trial_id)
            return
        self.on_trial_result(trial_id, result)  # Tune does not pass on the report that made it stop a trial
        if trial_id not in self._completed_trials:
            self.book.prune(trial)
            self._completed_trials.add(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the storage has it all, and a pickle would be one more thing to trust."""

    def restore(self, checkpoint_path: str) -> None:
        """Refused: a search is continued from its storage."""
        raise NotImplementedError("a search is continued from its storage, with --resume")


def describe_sample(book: SearchBook, sample: int, config: Config, origin: str) -> Candidate:
    """A sample as the store has it."""
    tags = {
        "cgd.search": book.plan.name,
        "cgd.search_uid": book.uid,
        "cgd.sample": str(sample),
        "cgd.stage": "search",
        "cgd.origin": origin,
    }
    return Candidate(candidate_key(book.uid, sample), sample_name(book.plan, sample), config, tags)


def sample_name(plan: SearchPlan, sample: int) -> str:
    """How the terminal and MLflow call a sample."""
    return f"{plan.space.name} · sample {sample}"


def candidate_key(uid: str, sample: int) -> str:
    """Names a sample's checkpoints and its run."""
    return f"search-{uid}-{sample}"


def result_file(folder: Path, sample: int) -> Path:
    return folder / f"{sample}.json"


class SparingASHA(AsyncHyperBandScheduler):
    """ASHA that stops none of the first trials: compared with one or two others, half of all would be stopped.

    Where trials report no value of the aim from epoch to epoch, none is stopped, which `say` is told once.
    """

    def __init__(self, stopping: Stopping, aim: Aim, say: Callable[[str], None]) -> None:
        super().__init__(
            time_attr=PERCENT,
            metric=METRIC[aim.name],
            mode=aim.mode,
            max_t=101,  # nobody arrives there: whole trials end by themselves
            grace_period=stopping.first_percent,
            reduction_factor=stopping.factor,
        )
        self._spared, self._order = stopping.spared, dict[str, int]()
        self._aim, self._say, self._is_said = aim, say, False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_say": None}  # Tune pickles its scheduler into a snapshot that is never read

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._order[trial.trial_id] = len(self._order)
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if PERCENT in result and not math.isfinite(result[METRIC[self._aim.name]]):
            if isinstance(from_report(result), Epoch) and not self._is_said:
                self._say(f"epochs report no {self._aim.full_label}: no sample is stopped early")
                self._is_said = True
            return TrialScheduler.CONTINUE
        action = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if self._order[trial.trial_id] < self._spared else action


def make_scheduler(
    space: Space, past: list[FrozenTrial], say: Callable[[str], None] = lambda line: None
) -> TrialScheduler:
    """ASHA on the percentage done, or none: a search for several aims has no order to stop by.

    The values of `past`, samples that ended in earlier commands, in their order, fill the rungs as if they ran now, so
    that a continued search stops what an uninterrupted one would. `say` is told where nothing can be stopped.
    """
    if not space.stops_early:
        return FIFOScheduler()
    assert space.stopping is not None
    aim = space.aims[0]
    scheduler = SparingASHA(space.stopping, aim, say)
    for trial in past:
        if VALUES in trial.user_attrs:  # else it was refused, and Tune never knew of it
            ended = SimpleNamespace(trial_id=f"past-{trial.number}")
            scheduler.on_trial_add(None, ended)
            for percent, value in sorted(trial.intermediate_values.items()):
                scheduler.on_trial_result(None, ended, {PERCENT: percent, METRIC[aim.name]: value})
    return scheduler
