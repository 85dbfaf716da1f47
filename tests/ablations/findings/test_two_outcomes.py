"""Every study has two outcomes: what is said of the best guess is said of the draws, where less is better."""

import dataclasses
import json

import made_up_study
import numpy as np
import pandas as pd
import pytest
from made_up_study import made_up, places, results_of

from ablations.findings.comparison_verdict import judge_comparison, open_comparison
from ablations.findings.results import TrialRun, assemble_results
from ablations.findings.stored import write_per_gene
from ablations.findings.study_json import FloorRow, StudyRecord, TrialRow
from ablations.findings.table_one import build_table_one
from ablations.findings.tables import build_tables
from ablations.findings.verdict import explain_outcomes, judge, open_report
from ablations.findings.wording import format_signed
from ablations.statistics.paired import Estimate, correct_holm
from ablations.study.study import load_study
from cgd.metrics.facts import DRAW_SCORES, SCORES

STUDY = load_study("ar_decay")  # 0.7, 0.8 (the default), 0.9, 1.0
TITLE = STUDY.title


def study_of(drawing=STUDY.labels, **options):
    """Both outcomes improve from level to level."""
    found = made_up(STUDY, {"tissue": None}, drawing=drawing, **options)
    return dataclasses.replace(found, study=STUDY.model_copy(update={"smallest_effect": 0.5}))


def moved(results, level, **by):
    """`results` with metrics of a level moved."""
    genes = results.per_gene.copy()
    for metric, change in by.items():
        genes.loc[genes["level"] == level, metric] += change
    return dataclasses.replace(results, per_gene=genes)


def equal(results, *metrics):
    """`results` where no level differs from the default in some metrics."""
    genes = results.per_gene.copy()
    of_default = genes[genes["level"] == "0.8"].set_index(["seed", "gene"])[list(metrics)]
    keys = pd.MultiIndex.from_frame(genes[["seed", "gene"]])
    genes[list(metrics)] = of_default.reindex(keys).to_numpy()
    return dataclasses.replace(results, per_gene=genes)


@pytest.fixture(scope="module")
def results():
    return study_of()


@pytest.fixture(scope="module")
def table(results):
    return build_tables(results, n_resamples=100)[0]


def test_orientation_puts_the_better_side_above_zero():
    found = Estimate(-0.02, -0.03, -0.01, 9, effect_size=-2.0)
    turned = found.orient(-1)
    assert (turned.mean, turned.low, turned.high, turned.effect_size) == (0.02, 0.01, 0.03, 2.0)
    assert found.orient(1) is found


def test_both_outcomes_have_effects_best_levels_and_floors(table):
    assert table.outcomes == ("pcc", "crps")
    assert [table.find_best(metric).name for metric in table.outcomes] == ["1.0", "1.0"]
    assert [table.find_best_floor(metric).name for metric in table.outcomes] == ["kernel_ridge", "counts_center"]
    assert [table.find_ceiling(metric).name for metric in table.outcomes] == ["ceiling", "replicate"]
    row = table.levels[-1]
    assert row.differences["pcc"].mean > 0 > row.differences["crps"].mean
    assert row.count_agreeing("crps") == len(row.by_seed["crps"]) == 3
    assert table.over_floor["pcc"].mean > 0 > table.over_floor["crps"].mean


def test_the_lowest_crps_is_the_best(results):
    table = build_tables(moved(results, "0.7", crps=-0.2), n_resamples=100)[0]
    assert table.find_best("crps").name == "0.7"
    assert table.find_best("pcc").name == "1.0"
    assert table.best_versus["crps"]["1.0"].low > 0


def test_one_family_of_holm_holds_both_outcomes(table):
    found = [row.differences[metric] for row in table.levels if row.differences for metric in table.outcomes]
    assert len(found) == 6
    assert [one.p_holm for one in found] == correct_holm([one.p for one in found])


def test_fractions_of_draws_lie_between_their_floor_and_ceiling(table):
    rows = {row.name: row for row in table.rows}
    assert rows["counts_center"].fractions["crps"] == 0
    assert rows["replicate"].fractions["crps"] == 1
    assert 0 < rows["1.0"].fractions["crps"] < 1
    assert rows["0.7"].fractions["crps"] < 0
    assert np.isnan(rows["1.0"].fractions["coverage_90_raw"])  # neither way is better


