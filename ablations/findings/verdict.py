"""What a study found, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ablations.findings.results import StudyResults
from ablations.findings.rows import HIDDEN_PRIMARY
from ablations.findings.tables import DatasetTable, Row
from ablations.findings.wording import (
    CONFIDENCE_PERCENT,
    OUTCOME_WORDS,
    SCORE,
    describe_outcome,
    format_interval,
    format_number,
    format_p,
    format_signed,
    name_extreme,
)
from ablations.statistics.intervals import ALPHA, MIN_MODEL_DF
from ablations.statistics.paired import FEW_GENES, Estimate
from ablations.statistics.power import find_needed
from ablations.study.study import Study
from cgd.metrics.facts import METRICS, OUTCOMES, PRIMARY

# a difference that cannot be seen in three decimals is none, however narrow its interval
NEGLIGIBLE = 0.0005
FEWEST_DRAWS = 2  # that are scored
_N_DRAWS = "sampling.n_samples"


def open_report(results: StudyResults, tables: list[DatasetTable]) -> str:
    """The first line of a report: whether the study is too small for what it asks, and what it shows."""
    small = [table for table in tables if table.too_small]
    if not small:
        answers = [_answer_for(results.study, table, table.outcomes) for table in tables]
        return " ".join([*answers, *_limit_claims(tables)])
    effect = results.study.smallest_effect
    found = "; ".join(_describe_too_small(table, effect) for table in small)
    answers = [_answer_for(results.study, table, said) for table in tables if (said := _list_answerable(table))]
    first = f"Too small to see what it asks, a difference of {effect:g} in mean {SCORE}. {found}."
    return " ".join([first, *(["What can be said:"] if answers else []), *answers, *_limit_claims(tables)])


def _list_answerable(table: DatasetTable) -> list[str]:
    """The outcomes that a data set answers: where it is too small to see a difference in PCC, one that shows counts."""
    return [m for m in table.outcomes if m != PRIMARY or not table.too_small or _list_shown(table, m)]


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


def _list_shown(table: DatasetTable, metric: str) -> list[Row]:
    """The levels that are shown to differ from the default: after Holm's correction and in three decimals."""
    effects = [(row, row.differences[metric]) for row in table.levels if metric in row.differences]
    return [row for row, found in effects if found.differs and abs(found.mean) >= NEGLIGIBLE]


def _answer_for(study: Study, table: DatasetTable, outcomes: Sequence[str]) -> str:
    known = [m for m in outcomes if any(row.differences[m].is_known for row in table.levels if row.differences)]
    if not known:
        return f"{table.name}: no answer, for want of trials."
    answers = [_answer_outcome(study, table, metric) for metric in known]
    unknown = [OUTCOME_WORDS[metric].noun for metric in outcomes if metric not in known]
    answers += [f"no answer for {noun}, for want of trials" for noun in unknown]
    return f"{table.name}: {'; '.join(answers)}."


def _answer_outcome(study: Study, table: DatasetTable, metric: str) -> str:
    """`0.6 draws better than the default, 0.8 (CRPS 0.298, lower by 0.014 [0.008, 0.020])`."""
    words, sign = OUTCOME_WORDS[metric], METRICS[metric].sign
    default, shown = table.default, _list_shown(table, metric)
    best = max(shown, key=lambda row: sign * row.differences[metric].mean, default=None)
    if best is None:
        mean = f"{METRICS[metric].label} {format_number(default.get_mean(metric))}"
        return f"{study.title} is not shown to matter for {words.noun} ({mean} with the default, {default.title})"
    if sign * best.differences[metric].mean > 0:
        return f"{best.title} {words.verb}s better than the default, {default.title} ({_describe_change(best, metric)})"
    names = ", ".join(row.title for row in shown)
    text = f"no level {words.verb}s better than the default, {default.title}, and {names} {words.verb}"
    return f"{text} worse" if len(shown) > 1 else f"{text}s worse ({_describe_change(best, metric)})"


def _describe_change(row: Row, metric: str) -> str:
    """`CRPS 0.298, lower by 0.014 [0.008, 0.020]`."""
    found = row.differences[metric]
    size = found.orient(1 if found.mean > 0 else -1)
    text = (
        f"{METRICS[metric].label} {format_number(row.get_mean(metric))}, {'higher' if found.mean > 0 else 'lower'} by"
    )
    return f"{text} {format_number(size.mean)} {format_interval(size)}".strip()


def _limit_claims(tables: list[DatasetTable]) -> list[str]:
    """What a claim rests on where no replicate tells how much another training would change."""
    blind = [t.name for t in tables if not t.noise_known and any(_list_shown(t, metric) for metric in t.outcomes)]
    if not blind:
        return []
    return [f"For {', '.join(blind)} this holds for the models that were trained; another training may differ."]


