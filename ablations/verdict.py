"""What a study found, in plain sentences."""

from __future__ import annotations

from ablations.results import StudyResults
from ablations.stats import CONFIDENCE, FEW_GENES, Estimate
from ablations.tables import PRIMARY, DatasetTable, Row

# a difference that cannot be seen in three decimals is none, however narrow its interval
NEGLIGIBLE = 0.0005
PERCENT = f"{100 * CONFIDENCE:.0f} %"


def troubles(tables: list[DatasetTable]) -> list[str]:
    """What must be known before any number is read: trials that failed or are missing, floors that are absent."""
    counts = [row.trials for table in tables for row in table.levels if row.trials]
    failed, missing = sum(c.failed for c in counts), sum(c.missing for c in counts)
    total = failed + missing + sum(c.ok for c in counts)
    found = []
    if failed or missing:
        parts = [f"{failed} failed"] * bool(failed) + [f"{missing} did not finish"] * bool(missing)
        found.append(f"Of {total} trials {' and '.join(parts)}: everything below rests on the others.")
    found += [
        f"{table.name}: the tracking store has no record of {', '.join(table.absent_floors)}."
        for table in tables
        if table.absent_floors
    ]
    return found


def verdict(results: StudyResults, table: DatasetTable) -> str:
    """Which level is best on a data set, whether it differs from the default, and where the strongest floor is."""
    best, default = table.best, table.default
    if best is None and any(row.trials and row.trials.ok for row in table.levels):
        return "No test gene could be scored (evaluation.min_spot_fraction), so there is no answer."
    if best is None:
        return "No trial finished, so there is no answer."
    if not default.primary.is_known:
        return (
            f"The default, {default.title}, has no result, so no level can be compared with it; "
            f"{best.title} has the highest mean PCC, {best.primary.mean:.3f}."
        )
    sentences = [_versus_default(best, default, table.levels)]
    if results.protocol == "published" and not best.is_default:
        sentences.append(
            f"On the hidden entries alone it is {_gap(best.differences[f'hidden_{PRIMARY}'], 'the default')}."
        )
    if table.strongest_floor and table.over_floor and table.over_floor.is_known:
        floor = f"the strongest floor, {table.strongest_floor.title} at {table.strongest_floor.primary.mean:.3f}"
        sentences.append(f"{best.title} is {_gap(table.over_floor, floor)}.")
    return " ".join([*sentences, *_unequal_trials(best, table.levels)])


def _versus_default(best: Row, default: Row, levels: list[Row]) -> str:
    differences = [row.differences[PRIMARY] for row in levels if not row.is_default]
    if differences and all(d.is_known and max(abs(d.low), abs(d.high)) < NEGLIGIBLE for d in differences):
        return (
            f"The levels do as well as each other, with a mean PCC of {default.primary.mean:.3f}: no difference from "
            f"the default, {default.title}, reaches {NEGLIGIBLE} anywhere in its {PERCENT} interval."
        )
    if not best.is_default:
        gap = _gap(best.differences[PRIMARY], f"the default, {default.title}", _seeds(best))
        return f"{best.title} is best with a mean PCC of {best.primary.mean:.3f}, {gap}."
    others = [row for row in levels if not row.is_default and row.differences[PRIMARY].is_known]
    opening = f"The default, {default.title}, is best with a mean PCC of {default.primary.mean:.3f}"
    if not others:
        return f"{opening}; no other level has a result."
    closest = max(others, key=lambda row: row.differences[PRIMARY].mean)
    gap = _gap(closest.differences[PRIMARY], "it", _seeds(closest))
    return f"{opening}; the closest level, {closest.title}, is {gap}."


def _unequal_trials(best: Row, levels: list[Row]) -> list[str]:
    """Why the level with the highest mean is not called the best, where it is not."""
    top = max((row for row in levels if row.primary.is_known), key=lambda row: row.primary.mean)
    if top.primary.mean <= best.primary.mean:
        return []
    return [
        f"{top.title} has a higher mean, {top.primary.mean:.3f}, but from other trials; on the seeds and genes it "
        f"shares with the default it does not do better than {best.title}."
    ]


def _seeds(row: Row) -> str:
    if len(row.by_seed) == 1:
        return "; one seed only"
    return f"; the same sign in {row.n_agreeing} of {len(row.by_seed)} seeds"


def _gap(difference: Estimate, reference: str, seeds: str = "") -> str:
    """`0.021 above X (95 % interval +0.010 to +0.032: excludes zero; ...)`."""
    text = f"{abs(difference.mean):.3f} {'above' if difference.mean >= 0 else 'below'} {reference}"
    if difference.n_genes < 2:
        return f"{text} (too few genes for an interval{seeds})"
    meaning = "excludes zero" if difference.excludes_zero else "includes zero, so no difference is shown"
    if difference.n_genes < FEW_GENES:
        meaning += f"; only {difference.n_genes} genes, so it is likely too narrow"
    bounds = f"{signed(difference.low)} to {signed(difference.high)}"
    return f"{text} ({PERCENT} interval {bounds}: {meaning}{seeds})"


def signed(value: float) -> str:
    """`+0.021`, with a true minus sign."""
    return f"{value:+.3f}".replace("-", "−")


def opening(results: StudyResults, tables: list[DatasetTable]) -> str:
    """The first line of a report: whether the study is too small for what it asks, else its one-line answer."""
    small = [table.name for table in tables if table.too_small]
    if small:
        return f"Too small to see what it asks: {', '.join(small)}."
    return " ".join(f"{table.name}: {verdict(results, table)}" for table in tables)
