"""Table I: what is paired, ranked and counted, checked against numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from made_up_study import DATASETS, FLOORS, METHODS, places, results_of, without

from ablations.findings.comparison_verdict import judge_comparison, open_comparison
from ablations.findings.table_one import SCORED, build_table_one
from ablations.findings.tables import build_tables
from ablations.statistics.paired import compare_paired, correct_holm
from ablations.study.comparison import Compared, make_comparison
from ablations.study.study import Study
from cgd.errors import StudyError


def half_failed(results, dataset, label, seed=0):
    """The results as if one trial of a method had failed, and the others had done far better than all methods."""
    genes, trials = results.per_gene.copy(), results.trials.copy()
    here = (trials["dataset"] == dataset) & (trials["level"] == label) & (trials["seed"] == seed)
    trials.loc[here, ["status", "error"]] = ["FAILED", "DataError: nonsense"]
    own = (genes["dataset"] == dataset) & (genes["level"] == label)
    genes.loc[own, "pcc"] = 0.99
    return replace(results, per_gene=genes[~(own & (genes["seed"] == seed))], trials=trials)


def found_in(results):
    return build_table_one(results, build_tables(results, n_resamples=50), n_resamples=50)


def test_a_lead_is_reference_minus_method_by_gene_and_seed():
    results = results_of()
    genes = results.per_gene[results.per_gene["dataset"] == "tissue"].drop(columns="dataset")
    wide = genes.pivot_table(index=["seed", "gene"], columns="level", values="pcc")
    found = places(found_in(results), "tissue")
    for label in ("Alpha", "Beta", "Gamma"):
        lead = found[label].leads["pcc"]
        assert lead.mean == pytest.approx((wide["CausalGeD"] - wide[label]).mean())
        level = [genes[genes["level"] == name] for name in ("CausalGeD", label)]
        expected = compare_paired(*level, ["pcc"], n_resamples=50)["pcc"]
        assert (lead.low, lead.high, lead.p) == (expected.low, expected.high, expected.p)
        assert lead.n_seeds == 3
        assert lead.n_genes == 40  # seeds are averaged per gene, not counted as genes
    assert found["CausalGeD"].leads == {}


def test_methods_meet_the_best_floor_and_floors_the_reference():
    results = results_of()
    found = places(found_in(results), "tissue")
    ridge = results.floors[(results.floors["dataset"] == "tissue") & (results.floors["method"] == "kernel_ridge")]
    genes = results.per_gene[(results.per_gene["dataset"] == "tissue") & (results.per_gene["level"] == "Beta")]
    assert found["Beta"].over_floor["pcc"].mean == pytest.approx(genes["pcc"].mean() - ridge["pcc"].mean())
    own = results.per_gene[(results.per_gene["dataset"] == "tissue") & (results.per_gene["level"] == "CausalGeD")]
    for floor in set(FLOORS) - {"ceiling"}:
        theirs = results.floors[(results.floors["dataset"] == "tissue") & (results.floors["method"] == floor)]
        assert found[floor].leads["pcc"].mean == pytest.approx(own["pcc"].mean() - theirs["pcc"].mean())
        assert found[floor].over_floor == {}
    assert found["ceiling"].leads == {}


def test_holm_runs_over_all_methods_and_floors_of_all_data_sets():
    found = found_in(results_of())
    leads = [place.leads["pcc"] for one in found.data_sets for place in one.places if place.leads]
    assert len(leads) == 2 * (3 + 5)
    assert [lead.p_holm for lead in leads] == correct_holm([lead.p for lead in leads])
    over = [place.over_floor["pcc"] for one in found.data_sets for place in one.places if place.over_floor]
    assert len(over) == 2 * 4
    assert [one.p_holm for one in over] == correct_holm([one.p for one in over])


def test_ranks_and_the_accuracy_score_by_hand():
    found = found_in(results_of())
    tissue = places(found, "tissue")
    for metric in SCORED:  # each metric follows PCC here, the sign turned where lower is better
        assert [tissue[name].ranks[metric] for name in ("Gamma", "Beta", "Alpha", "CausalGeD")] == [1, 2, 3, 4]
    assert all(not tissue[floor].ranks for floor in FLOORS)
    overall = {row.name: row for row in found.overall}
    assert [overall[name].accuracy_score for name in ("Gamma", "Beta", "Alpha", "CausalGeD")] == [1, 0.75, 0.5, 0.25]
    assert overall["Gamma"].standings["pcc"].mean_rank == 1
    assert math.isnan(overall["best floor"].standings["pcc"].mean_rank)


def test_equal_means_share_the_mean_of_their_ranks():
    results = results_of()
    genes = results.per_gene.copy()
    same = genes["level"] == "Beta"
    genes.loc[same, [*SCORED]] = genes.loc[genes["level"] == "Alpha", [*SCORED]].to_numpy()
    tissue = places(found_in(replace(results, per_gene=genes)), "tissue")
    assert [tissue[name].ranks["pcc"] for name in ("Gamma", "Alpha", "Beta", "CausalGeD")] == [1, 2.5, 2.5, 4]


def test_a_failed_method_is_named_last_and_affects_no_other():
    whole, broken = found_in(results_of()), found_in(without(results_of(), "tissue", "Gamma"))
    place = places(broken, "tissue")["Gamma"]
    assert place.has_failed
    assert place.ranks["pcc"] == 4
    assert place.row.errors == ("DataError: nonsense",)
    assert not places(broken, "other")["Gamma"].has_failed
    assert places(broken, "tissue")["Beta"].leads["pcc"].mean == places(whole, "tissue")["Beta"].leads["pcc"].mean
    overall = {row.name: row for row in broken.overall}
    assert overall["Gamma"].failed_on == ("tissue",)
    assert overall["Gamma"].standings["pcc"].mean_rank == 2.5
    assert overall["Gamma"].standings["pcc"].leads.unknown == 1
    assert "Failed here: Gamma." in judge_comparison(broken.data_sets[0])


def test_a_partly_finished_method_is_not_ranked():
    results = half_failed(results_of(), "tissue", "Alpha")
    found = found_in(results)
    place, one = places(found, "tissue")["Alpha"], found.data_sets[0]
    assert place.is_partial
    assert not place.has_failed
    assert place.row.estimates["pcc"].mean == pytest.approx(0.99)
    assert set(place.ranks.values()) == {4}
    assert one.best("pcc") == {"Gamma"}
    overall = {row.name: row for row in found.overall}
    assert overall["Alpha"].standings["pcc"].mean_rank == 3.5
    assert overall["Alpha"].accuracy_score == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert overall["Alpha"].partial_on == ("tissue",)
    assert "Not finished, hence last in the ranks: Alpha (2 of 3 trials)." in judge_comparison(one)
    reference = found_in(half_failed(results_of(), "tissue", "CausalGeD"))
    opening = open_comparison(results, reference)
    assert opening.startswith("CausalGeD has the highest mean PCC of the methods on 0 of 2 data sets.")


def test_a_method_that_bears_the_name_of_a_floor_is_no_floor():
    results = results_of(methods=(*METHODS, Compared("kernel_ridge", "kernel_ridge")))
    one = found_in(results).data_sets[0]
    assert one.find_best_floor("pcc").row.kind == "floor"
    assert one.find_best_floor("pcc").over_floor == {}


def test_without_the_reference_nothing_is_said_to_be_compared():
    results = without(results_of(), "tissue", "CausalGeD")
    found = found_in(results)
    assert "CausalGeD has no result" in judge_comparison(found.data_sets[0])
    assert not places(found, "tissue")["Alpha"].leads["pcc"].is_known
    assert places(found, "tissue")["Alpha"].over_floor["pcc"].is_known


def test_counts_are_those_of_the_intervals():
    results = results_of()
    found = found_in(results)
    overall = {row.name: row for row in found.overall}
    for name in ("Alpha", "Beta", "Gamma"):
        leads = [places(found, dataset)[name].leads["pcc"] for dataset in DATASETS]
        counts = overall[name].standings["pcc"].leads
        assert counts.above == sum(lead.low > 0 for lead in leads)
        assert counts.below == sum(lead.high < 0 for lead in leads)
        assert counts.undecided == sum(lead.low <= 0 <= lead.high for lead in leads)
        assert counts.positive == sum(lead.mean > 0 for lead in leads)
    gamma = overall["Gamma"].standings["pcc"].leads
    assert (gamma.above, gamma.below) == (0, 2)
    assert f"behind in {sum(row.standings['pcc'].leads.below for row in found.overall[1:4])}" in open_comparison(
        results, found
    )


def test_the_published_protocol_compares_the_hidden_entries_too():
    found = places(found_in(results_of("published")), "tissue")
    assert set(found["Alpha"].leads) == {"pcc", "hidden_pcc"}
    assert found["Alpha"].leads["hidden_pcc"].mean == pytest.approx(found["Alpha"].leads["pcc"].mean / 2)


def test_the_floors_alone_make_a_comparison():
    results = results_of(methods=())
    found = found_in(results)
    assert [row.name for row in found.overall] == ["CausalGeD", "best floor"]
    assert found.overall[0].accuracy_score == 1
    assert "is the only method" in judge_comparison(found.data_sets[0])
    assert np.isfinite(places(found, "tissue")["kernel_ridge"].leads["pcc"].p_holm)


def test_only_a_comparison_may_fix_the_protocol():
    study = make_comparison(METHODS, "published")
    assert study.is_comparison
    assert study.notes == {"Beta": "Reduced to half its epochs."}
    assert study.base(results_config := study_config()).evaluation.protocol == "published"
    assert results_config.evaluation.protocol == "heldout_genes"
    values = study.model_dump(mode="json") | {"factor": {"path": "model.decoder", "name": "Decoder"}}
    values |= {"levels": [{"value": "frozen"}, {"value": "joint"}], "default": "frozen"}
    with pytest.raises(StudyError, match="two protocols never share a table"):
        Study.from_dict(values)


def study_config():
    from cgd.config import Config

    return Config()
