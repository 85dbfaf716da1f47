"""What a study found, in plain sentences."""

from __future__ import annotations

import math

from ablations.findings.results import StudyResults
from ablations.findings.rows import HIDDEN_PRIMARY
from ablations.findings.tables import DatasetTable, Row
from ablations.findings.wording import CONFIDENCE_PERCENT, SCORE, format_p, format_signed
from ablations.statistics.intervals import ALPHA, MIN_MODEL_DF
from ablations.statistics.paired import FEW_GENES, Estimate
from ablations.statistics.power import find_needed
from cgd.metrics.facts import METRICS, PRIMARY

# a difference that cannot be seen in three decimals is none, however narrow its interval
NEGLIGIBLE = 0.0005


def open_report(results: StudyResults, tables: list[DatasetTable]) -> str:
    """The first line of a report: whether the study is too small for what it asks, and what it shows."""
    small = [table for table in tables if table.too_small]
    if not small:
        return " ".join([*(_answer_for(table) for table in tables), *_limit_claims(tables)])
    effect = results.study.smallest_effect
    found = "; ".join(_describe_too_small(table, effect) for table in small)
    answers = [_answer_for(table) for table in tables if not table.too_small or _list_shown(table)]
    first = f"Too small to see what it asks, a difference of {effect:g} in mean {SCORE}. {found}."
    return " ".join([first, *(["What it does show:"] if answers else []), *answers, *_limit_claims(tables)])


def _describe_too_small(table: DatasetTable, effect: float) -> str:
    """`tissue: 8 times in 10 it would find 0.031 or more (33 genes, 1 fold, 1 seed; ...); about ... would do`."""
    effects = [row.differences[PRIMARY] for row in table.levels if not row.is_default]
    blind = next((found for found in effects if found.is_known and not math.isfinite(found.mde)), None)
    if blind is not None:
        return f"{table.name}: {describe_design(blind)} give no interval, so nothing can be told from chance"
    largest = max((found for found in effects if found.is_known), key=lambda found: found.mde)
    need, panel = find_needed(largest, effect), table.facts.get("n_genes")
    would_do = f"about {need.folds} such folds ({need.genes} genes)"
    if panel is not None and need.genes > panel:
        would_do += f", more than its panel of {panel},"
    if need.seeds is not None:
        would_do += f" or {need.seeds} seeds"
    text = (
        f"{table.name}: 8 times in 10 it would find {largest.mde:.3f} or more ({describe_design(largest)}; before "
        f"Holm's correction); {would_do} would do"
    )
    return text if largest.noise_known else f"{text}, if training noise adds nothing, which takes 3 seeds to tell"


def _list_shown(table: DatasetTable) -> list[Row]:
    """The levels that are shown to differ from the default: after Holm's correction and in three decimals."""
    effects = [(row, row.differences[PRIMARY]) for row in table.levels if row.differences]
    return [row for row, found in effects if found.differs and abs(found.mean) >= NEGLIGIBLE]


def _answer_for(table: DatasetTable) -> str:
    default, levels = table.default, [row for row in table.levels if not row.is_default]
    known = [row for row in levels if row.differences[PRIMARY].is_known]
    if not known:
        return f"{table.name}: no answer, for want of trials."
    shown = _list_shown(table)
    best = max(shown, key=lambda row: METRICS[PRIMARY].sign * row.differences[PRIMARY].mean, default=None)
    if best is None:
        return f"{table.name}: no difference from the default, {default.title}, is shown."
    if (gain := best.differences[PRIMARY].mean) > 0:
        return f"{table.name}: {best.title} is {gain:.3f} {SCORE} above the default, {default.title}."
    return (
        f"{table.name}: no level is shown to be better than the default, {default.title}; "
        f"{', '.join(row.title for row in shown)} {'is' if len(shown) == 1 else 'are'} worse."
    )


def _limit_claims(tables: list[DatasetTable]) -> list[str]:
    """What a claim rests on where no replicate tells how much another training would change."""
    blind = [table.name for table in tables if not table.noise_known and _list_shown(table)]
    if not blind:
        return []
    return [f"For {', '.join(blind)} this holds for the models that were trained; another training may differ."]


def describe_design(found: Estimate) -> str:
    """`33 genes, 5 folds, 1 seed`."""
    counts = ((found.n_genes, "gene"), (found.n_folds, "fold"), (found.n_seeds, "seed"))
    return ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in counts)


def list_notes(tables: list[DatasetTable]) -> list[str]:
    """What the intervals leave out."""
    blind = [table.name for table in tables if not table.noise_known and any(row.differences for row in table.levels)]
    knowing = [(table.name, [row.differences for row in table.levels]) for table in tables if table.noise_known]
    same_genes = [name for name, known in knowing if any(d and d[PRIMARY].n_folds <= MIN_MODEL_DF for d in known)]
    found = []
    if blind:
        found.append(
            f"{', '.join(blind)}: too few replicates to estimate the training noise, so the intervals hold for the "
            "models that were trained and leave out how another training would differ; 3 seeds or 3 folds would tell."
        )
    if same_genes:
        found.append(
            f"{', '.join(same_genes)}: fewer than 3 folds, so the intervals hold for these training genes and leave "
            "out what others would change."
        )
    return found


