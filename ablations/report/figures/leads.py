"""The figure of a comparison: the reference minus every method and the best floor (a forest plot)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from ablations.findings.rows import Row
from ablations.findings.table_one import DatasetPlaces, TableOne
from ablations.findings.wording import shorten_name
from ablations.report.figures.effects import draw_effects
from ablations.study.study import Study


def draw_leads(study: Study, found: TableOne, stamp: str = "") -> Figure:
    """One row per method and data set, and one for the best floor of each."""
    tables = [replace(one.table, rows=tuple(_rows(one))) for one in found.data_sets]
    return draw_effects(study, tables, stamp, measure=f"PCC of {study.default_label} − PCC of the other")


def _rows(one: DatasetPlaces) -> Sequence[Row]:
    others = [replace(place.row, differences=place.leads) for place in one.methods]
    if one.best_floor is None:
        return others
    floor = one.best_floor.row
    named = replace(floor, kind="level", title=f"best floor: {shorten_name(floor)}", differences=one.best_floor.leads)
    return [*others, named]
