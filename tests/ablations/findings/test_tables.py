import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from ablations.findings.forecast import compare_forecast
from ablations.findings.study_json import Forecast, TrialForecast
from ablations.findings.tables import build_tables
from ablations.findings.verdict import judge, list_notes, open_report
from ablations.statistics.paired import Estimate
from ablations.study.study import load_study

NOTHING = f"{load_study('decoder_training').title} is not shown to matter for the best guess"


def changed(results, **columns):
    """`results` with columns of its trials replaced."""
    return dataclasses.replace(results, trials=results.trials.assign(**columns))


def with_effect(results, smallest):
    return dataclasses.replace(results, study=results.study.model_copy(update={"smallest_effect": smallest}))


def noisy(results, spread=0.05):
    """`results` with noise per gene on the levels other than the default, so that no difference is sharp."""
    genes = results.per_gene.copy()
    rows = genes["level"] == "joint"
    noise = dict(zip(genes["gene"].unique(), np.random.default_rng(0).normal(0, spread, 12), strict=True))
    genes.loc[rows, "pcc"] = genes.loc[rows, "pcc"] + 0.05 + genes.loc[rows, "gene"].map(noise)
    return dataclasses.replace(results, per_gene=genes)


@pytest.fixture(scope="module")
def tables(heldout):
    return build_tables(heldout, n_resamples=200)


def test_fractions_put_the_best_floor_at_0_and_the_ceiling_at_1(tables):
    rows = {row.name: row for row in tables[0].rows}
    assert rows["kernel_ridge"].fractions["pcc"] == 0.0
    assert rows["ceiling"].fractions["pcc"] == 1.0
    frozen, floor, ceiling = (rows[name].estimates["pcc"].mean for name in ("frozen", "kernel_ridge", "ceiling"))
    assert rows["frozen"].fractions["pcc"] == pytest.approx((frozen - floor) / (ceiling - floor))
    assert rows["random"].fractions["ssim"] < 0


def test_fewer_genes_are_placed_between_their_floor_and_ceiling(heldout):
    kept = sorted(heldout.per_gene["gene"].unique())[:5]
    lost = (heldout.per_gene["level"] == "joint") & ~heldout.per_gene["gene"].isin(kept)
    results = dataclasses.replace(heldout, per_gene=heldout.per_gene[~lost])
    here = {row.name: row for row in build_tables(results, n_resamples=200)[0].rows}
    own = results.floors[(results.floors["dataset"] == "tissue_a") & results.floors["gene"].isin(kept)]
    floor, ceiling = (own[own["method"] == name]["pcc"].mean() for name in ("kernel_ridge", "ceiling"))
    expected = (here["joint"].estimates["pcc"].mean - floor) / (ceiling - floor)
    assert here["joint"].fractions["pcc"] == pytest.approx(expected)
    whole = {row.name: row for row in build_tables(heldout, n_resamples=200)[0].rows}
    assert here["frozen"].fractions["pcc"] == whole["frozen"].fractions["pcc"]
    assert here["joint"].fractions["pcc"] != pytest.approx(whole["joint"].fractions["pcc"])


def test_an_error_has_its_lowest_floor_and_maybe_no_fraction(tables):
    """In the made-up store errors rise with PCC, so the best floor in RMSE is `random` and the ceiling is worst."""
    assert tables[0].floor_of["pcc"] == "kernel_ridge"
    assert tables[0].floor_of["rmse"] == "random"
    assert all(math.isnan(row.fractions["rmse"]) for row in tables[0].rows)


def test_holm_counts_every_level_and_data_set(heldout):
    tables = build_tables(noisy(heldout), n_resamples=200)
    found = [row.differences["pcc"] for table in tables for row in table.levels if row.differences]
    assert len(found) == 2
    low, high = sorted(found, key=lambda e: e.p)
    assert low.p_holm == pytest.approx(min(1.0, 2 * low.p))
    assert high.p_holm == pytest.approx(max(high.p, low.p_holm))
    assert all(math.isnan(row.differences["ssim"].p_holm) for table in tables for row in table.levels[1:])


def test_hidden_entries_have_a_correction_of_their_own(published):
    found = build_tables(published, n_resamples=200)[0].levels[1].differences
    assert found["hidden_pcc"].p_holm >= found["hidden_pcc"].p
    assert math.isnan(found["hidden_ssim"].p_holm)