def list_troubles(tables: list[DatasetTable]) -> list[str]:
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


def judge(results: StudyResults, table: DatasetTable) -> str:
    """Which level is best on a data set, whether it differs from the default, and where the best floor is."""
    best, default = table.best, table.default
    if best is None and any(row.trials and row.trials.ok for row in table.levels):
        return "No test gene could be scored (evaluation.min_spot_fraction), so there is no answer."
    if best is None:
        return "No trial finished, so there is no answer."
    if not default.primary.is_known:
        return (
            f"The default, {default.title}, has no result, so no level can be compared with it; "
            f"{best.title} has the highest mean {SCORE}, {best.primary.mean:.3f}."
        )
    sentences = [_compare_with_default(best, default, table.levels)]
    hidden = best.differences.get(HIDDEN_PRIMARY)  # of the published protocol
    if hidden is not None and hidden.is_known:
        sentences.append(f"On the hidden entries alone it is {describe_gap(hidden, 'the default')}.")
    if table.best_floor and table.over_floor and table.over_floor.is_known:
        floor = f"the best floor, {table.best_floor.title} at {table.best_floor.primary.mean:.3f}"
        sentences.append(f"{best.title} is {describe_gap(table.over_floor, floor)}.")
    return " ".join([*sentences, *_explain_higher_mean(best, table.levels)])


def _compare_with_default(best: Row, default: Row, levels: list[Row]) -> str:
    differences = [row.differences[PRIMARY] for row in levels if not row.is_default]
    if differences and all(d.is_known and max(abs(d.low), abs(d.high)) < NEGLIGIBLE for d in differences):
        return (
            f"The levels do as well as each other, with a mean {SCORE} of {default.primary.mean:.3f}: no difference "
            f"from the default, {default.title}, reaches {NEGLIGIBLE} anywhere in its {CONFIDENCE_PERCENT} interval."
        )
    if not best.is_default:
        found = describe_gap(best.differences[PRIMARY], f"the default, {default.title}", _describe_replicates(best))
        return f"{best.title} is best with a mean {SCORE} of {best.primary.mean:.3f}, {found}."
    others = [row for row in levels if not row.is_default and row.differences[PRIMARY].is_known]
    opening = f"The default, {default.title}, is best with a mean {SCORE} of {default.primary.mean:.3f}"
    if not others:
        return f"{opening}; no other level has a result."
    closest = max(others, key=lambda row: METRICS[PRIMARY].sign * row.differences[PRIMARY].mean)
    found = describe_gap(closest.differences[PRIMARY], "it", _describe_replicates(closest))
    return f"{opening}; the closest level, {closest.title}, is {found}."


def _explain_higher_mean(best: Row, levels: list[Row]) -> list[str]:
    """Why the level with the highest mean is not called the best, where it is not."""
    top = max((row for row in levels if row.primary.is_known), key=lambda row: row.primary.mean)
    if top.primary.mean <= best.primary.mean:
        return []
    return [
        f"{top.title} has a higher mean, {top.primary.mean:.3f}, but from other trials; on the seeds and genes it "
        f"shares with the default it does not do better than {best.title}."
    ]


def _describe_replicates(row: Row) -> str:
    found = row.differences[PRIMARY]
    text = f"; {describe_design(found)}" if len(row.by_seed) != 1 else f"; {describe_design(found)} only"
    if len(row.by_seed) > 1:
        text += f", the same sign in {row.n_agreeing} of {len(row.by_seed)} seeds"
    return text if found.noise_known else f"{text}, training noise not included"


def describe_gap(difference: Estimate, reference: str, made_of: str = "") -> str:
    """`0.021 above X (95 % interval +0.010 to +0.032: excludes zero; ...)`."""
    text = f"{abs(difference.mean):.3f} {'above' if difference.mean >= 0 else 'below'} {reference}"
    if difference.n_genes < 2:
        return f"{text} (too few genes for an interval{made_of})"
    meaning = _interpret(difference)
    if difference.n_genes < FEW_GENES:
        meaning += f"; {difference.n_genes} genes decide nothing"
    bounds = f"{format_signed(difference.low)} to {format_signed(difference.high)}"
    return f"{text} ({CONFIDENCE_PERCENT} interval {bounds}: {meaning}{made_of})"


def _interpret(difference: Estimate) -> str:
    if not difference.excludes_zero:
        return "includes zero, so no difference is shown"
    if math.isnan(difference.p_holm):
        return "excludes zero"
    p = format_p(difference.p_holm)
    corrected = f"Holm-corrected p {p if p.startswith('<') else f'= {p}'}"
    if difference.p_holm < ALPHA:
        return f"excludes zero, {corrected}"
    return f"excludes zero, but {corrected}, so no difference is shown"
