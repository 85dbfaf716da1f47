"""What a report says, before it is set in any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ablations.findings.comparison_verdict import comparison_opening, comparison_verdict, failed_lines, method_notes
from ablations.findings.results import StudyResults
from ablations.findings.table_one import TableOne, build_table_one
from ablations.findings.tables import DatasetTable
from ablations.findings.verdict import PERCENT, notes, opening, troubles, verdict
from ablations.findings.wording import percent, plain
from ablations.report.sheets.comparison import overall_sheet, table_one_sheet
from ablations.report.sheets.context import cheapest_sentences, cost_sheet, forecast_sheet, older_sheet, paper_sheet
from ablations.report.sheets.intervals import interval_sheet
from ablations.report.sheets.results import dataset_sheet, effects_sheet, fractions_sheet, levels_sheet
from ablations.report.sheets.sheet import Sheet
from ablations.statistics.intervals import N_RESAMPLES
from ablations.study.study import Study

_FACTS = (("n_spots", "spots"), ("n_cells", "cells"), ("n_genes", "genes"), ("n_test", "test genes"))


@dataclass(frozen=True)
class Content:
    """Everything in the order of the page.

    Attributes
    ----------
    opening, troubles, verdicts, notes
        The first line; what must be known before a number is read; (data set, sentences); what intervals leave out.
    intervals
        The table of coverages and widths; None where no trial recorded any.
    levels, fixed
        (label, what it sets, whether it is the default) per level; dotted path -> value of all that was not varied.
    stamp, copied
        The line of the published protocol and (data set, copied share); empty under any other.
    effects, levels_by_data, data_sets, fractions, cost, paper, forecast, older
        The tables; None where there is nothing to say. Of a comparison `data_sets` are its Tables I.
    table_one, overall, method_notes
        Of a comparison of methods: its numbers, the table over all data sets, (method, what is to be said of it).
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
    effects: Sheet
    levels_by_data: Sheet | None
    data_sets: list[Sheet]
    fractions: Sheet
    cost: Sheet
    cheapest: list[str]
    paper: Sheet | None
    intervals: Sheet | None
    forecast: Sheet | None
    older: Sheet | None
    trials: list[dict[str, Any]]
    unfinished: list[dict[str, Any]]
    table_one: TableOne | None = None
    overall: Sheet | None = None
    method_notes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """The first line as it stands away from its page; under the published protocol the stamp goes before it."""
        return f"{self.stamp} {self.opening}".strip()

    @property
    def sheets(self) -> list[Sheet]:
        """All tables, in the order of the page."""
        if self.overall is not None:
            found: list[Sheet | None] = [self.overall, *self.data_sets]
        else:
            found = [self.effects, self.levels_by_data, *self.data_sets, self.fractions, self.cost, self.paper]
        return [sheet for sheet in (*found, self.intervals, self.forecast, self.older) if sheet is not None]


def gather(results: StudyResults, tables: list[DatasetTable]) -> Content:
    """Everything a report says about a study."""
    content = _gather(results, tables)
    return _as_comparison(content, build_table_one(results, tables)) if results.study.is_comparison else content


def _as_comparison(content: Content, found: TableOne) -> Content:
    """The content with methods compared in place of levels with a default."""
    results = content.results
    return replace(
        content,
        opening=comparison_opening(results, found),
        troubles=[*content.troubles, *(line for one in found.data_sets for line in failed_lines(one))],
        verdicts=[(one.table.name, comparison_verdict(one)) for one in found.data_sets],
        data_sets=[table_one_sheet(results, one) for one in found.data_sets],
        table_one=found,
        overall=overall_sheet(results, found),
        method_notes=method_notes(results, found.overall),
    )


def _gather(results: StudyResults, tables: list[DatasetTable]) -> Content:
    trials = results.trials.astype(object).where(results.trials.notna(), None).to_dict("records")
    return Content(
        results=results,
        tables=tables,
        opening=opening(results, tables),
        troubles=troubles(tables),
        verdicts=[(table.name, verdict(results, table)) for table in tables],
        notes=notes(tables),
        levels=[(row.label, _settings(row.values), row.is_default) for row in results.study.combinations],
        fixed=_fixed(results),
        stamp=stamp(results),
        copied=[(t.name, percent(t.copied_share, 1)) for t in tables] if results.protocol == "published" else [],
        effects=effects_sheet(results, tables),
        levels_by_data=levels_sheet(results, tables) if results.study.figure == "table" else None,
        data_sets=[dataset_sheet(results, table) for table in tables],
        fractions=fractions_sheet(results, tables),
        cost=cost_sheet(results, tables),
        cheapest=cheapest_sentences(tables),
        paper=paper_sheet(results),
        intervals=interval_sheet(results, tables),
        forecast=forecast_sheet(results),
        older=older_sheet(results, tables),
        trials=trials,
        unfinished=[trial for trial in trials if trial["status"] != "FINISHED"],
    )


def stamp(results: StudyResults) -> str:
    """What every table and figure of the published protocol must say; empty under any other."""
    if results.protocol != "published":
        return ""
    shown = percent(1 - results.config["evaluation.hidden_fraction"])
    return f"Published protocol: all zeros and {shown} of the non-zeros of the test genes are copied from the truth."


def stamp_meaning(content: Content) -> str:
    """What the stamp means for who reads the numbers."""
    shares = "; ".join(f"{name} {share}" for name, share in content.copied)
    return (
        "These numbers compare with the paper's tables only; they do not say how well a gene that was never measured "
        f"is predicted. Share of a test gene's entries that is copied, on average: {shares}. The metrics over the "
        "hidden entries alone stand beside."
    )


def facts(table: DatasetTable) -> str:
    """`1 549 spots · 14 249 cells`, as far as recorded."""
    known = [(table.facts[key], what) for key, what in _FACTS if table.facts.get(key) is not None]
    return " · ".join(f"{value:,} {what}".replace(",", "\u202f") for value, what in known)


def design(content: Content) -> str:
    """Seeds and folds."""
    trials = content.results.trials
    lists = (", ".join(map(str, sorted(set(trials[key])))) for key in ("seed", "fold"))
    return "Seeds {}; folds {}.".format(*lists)


def method(study: Study) -> str:
    """How means, intervals and corrections were made."""
    what = "A lead is a difference" if study.is_comparison else "An effect is the difference to the default"
    how = (
        "A mean is taken over genes; a gene that cannot be scored is left out and counted. "
        f"{what}, paired by seed, fold and gene. Intervals hold with {PERCENT} confidence: "
        f"Student's t over the genes within their folds, corrected for skewness by {N_RESAMPLES} bootstrap resamples "
        "of the genes, and widened for the noise between trained models where the replicates tell."
    )
    if study.is_comparison:
        return (
            f"{how} Holm's correction runs over all methods and floors of all data sets for the leads of the reference "
            "(for PCC, and apart from it for PCC over hidden entries), and over all methods of all data sets for the "
            "differences to the best floor, which is the floor with the highest mean PCC on a data set; being the best "
            "of several flatters it a little."
        )
    return (
        f"{how} Holm's correction runs over all levels and data sets of the study, for PCC (and apart from it for "
        "PCC over hidden entries); neither the other metrics nor the lead over the strongest floor are corrected. The "
        "best level is the one furthest above the default; being the best of several flatters it a little."
    )


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {plain(value)}" for path, value in values.items())


def _fixed(results: StudyResults) -> dict[str, str]:
    varied = {*results.study.paths, "seed"}
    return {path: plain(value) for path, value in results.config.items() if path not in varied}