def test_costs_are_summed_and_unknown_ones_are_not_guessed(heldout):
    row = build_tables(changed(heldout, n_parameters=1000.0, n_workers=1.0), n_resamples=200)[0].levels[0]
    assert (row.n_parameters, row.n_replicates) == (1000.0, 2)
    assert row.cpu_hours == pytest.approx(2 * (10 + 11) / 3600)
    assert row.gpu_hours == 0.0
    on_gpu = build_tables(changed(heldout, device="cuda", n_workers=1.0), n_resamples=200)[0].levels[0]
    assert on_gpu.gpu_hours == pytest.approx(21 / 3600)
    by_four = build_tables(changed(heldout, device="cuda", n_workers=4.0), n_resamples=200)[0].levels[0]
    assert by_four.gpu_hours == pytest.approx(4 * 21 / 3600)
    assert by_four.cpu_hours == pytest.approx(4 * row.cpu_hours)
    unknown = build_tables(changed(heldout, device=None, n_threads=math.nan), n_resamples=200)[0].levels[0]
    assert math.isnan(unknown.cpu_hours)
    assert math.isnan(unknown.gpu_hours)


def test_the_cheapest_level_is_among_those_as_good_as_the_best(heldout, tables):
    seconds = heldout.trials["level"].map({"frozen": 30.0, "joint": 10.0})
    sharp = build_tables(changed(heldout, wall_seconds=seconds), n_resamples=200)[0]
    assert sharp.cheapest is sharp.find_best("pcc")
    assert sharp.best_versus["pcc"]["joint"].high < 0
    blurred = build_tables(changed(noisy(heldout), wall_seconds=seconds), n_resamples=200)[0]
    assert blurred.cheapest.name == "joint"
    assert build_tables(changed(heldout, wall_seconds=math.nan), n_resamples=200)[0].cheapest is None


def test_results_of_older_code_stay_apart(heldout):
    entry = {"dataset": "tissue_a", "level": "joint", "fold": 0, "code_version": "0.0.9", "run_id": "x"}
    runs = [
        entry | {"seed": 0, "pcc": 0.1, "when": "2026-01-02"},
        entry | {"seed": 1, "pcc": 0.3, "when": "2026-01-03"},
    ]
    tables = build_tables(dataclasses.replace(heldout, older=pd.DataFrame(runs)), n_resamples=200)
    (row,) = tables[0].older
    assert (row.level, row.code_version, row.n_trials, row.when) == ("joint", "0.0.9", 2, "2026-01-03")
    assert row.means["pcc"] == pytest.approx(0.2)
    assert tables[1].older == ()
    assert tables[0].levels[1].estimates["pcc"].mean == pytest.approx(0.2545, abs=0.001)


def test_a_level_that_a_data_set_does_not_have_has_no_row(heldout):
    """`only_on` limits a level; the other data set neither shows it nor counts it as missing."""
    joint = heldout.study.levels[1].model_copy(update={"only_on": ("tissue_b",)})
    study = heldout.study.model_copy(update={"levels": (heldout.study.levels[0], joint)})
    here, there = build_tables(dataclasses.replace(heldout, study=study), n_resamples=200)
    assert [row.name for row in here.levels] == ["frozen"]
    assert [row.name for row in there.levels] == ["frozen", "joint"]


def test_a_study_that_is_too_small_says_so_first(heldout):
    results = with_effect(noisy(heldout), 0.01)
    tables = build_tables(results, n_resamples=200)
    assert all(table.too_small for table in tables)
    text = open_report(results, tables)
    mde = tables[0].levels[1].differences["pcc"].mde
    assert text.startswith("Too small to see what it asks, a difference of 0.01 in mean PCC.")
    assert f"tissue_a: 8 times in 10 it would find {mde:.3f} or more (11 genes, 1 fold, 2 seeds; before Holm's" in text
    assert "folds" in text.split("tissue_a")[1].split("would do")[0]
    assert "more than its panel of 120" in text
    larger = with_effect(results, 0.02)
    assert "more than its panel" not in open_report(larger, build_tables(larger, n_resamples=200)).split("tissue_b")[0]


def test_a_study_of_one_gene_is_too_small_for_anything(heldout):
    genes = heldout.per_gene[heldout.per_gene["gene"] == "Gene1"]
    results = dataclasses.replace(heldout, per_gene=genes)
    tables = build_tables(results, n_resamples=200)
    assert all(table.too_small for table in tables)
    text = open_report(results, tables)
    assert text.startswith("Too small to see what it asks, a difference of 0.01 in mean PCC. tissue_a: 1 gene, 1 fold,")
    assert "no interval" in text


def test_the_same_study_is_large_enough_for_a_larger_effect(heldout):
    results = with_effect(noisy(heldout), 0.5)
    tables = build_tables(results, n_resamples=200)
    assert not any(table.too_small for table in tables)
    assert open_report(results, tables).startswith(f"tissue_a: {NOTHING} (PCC 0.305 with the default, frozen)")


def test_the_opening_gives_the_answer_where_there_is_one(heldout, tables):
    text = open_report(heldout, tables)
    worse = "no level predicts better than the default, frozen, and joint predicts worse (PCC 0.255, lower by 0.050 ["
    assert text.startswith(f"tissue_a: {worse}")
    assert text.endswith(
        "For tissue_a, tissue_b this holds for the models that were trained; another training may differ."
    )