def test_scores_that_a_floor_has_not_are_unknown(table):
    rows = {row.name: row for row in table.rows}
    assert not rows["counts_center"].knows("pcc")
    assert not rows["kernel_ridge"].knows("crps")
    assert rows["1.0"].estimates["moran_error"].n_genes == rows["1.0"].estimates["crps"].n_genes - 1
    assert rows["1.0"].estimates["pcc"].n_genes == 40  # a gene without a pattern counts elsewhere


def test_noise_ceilings_are_no_floors(results):
    floors = results.floors.copy()
    floors.loc[floors["method"] == "noise_ceiling_null", "pcc"] = 0.9
    table = build_tables(dataclasses.replace(results, floors=floors), n_resamples=50)[0]
    assert table.find_best_floor("pcc").name == "kernel_ridge"
    assert table.absent_floors == ("depth of the spot",)


def test_the_predicted_share_is_over_the_same_genes(results):
    kept = results.floors[(results.floors["method"] != "noise_ceiling") | (results.floors["gene"] != "Gene0")]
    row = build_tables(dataclasses.replace(results, floors=kept), n_resamples=50)[0].levels[-1]
    genes = results.per_gene[(results.per_gene["level"] == "1.0") & (results.per_gene["gene"] != "Gene0")]
    ceiling = kept[kept["method"] == "noise_ceiling"]["pcc"].mean()
    assert row.predicted.mean == pytest.approx(genes["pcc"].mean())
    assert row.predicted.share == pytest.approx(genes["pcc"].mean() / ceiling)
    assert 0 < row.predicted.null < 0.1 < row.predicted.ceiling


def test_the_cheapest_level_is_as_good_in_both_outcomes(results):
    seconds = results.trials["level"].map({"0.7": 1.0, "0.8": 2.0, "0.9": 3.0, "1.0": 4.0})
    same = equal(results, "pcc", "crps")
    quick = dataclasses.replace(same, trials=results.trials.assign(wall_seconds=seconds))
    assert build_tables(quick, n_resamples=50)[0].cheapest.name == "0.7"
    assert build_tables(moved(quick, "0.7", crps=0.1), n_resamples=50)[0].cheapest.name == "0.8"
    torn = moved(moved(quick, "0.7", crps=-0.1), "1.0", pcc=0.1)
    assert build_tables(torn, n_resamples=50)[0].cheapest is None


# ---- what is said of them


def test_the_opening_speaks_of_both_outcomes(results):
    same = equal(results, "pcc")
    text = open_report(same, build_tables(same, n_resamples=100))
    assert text.startswith(
        f"tissue: {TITLE} is not shown to matter for the best guess (PCC 0.167 with the default, 0.8); "
    )
    assert "; 1.0 draws better than the default, 0.8 (CRPS 0.356, lower by 0.024 [0.02" in text


def test_the_opening_says_where_draws_are_worse(results):
    worse = moved(moved(moved(results, "0.9", crps=0.1), "1.0", crps=0.1), "0.7", crps=0.1)
    text = open_report(worse, build_tables(worse, n_resamples=100))
    assert "1.0 predicts better than the default, 0.8 (PCC 0.188, higher by 0.021 [0.01" in text
    assert "no level draws better than the default, 0.8, and 0.7, 0.9, 1.0 draw worse." in text


def test_a_study_too_small_for_its_question_still_answers_draws(results):
    small = dataclasses.replace(equal(results, "pcc"), study=STUDY.model_copy(update={"smallest_effect": 0.001}))
    genes = small.per_gene.copy()
    rows = genes["level"] == "0.7"
    genes.loc[rows, "pcc"] += 0.05 * np.random.default_rng(0).normal(size=rows.sum())
    small = dataclasses.replace(small, per_gene=genes)
    text = open_report(small, build_tables(small, n_resamples=100))
    assert text.startswith("Too small to see what it asks, a difference of 0.001 in mean PCC.")
    assert "What can be said: tissue: 1.0 draws better than" in text
    assert "best guess" not in text


