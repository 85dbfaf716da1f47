"""What a search found, in sentences: the same for the page and the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from ablations.findings.wording import format_number, format_signed, format_value
from ablations.search.aim import AIMS, SECONDS, Aim
from ablations.search.results import Gain, Sample, SearchResults, Winner
from ablations.statistics.paired import Estimate


def write_opening(results: SearchResults) -> str:
    """The answer in one line; a sentence per outcome where there are several."""
    if results.n_ended < results.n_samples:
        return f"Not finished: {results.n_ended} of {results.n_samples} samples are done."
    if not any(results.has_answer(outcome) for outcome in results.outcomes):
        waiting = _list_waiting(results)
        return f"Not finished: the best configurations are not confirmed yet{waiting}, so there is no winner."
    if not results.winners:
        return _explain_no_winner(results)
    return " ".join(_write_answer(results, outcome) for outcome in results.outcomes)


def _list_waiting(results: SearchResults) -> str:
    waiting = ", ".join(row.label for row in results.finalists if row.n_missing)
    return f" (runs of {waiting} are missing)" if waiting else ""


def _write_answer(results: SearchResults, outcome: Aim) -> str:
    """What was found by one outcome."""
    winner, by = results.find_winner(outcome), f"By {outcome.label}{'' if outcome.sign > 0 else ' (lower is better)'}"
    if winner is None and results.has_answer(outcome):
        return f"{by} the default is the best: none of the {len(results.finalists) - 1} confirmed beat it."
    if winner is None:
        return f"{by} there is no winner yet{_list_waiting(results)}."
    gain = describe_gain(winner.validation[outcome.name])
    text = f"{by} {winner.label} beats the default by {gain} on validation genes"
    if winner.whole_test is None:
        return f"{text}; the comparison on the test genes is not finished."
    found = winner.whole_test.gains.get(outcome.name)
    if found is None:
        return f"{text}; the comparison on the test genes has no {outcome.label}."
    on_test = f"{describe_gain(found)}{_weigh_test(found, outcome)}"
    return f"{text}; on the test genes, which the search never saw, the difference is {on_test}."


def _explain_no_winner(results: SearchResults) -> str:
    n = len(results.finalists) - 1
    if not n:
        limit = " within the memory asked for" if results.max_memory_mb is not None else ""
        return f"The default is the best: no other configuration ran to its end{limit}."
    untouched = "" if results.n_tests else ", and the test genes were not looked at"
    by = f" by {' or '.join(outcome.label for outcome in results.outcomes)}" if len(results.outcomes) > 1 else ""
    return (
        f"The default is the best: none of the {n} best of {results.n_samples} configurations beat it{by} on "
        f"validation genes over other seeds. There is no winner{untouched}."
    )


def describe_gain(found: Gain) -> str:
    """The difference of a comparison, per data set where there are several."""
    if len(found.by_dataset) == 1:
        return format_gain(next(iter(found.by_dataset.values())))
    each = "; ".join(f"{name} {format_gain(estimate)}" for name, estimate in found.by_dataset.items())
    return f"{format_signed(found.mean, 4)} over the data sets ({each})"


def format_gain(found: Estimate) -> str:
    """`+0.0210 [+0.0100, +0.0320]`; configurations of a search lie close, so with four decimals."""
    mean, low, high = (format_signed(value, 4) for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]" if math.isfinite(found.low) else mean


def _weigh_test(found: Gain, outcome: Aim) -> str:
    """What the intervals on the test genes allow to say."""
    better = [e.excludes_zero and outcome.sign * e.mean > 0 for e in found.by_dataset.values()]
    worse = [e.excludes_zero and outcome.sign * e.mean < 0 for e in found.by_dataset.values()]
    if all(better):
        return ": the gain holds"
    if any(worse):
        return ": it lost there" if all(worse) else ": it lost on some data sets"
    return ": not to be told from none" if not any(better) else ": it holds on some data sets only"


def list_cautions(results: SearchResults) -> list[str]:
    """What a reader must know before believing it."""
    found = []
    if results.winners:
        found.append(
            "The winner was chosen by its validation genes, so its lead there is too good on average; the one on the "
            "test genes is not."
        )
    incomplete = [row.label for row in results.finalists if row.n_missing]
    if results.winners and incomplete:
        found.append(f"Runs of the confirmation are missing, and so could not win: {', '.join(incomplete)}.")
    if results.n_tests > 1:
        found.append(
            f"Winners of this search were compared on the same test genes {results.n_tests} times; each time after the "
            "first counts for less."
        )
    failed = sum(sample.state == "failed" for sample in results.samples)
    if failed:
        found.append(f"{failed} of {len(results.samples)} samples failed; the sampler learns nothing from them.")
    return found


def describe_aim(results: SearchResults) -> str:
    """What was looked for."""
    aims = [
        aim.full_label + {1: " (higher is better)", -1: " (lower is better)"}[aim.sign] for aim in results.space.aims
    ]
    if len(aims) == 1:
        return f"mean {aims[0]}, every data set weighing the same"
    return (
        f"the Pareto front of mean {' and '.join(aims)}, every data set weighing the same; no sample is stopped early"
    )


def explain_front(results: SearchResults) -> str:
    """What the front is, and what becomes of its samples."""
    labels, outcomes = [aim.label for aim in results.space.aims], [aim.label for aim in results.outcomes]
    text = (
        f"Samples of the search that no other beats in {labels[0]} without losing in {labels[1]}, on validation genes "
        "and over one seed."
    )
    if len(outcomes) < 2:
        return f"{text} The best of them by {outcomes[0]} are confirmed."
    return (
        f"{text} The best by {outcomes[0]} and the best by {outcomes[1]} are confirmed, and a winner by either is "
        "tested; the rest of the front is neither, unless --finalists asks for more."
    )


def find_role(sample: Sample, results: SearchResults) -> str:
    """What a sample of the front stands out for, and what became of it: `best PCC, winner by PCC`."""
    best = [f"best {o.label}" for o in results.outcomes if results.find_best(o) == sample]
    finalist = next((row for row in results.finalists if row.sample == sample.sample), None)
    won = [label_winner(winner, results) for winner in results.winners if finalist and winner.label == finalist.label]
    default = ["the default"] if sample.origin == "default" else []
    rest = ["confirmed"] if finalist else ["not confirmed"] if results.finalists and not default else []
    return ", ".join([*default, *best, *(won or rest)])


def label_winner(winner: Winner, results: SearchResults) -> str:
    """`winner`, and by what where there are several outcomes."""
    if len(results.outcomes) == 1:
        return "winner"
    return f"winner by {' and '.join(AIMS[name].label for name in winner.outcomes)}"


def count_samples(results: SearchResults) -> str:
    """`100 samples: 61 finished, 38 stopped early, 1 failed`."""
    states = Counter(sample.state for sample in results.samples)
    listed = ", ".join(f"{n} {state}" for state, n in states.items())
    again = f"; {results.n_interrupted} interrupted and run again" if results.n_interrupted else ""
    return f"{results.n_samples} samples: {listed or 'none yet'}{again}"


def list_changes(values: Mapping[str, object], config: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """(path, default, value) of the fields in which a configuration differs from the default."""
    return [(path, config[path], value) for path, value in values.items() if config.get(path) != value]


def format_score(value: float) -> str:
    """A score with four decimals: configurations of a search lie close."""
    return format_number(value, 4)


def format_worth(value: float, aim: Aim) -> str:
    """What a sample is worth by an aim: a score, or seconds."""
    return format_number(value, 1) if aim.name == SECONDS else format_score(value)


def shorten_value(value: object) -> str:
    """A value of a field in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)
