"""What a search found, in sentences: the same for the page and the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from ablations.findings.wording import SCORE, format_number, format_signed, format_value
from ablations.search.results import Comparison, SearchResults
from ablations.statistics.paired import Estimate


def write_opening(results: SearchResults) -> str:
    """The answer in one line."""
    if results.n_ended < results.n_samples:
        return f"Not finished: {results.n_ended} of {results.n_samples} samples are done."
    if not results.is_decided:
        waiting = ", ".join(row.label for row in results.finalists if row.n_missing)
        which = f" (runs of {waiting} are missing)" if waiting else ""
        return f"Not finished: the best configurations are not confirmed yet{which}, so there is no winner."
    if results.winner is None:
        return _explain_no_winner(results)
    assert results.validation is not None
    text = f"{results.winner.capitalize()} beats the default by {describe_gain(results.validation)} on validation genes"
    if results.test is None or not results.test.is_whole:
        return f"{text}; the comparison on the test genes is not finished."
    on_test = f"{describe_gain(results.test)}{_weigh_test(results.test)}"
    return f"{text}; on the test genes, which the search never saw, the difference is {on_test}."


def _explain_no_winner(results: SearchResults) -> str:
    n = len(results.finalists) - 1
    if not n:
        limit = " within the memory asked for" if results.max_memory_mb is not None else ""
        return f"The default is the best: no other configuration ran to its end{limit}."
    untouched = "" if results.n_tests else ", and the test genes were not looked at"
    return (
        f"The default is the best: none of the {n} best of {results.n_samples} configurations beat it on validation "
        f"genes over other seeds. There is no winner{untouched}."
    )


def describe_gain(found: Comparison) -> str:
    """The difference of a comparison, per data set where there are several."""
    if len(found.by_dataset) == 1:
        return format_gain(next(iter(found.by_dataset.values())))
    each = "; ".join(f"{name} {format_gain(estimate)}" for name, estimate in found.by_dataset.items())
    return f"{format_signed(found.mean, 4)} {SCORE} over the data sets ({each})"


def format_gain(found: Estimate) -> str:
    """`+0.0210 [+0.0100, +0.0320]`; configurations of a search lie close, so with four decimals."""
    mean, low, high = (format_signed(value, 4) for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]" if math.isfinite(found.low) else mean


def _weigh_test(found: Comparison) -> str:
    """What the intervals on the test genes allow to say."""
    better = [e.low > 0 for e in found.by_dataset.values()]
    worse = [e.high < 0 for e in found.by_dataset.values()]
    if all(better):
        return ": the gain holds"
    if any(worse):
        return ": it lost there" if all(worse) else ": it lost on some data sets"
    return ": not to be told from none" if not any(better) else ": it holds on some data sets only"


def list_cautions(results: SearchResults) -> list[str]:
    """What a reader must know before believing it."""
    found = []
    if results.winner:
        found.append(
            "The winner was chosen by its validation genes, so its lead there is too good on average; the one on the "
            "test genes is not."
        )
    incomplete = [row.label for row in results.finalists if row.n_missing]
    if results.winner and incomplete:
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
    """A PCC with four decimals: configurations of a search lie close."""
    return format_number(value, 4)


def shorten_value(value: object) -> str:
    """A value of a field in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)