def test_the_verdict_judges_both_outcomes(table):
    text = judge(table)
    assert text.startswith("The best guess (PCC, higher is better): 1.0 is best with a mean PCC of 0.188, 0.021 above")
    assert "The draws (CRPS, lower is better): 1.0 is best with a mean CRPS of 0.356, 0.024 below the default" in text
    assert "below the best floor of draws, count noise around the centre at 0.382" in text


def test_without_draws_one_outcome_is_left_and_its_reason_said():
    bare = study_of(drawing=())
    assert bare.outcomes == ("pcc",)
    reason = "no finished trial has scores of its draws, which earlier versions did not compute."
    assert explain_outcomes(bare) == [f"This study has one outcome, the best guess: {reason}"]
    none = dataclasses.replace(bare, config=bare.config | {"sampling.n_samples": 1})
    assert "sampling.n_samples is 1, and fewer than 2 draws are not scored" in explain_outcomes(none)[0]
    (table,) = build_tables(none, n_resamples=50)
    assert "draw" not in open_report(none, [table]) + judge(table)
    assert explain_outcomes(study_of()) == []


def test_draws_of_some_levels_are_compared_among_these():
    some = study_of(drawing=("0.8", "1.0"))
    (table,) = build_tables(some, n_resamples=100)
    assert not table.levels[0].differences["crps"].is_known
    assert "1.0 draws better than the default" in open_report(some, [table])
    without_default = study_of(drawing=("0.9", "1.0"))
    (table,) = build_tables(without_default, n_resamples=100)
    assert "no answer for the draws, for want of trials" in open_report(without_default, [table])
    assert "1.0 has the lowest mean CRPS, 0.356" in judge(table)


# ---- what is stored


def make_table(pcc, crps=None, **more):
    table = pd.DataFrame({"gene": ["A", "B"], **{key: [pcc, pcc] for key in SCORES}}).assign(**more)
    return table if crps is None else table.assign(**{key: [crps, None] for key in DRAW_SCORES})


def assemble(trial, floors):
    where = {"dataset": "tissue", "level": "0.8", "seed": 0, "fold": 0}
    record = StudyRecord(
        study=STUDY,
        protocol="heldout_genes",
        config={},
        datasets={"tissue": {}},
        trials=(TrialRow(**where, fingerprint="f", run_id="t", status="FINISHED", error=None),),
        floors=(FloorRow(run_id="g", dataset="tissue", fold=0),),
        versions={},
    )
    metrics = {"test_gene_correlation_error": 0.25, "coverage_90_raw": 0.8}
    tables = {"t": write_per_gene(trial), "g": write_per_gene(floors)}
    return assemble_results("r", record, {"t": TrialRun("FINISHED", metrics, {}, 0, 1)}, tables)


def test_tables_of_an_earlier_version_have_no_draws():
    found = assemble(make_table(0.5), make_table(0.1, method="knn"))
    assert (found.outcomes, found.metrics) == (("pcc",), SCORES)
    assert not set(DRAW_SCORES) & {*found.per_gene, *found.floors}


def test_tables_with_draws_are_read_beside_those_without():
    floors = pd.concat([make_table(0.1, method="knn"), make_table(None, 0.4, method="counts_center")])
    found = assemble(make_table(0.5, 0.3), floors)
    assert found.outcomes == ("pcc", "crps")
    assert found.metrics == (*SCORES, *DRAW_SCORES)
    assert found.per_gene["crps"].tolist()[0] == 0.3
    assert np.isnan(found.per_gene["crps"].tolist()[1])
    by_method = found.floors.set_index("method")
    assert by_method.loc["knn", "crps"].isna().all()
    assert by_method.loc["counts_center", "pcc"].isna().all()
    assert found.trials["gene_correlation_error"].tolist() == [0.25]


def test_draws_of_the_floors_alone_are_no_outcome():
    found = assemble(make_table(0.5), make_table(None, 0.4, method="counts_center"))
    assert found.outcomes == ("pcc",)


def test_older_trials_carry_both_outcomes_and_old_records_one():
    old = {
        "dataset": "t",
        "level": "0.8",
        "seed": 0,
        "fold": 0,
        "code_version": "1",
        "run_id": "r",
        "when": "2026-01-02",
    }
    content = json.loads(
        StudyRecord(
            study=STUDY, protocol="heldout_genes", config={}, datasets={}, trials=(), floors=(), versions={}
        ).to_json()
    )
    content["older"] = [old | {"pcc": 0.5}, old | {"pcc": 0.5, "crps": 0.3}]
    record = StudyRecord.from_json(json.dumps(content), "study.json", "")
    assert np.isnan(record.older[0].crps)
    assert record.older[1].crps == 0.3


