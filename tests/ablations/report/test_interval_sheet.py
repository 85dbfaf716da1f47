"""What a report says of the intervals of 90 %."""

from dataclasses import replace

import numpy as np
import pytest

from ablations.findings.tables import build_tables
from ablations.report.content import gather
from ablations.report.formats.tidy import tabulate_numbers
from ablations.report.sheets.context import _GUARANTEED_FROM
from cgd.calibration import N_POINTS, Calibration, SpreadTrend


@pytest.fixture(scope="module")
def tables(heldout):
    return build_tables(heldout, n_resamples=50)


def test_coverage_stands_beside_that_of_draws_and_of_no_model(heldout, tables):
    sheet = gather(heldout, n_resamples=50).find("intervals")
    rows = [[cell.text for cell in line.cells] for line in sheet.lines]
    numbers = ["91.2 %", "55.0 %", "2.50", "2.88", "18"]
    assert rows == [["tissue_a", "frozen", *numbers], ["tissue_a", "joint", *numbers]]  # tissue_b recorded none
    assert len(sheet.columns) == len(rows[0])


def test_too_few_genes_to_guarantee_them_are_said(heldout, tables):
    def last(n_genes):
        changed = replace(heldout, trials=heldout.trials.assign(calibration_genes=float(n_genes)))
        return gather(changed, n_resamples=50).find("intervals").lines[0].cells[-1]

    assert last(18).notes == ("too few to guarantee 90 %",)
    assert last(18).is_bad
    assert last(19).notes == ()


def test_report_and_calibration_agree_how_many_are_enough():
    trend = SpreadTrend(0.0, 0.0, 1.0, 1.0)
    enough, too_few = (Calibration(np.ones((n, N_POINTS)), trend) for n in (_GUARANTEED_FROM, _GUARANTEED_FROM - 1))
    assert enough.is_guaranteed(0.9)
    assert not too_few.is_guaranteed(0.9)


def test_means_are_over_the_finished_trials(heldout):
    trials = heldout.trials.copy()
    own = (trials["dataset"] == "tissue_b") & (trials["level"] == "joint")  # its seed 1 failed
    trials.loc[own & (trials["seed"] == 0), "coverage_90"] = 0.875
    trials.loc[own & (trials["seed"] == 1), "coverage_90"] = 0.1
    table = build_tables(replace(heldout, trials=trials), n_resamples=50)[1]
    row = next(row for row in table.levels if row.name == "joint")
    assert row.intervals["coverage_90"] == 0.875
    assert np.isnan(row.intervals["interval_width_90"])


def test_a_study_whose_trials_recorded_none_has_no_such_table(heldout):
    bare = replace(heldout, trials=heldout.trials.assign(**dict.fromkeys(
        ["coverage_90", "coverage_90_raw", "interval_width_90", "interval_width_90_constant", "calibration_genes"],
        float("nan"),
    )))  # fmt: skip
    content = gather(bare, n_resamples=50)
    assert content.find("intervals") is None
    assert "intervals" not in {sheet.key for sheet in content.sheets}


def test_they_are_among_the_numbers_of_the_csv(heldout, tables):
    frame = (
        tabulate_numbers(heldout, tables)
        .query("dataset == 'tissue_a' and name == 'joint'")
        .set_index("quantity")["value"]
    )
    assert frame["coverage_90"] == pytest.approx(0.912)
    assert frame["interval_width_90_constant"] == pytest.approx(2.875)
