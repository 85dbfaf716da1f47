"""Ray Tune's side of a search: samples drawn from Optuna, results told to it, hopeless trials stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from optuna.trial import FrozenTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ablations.search.space import Stopping
from cgd.config import Config
from cgd.errors import ConfigError
from cgd.files import write_atomically
from tune.search.book import ORIGIN, SAMPLE, VALUES, SearchBook
from tune.search.plan import SearchPlan
from tune.search.runs import Candidate
from tune.trials.failure import Failure
from tune.trials.messages import PERCENT, VALUE, Epoch, TrialResult, from_report
from tune.trials.spec import Job


class BookedSearch(OptunaSearch):
    """OptunaSearch that draws by the book of the search and tells each outcome as soon as it arrives.

    Results are kept in `folder`, `SAMPLE.json` each, before they are told: what is told is never without its result.
    `refused` is called with the position and the reason of a sample whose parameters the configuration refuses.
    """

    def __init__(self, book: SearchBook, folder: Path, refused: Callable[[int, str], None]) -> None:
        pareto = book.plan.objective == "pareto"
        super().__init__(
            space=self._draw,
            metric=[VALUE, "seconds"] if pareto else VALUE,
            mode=["max", "min"] if pareto else "max",
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
        """What every report must hold; the seconds arrive with the result alone."""
        return VALUE

    @property
    def mode(self) -> str:
        """Direction of `metric`; those of the study are Optuna's."""
        return "max"

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
            self.book.report(trial, message.value, message.percent)
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
    """ASHA that stops none of the first trials: compared with one or two others, half of all would be stopped."""

    def __init__(self, stopping: Stopping) -> None:
        super().__init__(
            time_attr=PERCENT,
            metric=VALUE,
            mode="max",
            max_t=101,  # nobody arrives there: whole trials end by themselves
            grace_period=stopping.first_percent,
            reduction_factor=stopping.factor,
        )
        self._spared, self._order = stopping.spared, dict[str, int]()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._order[trial.trial_id] = len(self._order)
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if self._order[trial.trial_id] < self._spared else action


def make_scheduler(stopping: Stopping | None, past: list[FrozenTrial]) -> TrialScheduler:
    """ASHA on the percentage done, or none.

    The values of `past`, samples that ended in earlier commands, in their order, fill the rungs as if they ran now, so
    that a continued search stops what an uninterrupted one would.
    """
    if stopping is None:
        return FIFOScheduler()
    scheduler = SparingASHA(stopping)
    for trial in past:
        if VALUES in trial.user_attrs:  # else it was refused, and Tune never knew of it
            ended = SimpleNamespace(trial_id=f"past-{trial.number}")
            scheduler.on_trial_add(None, ended)
            for percent, value in sorted(trial.intermediate_values.items()):
                scheduler.on_trial_result(None, ended, {PERCENT: percent, VALUE: value})
    return scheduler
