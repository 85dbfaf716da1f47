"""What a report says, before it is set in any format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ablations.findings.comparison_verdict import judge_comparison, list_failures, open_comparison
from ablations.findings.results import StudyResults
from ablations.findings.table_one import TableOne, build_table_one
from ablations.findings.tables import DatasetTable, build_tables
from ablations.findings.verdict import explain_outcomes, judge, list_notes, list_troubles, open_report
from ablations.findings.wording import CONFIDENCE_PERCENT, format_percent, format_value
from ablations.report.sheets.comparison import make_draws_of_methods, make_overall, make_table_one
from ablations.report.sheets.context import (
    make_costs,
    make_forecast,
    make_intervals,
    make_older,
    make_paper,
    make_predicted,
)
from ablations.report.sheets.draws import make_draws
from ablations.report.sheets.results import make_data_set, make_effects, make_fractions, make_levels
from ablations.report.sheets.sheet import DATA_SET, TABLE_ONE, TABLE_ONE_DRAWS, Sheet
from ablations.statistics.intervals import N_RESAMPLES
from ablations.study.study import Study
from cgd.metrics.facts import METRICS, OUTCOMES


@dataclass(frozen=True)
class Content:
    """Everything in the order of the page.

    Attributes
    ----------
    opening, troubles, verdicts, notes
        The first line; what must be known before a number is read; (data set, sentences); what intervals leave out.
    levels, fixed
        (label, what it sets, whether it is the default) per level; dotted path -> value of all that was not varied.
    stamp, copied
        The line of the published protocol and (data set, copied share); empty under any other.
    sheets
        The tables in the order of the page; of a comparison of methods those of Table I in place of effects.
    table_one
        The numbers of a comparison, else None.
    unfinished, trials
        Trials as mappings: those without a result, and all.
    """

    results: StudyResults
    tables: list[DatasetTable]
    opening: str
    troubles: list[str]
    verdicts: list[tuple[str, str]]
    notes: list[str]
    levels: list[tuple[str, str, bool]]
    fixed: dict[str, str]
    stamp: str
    copied: list[tuple[str, str]]
    sheets: list[Sheet]
    trials: list[dict[str, Any]]
    unfinished: list[dict[str, Any]]
    table_one: TableOne | None

    @property
    def headline(self) -> str:
        """The first line as it stands away from its page; under the published protocol the stamp goes before it."""
        return f"{self.stamp} {self.opening}".strip()

    @property
    def data_sets(self) -> list[Sheet]:
        """The tables of one data set each, of the best guess."""
        return [sheet for sheet in self.sheets if sheet.key.startswith((DATA_SET, TABLE_ONE))]

    @property
    def draws_of_methods(self) -> list[Sheet]:
        """Those of the draws in a comparison."""
        return [sheet for sheet in self.sheets if sheet.key.startswith(TABLE_ONE_DRAWS)]

    def find(self, key: str) -> Sheet | None:
        """The table of that key, where there is one."""
        return next((sheet for sheet in self.sheets if sheet.key == key), None)


def gather(results: StudyResults, n_resamples: int = N_RESAMPLES) -> Content:
    """Everything a report says about a study. `n_resamples`: of the bootstrap behind the intervals."""
    tables = build_tables(results, n_resamples)
    found = build_table_one(results, tables, n_resamples) if results.study.is_comparison else None
    varied = {*results.study.paths, "seed"}
    trials = results.trials.astype(object).where(results.trials.notna(), None).to_dict("records")
    places = found.data_sets if found else ()
    return Content(
        results=results,
        tables=tables,
        opening=open_comparison(results, found) if found else open_report(results, tables),
        troubles=[*list_troubles(tables), *(line for one in places for line in list_failures(one))],
        verdicts=[(one.table.name, judge_comparison(one)) for one in places]
        or [(table.name, judge(table)) for table in tables],
        notes=[*explain_outcomes(results), *list_notes(tables)],
        levels=[
            (row.label, ", ".join(f"{path} = {format_value(v)}" for path, v in row.values.items()), row.is_default)
            for row in results.study.combinations
        ],
        fixed={path: format_value(value) for path, value in results.config.items() if path not in varied},
        stamp=write_stamp(results),
        copied=[(t.name, format_percent(t.copied_share, 1)) for t in tables] if results.protocol == "published" else [],
        sheets=_make_sheets(results, tables, found),
        trials=trials,
        unfinished=[trial for trial in trials if trial["status"] != "FINISHED"],
        table_one=found,
    )


def _make_sheets(results: StudyResults, tables: list[DatasetTable], found: TableOne | None) -> list[Sheet]:
    sheets: list[Sheet | None] = []
    if found:
        sheets += [make_overall(results, found, metric) for metric in results.outcomes]
        for one in found.data_sets:
            sheets += [make_table_one(results, one), make_draws_of_methods(results, one)]
        sheets.append(make_predicted(results, tables))
    else:
        sheets.append(make_effects(results, tables))
        if results.study.figure == "table":
            sheets += [make_levels(results, tables, metric) for metric in results.outcomes]
        for table in tables:
            sheets += [make_data_set(results, table), make_draws(results, table)]
        sheets += [make_predicted(results, tables), make_fractions(results, tables), make_costs(results, tables)]
        sheets.append(make_paper(results))
    sheets += [make_intervals(results, tables), make_forecast(results), make_older(results, tables)]
    return [sheet for sheet in sheets if sheet is not None]


def write_stamp(results: StudyResults) -> str:
    """What every table and figure of the published protocol must say; empty under any other."""
    if results.protocol != "published":
        return ""
    shown = format_percent(1 - results.config["evaluation.hidden_fraction"])
    return f"Published protocol: all zeros and {shown} of the non-zeros of the test genes are copied from the truth."


def explain_stamp(content: Content) -> str:
    """What the stamp means for who reads the numbers."""
    shares = "; ".join(f"{name} {share}" for name, share in content.copied)
    return (
        "These numbers compare with the paper's tables only; they do not say how well a gene that was never measured "
        f"is predicted. Share of a test gene's entries that is copied, on average: {shares}. The metrics over the "
        "hidden entries alone stand beside."
    )


def describe_replicates(content: Content) -> str:
    """Seeds and folds."""
    trials = content.results.trials
    lists = (", ".join(map(str, sorted(set(trials[key])))) for key in ("seed", "fold"))
    return "Seeds {}; folds {}.".format(*lists)


def describe_statistics(study: Study) -> str:
    """How means, intervals and corrections were made."""
    what = "A lead is a difference" if study.is_comparison else "An effect is the difference to the default"
    how = (
        "A mean is taken over genes; a gene that cannot be scored is left out and counted. "
        f"{what}, paired by seed, fold and gene. Intervals hold with {CONFIDENCE_PERCENT} confidence: "
        f"Student's t over the genes within their folds, corrected for skewness by {N_RESAMPLES} bootstrap resamples "
        "of the genes, and widened for the noise between trained models where the replicates tell."
    )
    families = f"of all outcomes ({', '.join(METRICS[m].label for m in OUTCOMES)}, as far as there are any) together"
    if study.is_comparison:
        return (
            f"{how} Holm's correction runs over all methods and floors of all data sets for the leads of the reference "
            f"({families}; apart from it over hidden entries), and over all methods of all data sets for the "
            "differences to the best floor, which is the floor that does best in an outcome on a data set; being the "
            "best of several flatters it a little."
        )
    return (
        f"{how} Holm's correction runs over all levels and data sets of the study, {families} (and apart from it "
        "over hidden entries); neither the other metrics nor the lead over the best floor are corrected. The best "
        "level is the one furthest on the better side of the default; being the best of several flatters it a little."
    )
