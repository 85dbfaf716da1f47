"""A finished (or unfinished) search, as `search.json` holds it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from ablations.findings.stored import Number, Stored
from ablations.search.aim import SECONDS, Aim
from ablations.search.space import Space
from ablations.statistics.paired import Estimate


def _read_space(value: Any) -> Any:
    return Space.from_dict(value, "its space") if isinstance(value, dict) else value


def _read_estimate(value: Any) -> Any:
    known = value.items() if isinstance(value, dict) else ()
    return {key: math.nan if number is None else number for key, number in known} or value


def _keep_estimate(found: Estimate) -> dict[str, Any]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n_genes": found.n_genes}


KeptEstimate = Annotated[Estimate, BeforeValidator(_read_estimate), PlainSerializer(_keep_estimate)]  # no more of it


class Sample(Stored):
    """One configuration that was tried.

    Attributes
    ----------
    sample, trial, origin, state
        Position in the search, number of its Optuna trial; default, warm start or sampled; finished, stopped early,
        failed or not finished.
    scores, percent
        Outcome -> mean on validation genes; of a sample stopped early its last report, of the aim alone. And the
        percentage of the work done then.
    by_dataset
        Outcome -> data set -> the same of each data set.
    seconds, peak_memory_mb, n_parameters
        Costs; NaN where not recorded.
    fits_memory, on_front
        Within the memory asked for; no other is better in one of the two aims (where there is one alone: in it and
        seconds) without being worse in the other.
    params
        Sampler's name -> value.
    values
        Dotted path -> value.
    """

    sample: int
    trial: int
    origin: str
    state: str
    scores: dict[str, Number]
    percent: Number
    by_dataset: dict[str, dict[str, Number]]
    seconds: Number
    peak_memory_mb: Number
    n_parameters: Number
    fits_memory: bool
    on_front: bool
    params: dict[str, Any]
    values: dict[str, Any]
    reason: str | None
    run_id: str | None

    @property
    def is_finished(self) -> bool:
        """Whether it ran to its end."""
        return self.state == "finished"

    def find_value(self, aim: Aim) -> float:
        """What it is worth by an aim; NaN for nothing."""
        return self.seconds if aim.name == SECONDS else self.scores.get(aim.name, math.nan)


class FinalistRow(Stored):
    """A configuration of the confirmation, by outcome; `minus_default` is per data set, paired."""

    label: str
    sample: int | None
    is_default: bool
    scores: dict[str, Number]
    by_dataset: dict[str, dict[str, Number]]
    n_missing: int
    minus_default: dict[str, dict[str, KeptEstimate]]
    values: dict[str, Any]

    def find_value(self, aim: Aim) -> float:
        """What it is worth by an outcome; NaN for nothing."""
        return self.scores.get(aim.name, math.nan)


class Gain(Stored):
    """The winner minus the default by one outcome: the mean over data sets, and each of them with its interval."""

    mean: Number
    by_dataset: dict[str, KeptEstimate]


class HeldOut(Stored):
    """A winner and the default on the test genes.

    Attributes
    ----------
    run_id
        Of the study.
    gains, means
        By outcome; means are winner or default -> data set -> mean.
    failed, missing
        Its trials that failed, with their errors, and those that did not run.
    """

    run_id: str
    gains: dict[str, Gain]
    means: dict[str, dict[str, dict[str, Number]]]
    failed: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every trial of it has a result: what a part of them says is not for choosing by."""
        return any(gain.by_dataset for gain in self.gains.values()) and not self.failed and not self.missing


class Winner(Stored):
    """A finalist that is better than the default and every other one.

    Attributes
    ----------
    label
        The finalist's.
    outcomes
        By which it is the best.
    values
        Dotted path -> value, where it differs from the default.
    validation
        Outcome -> by how much it beats the default on validation genes.
    test
        The same on the test genes; None if they were not looked at.
    """

    label: str
    outcomes: tuple[str, ...]
    values: dict[str, Any]
    validation: dict[str, Gain]
    test: HeldOut | None

    @property
    def whole_test(self) -> HeldOut | None:
        """The comparison on the test genes, if every trial of it has a result."""
        return self.test if self.test is not None and self.test.is_whole else None


class SearchResults(Stored):
    """What a search found; see `Sample`, `FinalistRow` and `Winner`. What it aims at stands in its space.

    Attributes
    ----------
    n_samples, n_interrupted
        Samples asked for, and how often one was interrupted and run again.
    importances
        Outcome -> sampler's name of a parameter -> its share; empty with too few samples.
    winners
        The best by each outcome; none by one for which the default is, or while the search is not finished.
    n_tests
        How often winners of this search were compared on the test genes.
    """

    format: Literal[2] = 2
    name: str
    uid: str
    space: Annotated[Space, BeforeValidator(_read_space)]
    sampler: dict[str, Any]
    max_memory_mb: float | None = None
    n_samples: int
    n_interrupted: int
    seed: int
    search_folds: int
    datasets: dict[str, dict[str, Any]]
    config: dict[str, Any]
    samples: tuple[Sample, ...]
    importances: dict[str, dict[str, float]]
    finalists: tuple[FinalistRow, ...]
    winners: tuple[Winner, ...]
    n_tests: int
    versions: dict[str, Any]
    arguments: dict[str, Any] = Field(default_factory=dict)

    @property
    def finished(self) -> list[Sample]:
        """Samples that ran to their end."""
        return [sample for sample in self.samples if sample.is_finished]

    @property
    def n_ended(self) -> int:
        """Samples that ended one way or another."""
        return sum(sample.state != "not finished" for sample in self.samples)

    @property
    def outcomes(self) -> tuple[Aim, ...]:
        """What is aimed at, but for seconds."""
        return self.space.outcomes

    def find_best(self, aim: Aim) -> Sample | None:
        """The best finished sample within the memory asked for."""
        within = [sample for sample in self.finished if sample.fits_memory]
        return max(within, key=lambda sample: aim.weigh(sample.find_value(aim)), default=None)

    def find_winner(self, aim: Aim) -> Winner | None:
        """The winner by an outcome."""
        return next((winner for winner in self.winners if aim.name in winner.outcomes), None)

    @property
    def front(self) -> list[Sample]:
        """The samples on the front, the best by the first aim first."""
        first = self.space.aims[0]
        on_front = [sample for sample in self.finished if sample.on_front]
        return sorted(on_front, key=lambda sample: -first.weigh(sample.find_value(first)))

    @property
    def default(self) -> Sample | None:
        """The default's own sample."""
        return next((sample for sample in self.samples if sample.origin == "default"), None)

    def has_answer(self, aim: Aim) -> bool:
        """Whether there is a winner by an outcome, or the default has proved to be the best: no result is missing."""
        complete = bool(self.finalists) and not any(row.n_missing for row in self.finalists)
        return complete or self.find_winner(aim) is not None