def test_training_noise_that_was_not_measured_is_noted(heldout, tables):
    assert not tables[0].noise_known
    assert list_notes(tables)[0].startswith("tissue_a, tissue_b: too few replicates to estimate the training noise")
    assert "training noise not included" in judge(tables[0])
    genes = pd.concat([heldout.per_gene, heldout.per_gene[heldout.per_gene["seed"] == 0].assign(seed=2)])
    three = build_tables(dataclasses.replace(heldout, per_gene=genes), n_resamples=200)
    assert three[0].noise_known
    assert open_report(heldout, three).endswith(
        "For tissue_b this holds for the models that were trained; another training may differ."
    )
    assert "tissue_a" not in list_notes(three)[0]  # tissue_b lost a seed


def test_seeds_of_one_fold_say_nothing_of_other_training_genes(heldout):
    genes = [heldout.per_gene[heldout.per_gene["seed"] == 0].assign(seed=seed) for seed in range(3)]
    seeds = dataclasses.replace(heldout, per_gene=pd.concat(genes))
    text = "tissue_a, tissue_b: fewer than 3 folds, so the intervals hold for these training genes"
    assert [note.startswith(text) for note in list_notes(build_tables(seeds, n_resamples=200))] == [True]
    folds = [table.assign(gene=table["gene"] + f"_{fold}", fold=fold, seed=0) for fold, table in enumerate(genes)]
    assert list_notes(build_tables(dataclasses.replace(heldout, per_gene=pd.concat(folds)), n_resamples=200)) == []


def test_a_difference_lost_in_the_correction_is_not_claimed(heldout, tables):
    found = tables[0].levels[1].differences["pcc"]
    weak = dataclasses.replace(found, p=0.04, p_holm=0.08)
    row = dataclasses.replace(tables[0].levels[1], differences={**tables[0].levels[1].differences, "pcc": weak})
    table = dataclasses.replace(tables[0], rows=(*tables[0].rows[:-1], row))
    assert "excludes zero, but Holm-corrected p = 0.080, so no difference is shown" in judge(table)
    assert open_report(heldout, [table]) == f"tissue_a: {NOTHING} (PCC 0.305 with the default, frozen)."


def test_an_estimate_without_correction_is_judged_by_its_own_p():
    assert Estimate(1.0, 0.5, 1.5, 9, p=0.01).differs
    assert not Estimate(1.0, 0.5, 1.5, 9, p=0.01, p_holm=0.2).differs


def forecast_for(results, made, seconds=5.0):
    trials = tuple(TrialForecast(key, seconds, memory_mb=256.0) for key in results.trials["fingerprint"])
    return Forecast(n_concurrent=2, trials=trials, made=made)


def test_a_forecast_is_compared_with_what_ran_after_it(heldout):
    started = 1_800_000_000.0 + 10 * np.arange(8)
    results = changed(heldout, started=started, ended=started + 8, wall_seconds=7.0)
    made = pd.Timestamp(started[4] - 1, unit="s", tz="UTC").isoformat()
    found = compare_forecast(dataclasses.replace(results, forecast=forecast_for(results, made)))
    assert found.n_trials == 3  # the last four, of which one failed
    assert (found.trial_seconds.forecast, found.trial_seconds.outcome) == (15.0, 21.0)
    assert found.trial_seconds.ratio == pytest.approx(1.4)
    assert found.wall_seconds.forecast == pytest.approx(20 * 3 / 8)
    assert found.wall_seconds.outcome == 24.0  # three trials of 8 s, with nothing running between them
    assert found.peak_memory_mb.ratio == 2.0


def test_forecast_time_counts_while_any_trial_of_the_study_runs(heldout):
    """The first trial ran long before, with a study that shares it; of the next three each overlaps another."""
    started = np.array([0.0, 1000.0, 1004.0, 1005.0, 1020.0, 1030.0, 1040.0, 1050.0]) + 1_800_000_000
    ended = started + np.array([8.0, 8.0, 8.0, 2.0, 5.0, 5.0, 5.0, 5.0])
    results = changed(heldout, started=started, ended=ended)
    found = compare_forecast(dataclasses.replace(results, forecast=forecast_for(results, "2020-01-01T00:00:00+00:00")))
    failed = (results.trials["status"] != "FINISHED").to_numpy()
    assert found.wall_seconds.outcome == 8.0 + 12.0 + 20.0 - 5.0 * failed[4:].sum()
    assert failed[4:].sum() == 1


def test_no_forecast_or_nothing_run_after_it_is_no_comparison(heldout):
    assert compare_forecast(heldout) is None
    late = forecast_for(heldout, "2999-01-01T00:00:00+00:00")
    assert compare_forecast(dataclasses.replace(heldout, forecast=late)) is None