def explain_outcomes(results: StudyResults) -> list[str]:
    """Why a study has one outcome, where it has one."""
    if results.outcomes == OUTCOMES:
        return []
    asked = results.config.get(_N_DRAWS)
    if _N_DRAWS not in results.study.paths and isinstance(asked, int) and asked < FEWEST_DRAWS:
        why = f"{_N_DRAWS} is {asked}, and fewer than {FEWEST_DRAWS} draws are not scored"
    else:
        why = "no finished trial has scores of its draws, which earlier versions did not compute"
    return [f"This study has one outcome, {OUTCOME_WORDS[PRIMARY].noun}: {why}."]


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


def judge(table: DatasetTable) -> str:
    """Which level is best on a data set in each outcome, whether it differs from the default, where the floor is."""
    found = {metric: _judge_outcome(table, metric) for metric in table.outcomes}
    if len(found) == 1 or not any(row.trials and row.trials.ok for row in table.levels):
        return found[PRIMARY]
    return " ".join(f"{describe_outcome(metric)}: {text}" for metric, text in found.items())


def _judge_outcome(table: DatasetTable, metric: str) -> str:
    best, default, label = table.find_best(metric), table.default, METRICS[metric].label
    if best is None and any(row.trials and row.trials.ok for row in table.levels):
        if metric != PRIMARY:
            return "No trial has a score of its draws, so there is no answer."
        return "No test gene could be scored (evaluation.min_spot_fraction), so there is no answer."
    if best is None:
        return "No trial finished, so there is no answer."
    if not default.knows(metric):
        return (
            f"The default, {default.title}, has no result, so no level can be compared with it; "
            f"{best.title} has the {name_extreme(metric)} mean {label}, {best.get_mean(metric):.3f}."
        )
    sentences = [_compare_with_default(best, default, table.levels, metric)]
    hidden = best.differences.get(HIDDEN_PRIMARY)  # of the published protocol
    if metric == PRIMARY and hidden is not None and hidden.is_known:
        sentences.append(f"On the hidden entries alone it is {describe_gap(hidden, 'the default')}.")
    best_floor, over = table.find_best_floor(metric), table.over_floor.get(metric)
    if best_floor and over and over.is_known:
        floor = f"{OUTCOME_WORDS[metric].floor}, {best_floor.title} at {best_floor.get_mean(metric):.3f}"
        sentences.append(f"{best.title} is {describe_gap(over, floor)}.")
    return " ".join([*sentences, *_explain_better_mean(best, table.levels, metric)])


def _compare_with_default(best: Row, default: Row, levels: list[Row], metric: str) -> str:
    sign, mean = METRICS[metric].sign, f"mean {METRICS[metric].label} of"
    differences = [row.differences[metric] for row in levels if not row.is_default]
    if differences and all(d.is_known and max(abs(d.low), abs(d.high)) < NEGLIGIBLE for d in differences):
        return (
            f"The levels do as well as each other, with a {mean} {default.get_mean(metric):.3f}: no difference "
            f"from the default, {default.title}, reaches {NEGLIGIBLE} anywhere in its {CONFIDENCE_PERCENT} interval."
        )
    if not best.is_default:
        made_of = _describe_replicates(best, metric)
        found = describe_gap(best.differences[metric], f"the default, {default.title}", made_of)
        return f"{best.title} is best with a {mean} {best.get_mean(metric):.3f}, {found}."
    others = [row for row in levels if not row.is_default and row.differences[metric].is_known]
    opening = f"The default, {default.title}, is best with a {mean} {default.get_mean(metric):.3f}"
    if not others:
        return f"{opening}; no other level has a result."
    closest = max(others, key=lambda row: sign * row.differences[metric].mean)
    found = describe_gap(closest.differences[metric], "it", _describe_replicates(closest, metric))
    return f"{opening}; the closest level, {closest.title}, is {found}."


def _explain_better_mean(best: Row, levels: list[Row], metric: str) -> list[str]:
    """Why the level with the best mean is not called the best, where it is not."""
    sign = METRICS[metric].sign
    top = max((row for row in levels if row.knows(metric)), key=lambda row: sign * row.get_mean(metric))
    if sign * top.get_mean(metric) <= sign * best.get_mean(metric):
        return []
    return [
        f"{top.title} has a {METRICS[metric].direction} mean, {top.get_mean(metric):.3f}, but from other trials; on "
        f"the seeds and genes it shares with the default it does not do better than {best.title}."
    ]


def _describe_replicates(row: Row, metric: str) -> str:
    found, by_seed = row.differences[metric], row.by_seed.get(metric, {})
    text = f"; {describe_design(found)}" if len(by_seed) != 1 else f"; {describe_design(found)} only"
    if len(by_seed) > 1:
        text += f", the same sign in {row.count_agreeing(metric)} of {len(by_seed)} seeds"
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
