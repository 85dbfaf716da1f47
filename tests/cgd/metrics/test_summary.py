"""From one value per gene to one number, of the best guess and of the draws."""

import math

import numpy as np
import pandas as pd
import pytest

from cgd.metrics.summary import summarise_table


def table(**columns):
    return pd.DataFrame({"gene": [f"G{i}" for i in range(len(next(iter(columns.values()))))], **columns})


def test_a_score_of_draws_that_is_missing_costs_no_gene():
    found = summarise_table(table(pcc=[0.2, 0.4], crps=[0.3, 0.5], moran_error=[math.nan, 0.1]), "test_")
    assert found["test_pcc"] == pytest.approx(0.3)
    assert found["test_crps"] == pytest.approx(0.4)
    assert found["test_moran_error"] == pytest.approx(0.1)
    assert (found["n_genes"], found["n_scored"]) == (2.0, 2.0)


def test_draws_of_genes_that_cannot_be_scored_do_not_count():
    found = summarise_table(table(pcc=[0.2, math.nan], ssim=[0.2, 0.3], crps=[0.3, 0.5]), "test_")
    assert found["test_crps"] == pytest.approx(0.3)
    assert found["n_scored"] == 1.0


def test_coverage_of_the_draws_has_no_prefix():
    found = summarise_table(table(pcc=[0.2], coverage_90_raw=[0.8], coverage_50_raw=[0.4]), "test_")
    assert found["coverage_90_raw"] == 0.8
    assert found["test_coverage_50_raw"] == 0.4
    assert "test_coverage_90_raw" not in found


def test_a_floor_has_the_means_of_what_it_has():
    nothing = np.full(2, math.nan)
    draws = summarise_table(table(pcc=nothing, ssim=nothing, crps=[0.3, 0.5]))
    assert draws["crps"] == pytest.approx(0.4)
    assert math.isnan(draws["pcc"])
    ceiling = summarise_table(table(pcc=[0.6, 0.8], ssim=nothing, crps=nothing))
    assert ceiling["pcc"] == pytest.approx(0.7)
    assert math.isnan(ceiling["crps"])