# ---- a comparison of methods


@pytest.fixture(scope="module")
def compared():
    results = results_of(drawing=("CausalGeD", "Beta"))
    return results, build_table_one(results, build_tables(results, n_resamples=50), n_resamples=50)


def test_draws_are_compared_among_methods_that_make_some(compared):
    tissue = places(compared[1], "tissue")
    assert set(tissue["Beta"].leads) == {"pcc", "crps"}
    assert set(tissue["Alpha"].leads) == {"pcc"}
    assert tissue["Beta"].leads["crps"].mean > 0  # the reference is behind: its CRPS is higher
    assert [tissue[name].ranks["crps"] for name in ("CausalGeD", "Beta")] == [2, 1]
    assert "crps" not in tissue["Alpha"].ranks
    assert set(tissue["counts_center"].leads) == {"crps"}
    assert set(tissue["kernel_ridge"].leads) == {"pcc"}
    assert tissue["Beta"].over_floor["crps"].mean < 0


def test_leads_of_both_outcomes_are_corrected_together(compared):
    leads = [lead for one in compared[1].data_sets for place in one.places for lead in place.leads.values()]
    assert len(leads) == 2 * (3 + 5 + 1 + 3)
    assert [lead.p_holm for lead in leads] == correct_holm([lead.p for lead in leads])
    over = [found for one in compared[1].data_sets for place in one.places for found in place.over_floor.values()]
    assert len(over) == 2 * (4 + 2)
    assert [found.p_holm for found in over] == correct_holm([found.p for found in over])


def test_ahead_in_draws_is_below_zero(compared):
    overall = {row.name: row for row in compared[1].overall}
    assert set(overall["Alpha"].standings) == {"pcc"}
    leads = overall["Beta"].standings["crps"].leads
    assert (leads.above, leads.below, leads.positive) == (0, 2, 0)
    assert overall["Beta"].standings["crps"].over_floor.above == 2
    assert overall["best floor"].standings["crps"].leads.below == 2


def test_the_comparison_speaks_of_the_draws(compared):
    results, found = compared
    text = open_comparison(results, found)
    assert "CausalGeD has the lowest mean CRPS of the methods that draw on 0 of 2 data sets." in text
    assert (
        "In CRPS, against count noise around the centre it is ahead in 0 of 2 comparisons (interval below zero)" in text
    )
    judged = judge_comparison(found.data_sets[0])
    assert "CausalGeD ranks 2 of the 2 that draw by mean CRPS, at 0.392." in judged
    assert "ahead of 0 of 1 by an interval below zero, behind Beta" in judged


def test_a_reference_that_alone_draws_is_said_to():
    results = results_of(drawing=("CausalGeD",))
    found = build_table_one(results, build_tables(results, n_resamples=50), n_resamples=50)
    assert "CausalGeD alone makes draws. In CRPS, against" in open_comparison(results, found)
    assert "is the only method that draws, with a mean CRPS of 0.392" in judge_comparison(found.data_sets[0])


def test_a_comparison_opens_with_what_training_adds(monkeypatch):
    monkeypatch.setitem(made_up_study.DRAW_FLOORS, "counts_untrained", 0.5)  # no best floor
    results = results_of(drawing=("CausalGeD", "Beta"))
    found = build_table_one(results, build_tables(results, n_resamples=50), n_resamples=50)
    one = found.data_sets[0]
    lead = next(p.leads["crps"] for p in one.places if p.row.name == "counts_untrained")
    assert lead.high < 0
    said = (
        f"by {format_signed(lead.mean)} on {one.table.name} ({format_signed(lead.low)} to {format_signed(lead.high)})"
    )
    assert open_comparison(results, found).startswith(f"Training changes the mean CRPS of the draws {said}")
    without = results_of(drawing=("Beta",))
    found = build_table_one(without, build_tables(without, n_resamples=50), n_resamples=50)
    assert "Training" not in open_comparison(without, found)
