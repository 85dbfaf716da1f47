import dataclasses
import os

import numpy as np
import pandas as pd
import pytest
from report_reader import Page

from ablations.findings.tables import build_tables
from ablations.findings.verdict import judge, list_troubles
from ablations.report.content import gather
from ablations.report.formats.terminal import summarise_report
from ablations.report.formats.tidy import tabulate_numbers
from ablations.report.pages.write import write_report
from ablations.study.study import load_study
from cgd.errors import CGDError
from cgd.metrics.facts import SCORES


@pytest.fixture(scope="module")
def files(heldout, tmp_path_factory):
    return write_report(gather(heldout), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def published_files(published, tmp_path_factory):
    return write_report(gather(published), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(files):
    return Page(files.html.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published_page(published_files):
    return Page(published_files.html.read_text(encoding="utf-8"))


def only(results, keep):
    """`results` with the trials for which `keep(trials)` is true finished, the others never started."""
    trials, genes = results.trials.copy(), results.per_gene
    trials.loc[~keep(trials), "status"] = None
    return dataclasses.replace(results, trials=trials, per_gene=genes[keep(genes)])


def lift(results, level, seed, by):
    """`results` with `by` added to every metric of a level, for one seed or (None) for all."""
    genes = results.per_gene.copy()
    rows = (genes["level"] == level) & ((genes["seed"] == seed) if seed is not None else True)
    genes.loc[rows, list(SCORES)] += by
    return dataclasses.replace(results, per_gene=genes)


def test_page_is_well_formed_and_fetches_nothing(page):
    assert page.open == []
    assert page.foreign == []


def test_floors_stand_above_the_levels_in_every_table(page):
    names = [row[0].split(" default")[0] for row in page.rows]
    block = [
        "random", "gene mean", "mean pattern of the training genes", "depth of the spot",
        "k nearest genes", "kernel ridge", "ceiling: the truth through the latent", "frozen", "joint",
    ]  # fmt: skip
    starts = [i for i, name in enumerate(names) if name == "random"]
    assert len(starts) == 2
    assert all(names[i : i + 9] == block for i in starts)


def test_rows_carry_means_intervals_differences_and_counts(page, heldout):
    row = next(row for row in page.rows if row[0] == "joint")
    genes = heldout.per_gene.query("dataset == 'tissue_a' and level == 'joint'")
    assert row[1].startswith(f"{genes['pcc'].mean():.3f}[0.")
    assert row[6:] == ["0.840", "11of 12", "2", "2 ok"]
    effect = next(row for row in page.rows if row[:2] == ["tissue_a", "joint"])
    assert effect[2].startswith("−0.050[−0.05")
    assert effect[-2:] == ["2 of 2", "11"]
    cost = [row for row in page.rows if row[:2] == ["tissue_a", "joint"]][1]
    assert (cost[2], cost[5]) == ("10.5", "512")


def test_papers_value_stands_only_beside_its_own_data_set(page):
    joint = [row for row in page.rows if row[0] == "joint"]
    assert [len(row) for row in joint[:2]] == [10, 9]
    assert any("paper (published protocol)" in row for row in page.rows)


def test_failed_trials_are_told_first_and_their_error_is_escaped(page):
    assert page.text.index("Of 8 trials 1 failed: everything below") < page.text.index("Question")
    assert "boom <script>alert('x')</script> & $\\frac{1}{0}$" in page.text
    assert "1 ok1 failed" in [row[-1] for row in page.rows if row[0] == "joint"]


def test_page_names_what_was_fixed_and_where_it_came_from(page, heldout):
    cells = {row[0]: row[-1] for row in page.rows}
    assert cells["ar.decay"] == "0.8"
    assert "model.decoder" not in cells
    assert cells["tissue_a, sha256"] == "ab12" * 16
    assert cells["torch"] == "2.13.0"
    assert heldout.run_id in page.text
    assert all(run_id in page.text for run_id in heldout.trials["run_id"])


def test_heldout_page_has_no_stamp(page, heldout):
    assert "copied from the truth" not in page.text
    assert "copied from the truth" not in summarise_report(gather(heldout))


def test_published_page_is_stamped_and_shows_the_hidden_entries(published_page, published):
    text = " ".join(published_page.text.split())
    assert "all zeros and 70 % of the non-zeros of the test genes are copied from the truth" in text
    assert "tissue_a 87.0 %; tissue_b 87.0 %." in text
    names = [row[0] for row in published_page.rows]
    assert names.count("hidden entries set to the gene's visible mean") == 2
    row = next(row for row in published_page.rows if row[0] == "joint")
    assert float(row[6][:5]) == pytest.approx(float(row[1][:5]) / 10, abs=0.001)
    effect = next(row for row in published_page.rows if row[:2] == ["tissue_a", "joint"])
    assert effect[9].startswith("−0.005")
    assert "copied from the truth" in summarise_report(gather(published))


def test_the_two_protocols_never_share_a_file(files, published_files):
    assert len({path.name for path in (*files, *published_files)}) == 24
    for one in (files, published_files):
        assert set(one.html.parent.iterdir()) == set(one)


def test_the_csv_holds_what_the_page_shows(files):
    table = pd.read_csv(files.csv)
    known = table.set_index(["dataset", "name", "quantity"])["value"].to_dict()
    assert known["tissue_a", "joint", "pcc_minus_default"] == pytest.approx(-0.05, abs=0.002)
    assert known["tissue_a", "kernel_ridge", "ssim"] == pytest.approx(0.19, abs=0.01)
    assert known["tissue_b", "joint", "trials_failed"] == 1
    assert known["tissue_a", "joint", "wall_seconds"] == 10.5
    paper = table[table["kind"] == "paper"].set_index(["name", "paper_name"])
    assert paper.loc[("joint", "MVC"), "value"] == 0.840
    assert set(paper["protocol"]) == {"published"}
    assert not table.duplicated(["dataset", "paper_name", "kind", "name", "quantity"]).any()


def test_a_failed_write_leaves_the_old_report_and_no_litter(heldout, files, monkeypatch):
    folder = files.html.parent
    before = {path: path.read_bytes() for path in files}

    def refuse(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CGDError, match=r"cannot write the report .*disk full"):
        write_report(gather(lift(heldout, "joint", None, 0.1)), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_report_is_reproducible(heldout, files, tmp_path):
    again = write_report(gather(heldout), tmp_path / "new folder")
    for one, other in zip(files, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_summary_lists_the_same_rows_in_plain_text(heldout):
    lines = summarise_report(gather(heldout)).splitlines()
    assert any(line.startswith("Of 8 trials 1 failed") for line in lines)
    ridge = next(line for line in lines if line.strip().startswith("kernel ridge"))
    assert ridge.split()[2] == "0.205"
    assert sum(line.strip().startswith("frozen (default)") for line in lines) == 2


def test_verdict_when_the_default_is_best(heldout):
    text = judge(build_tables(heldout)[0])
    assert text.startswith(
        "The default, frozen, is best with a mean PCC of 0.305; the closest level, joint, is 0.050 below"
    )
    assert "excludes zero, Holm-corrected p < 0.001; 11 genes, 1 fold, 2 seeds, the same sign in 2 of 2 seeds" in text
    assert "frozen is 0.100 above the best floor, kernel ridge at 0.205" in text


def test_verdict_when_another_level_is_best(heldout):
    text = judge(build_tables(lift(heldout, "joint", None, 0.1))[0])
    assert text.startswith("joint is best with a mean PCC of 0.355, 0.050 above the default, frozen")


def test_the_verdict_claims_nothing_where_the_interval_has_zero(heldout):
    genes = heldout.per_gene.copy()
    joint = genes["level"] == "joint"
    genes.loc[joint, "pcc"] += 0.05 + 0.1 * np.where(np.arange(joint.sum()) % 2, 1, -1)
    text = judge(build_tables(dataclasses.replace(heldout, per_gene=genes))[0])
    assert "includes zero, so no difference is shown" in text


def test_the_verdict_omits_hidden_entries_without_a_score(published):
    results = lift(published, "joint", None, 0.1)
    assert "On the hidden entries alone it is" in judge(build_tables(results)[0])
    none = dataclasses.replace(results, per_gene=results.per_gene.assign(hidden_pcc=np.nan))
    text = judge(build_tables(none)[0])
    assert "nan" not in text
    assert "On the hidden entries alone" not in text


def test_verdict_makes_nothing_of_a_difference_no_table_can_show(heldout):
    """A hair's breadth with an interval that excludes zero is not a finding."""
    genes = heldout.per_gene.copy()
    same = genes.query("level == 'frozen'").assign(level="joint")
    same["pcc"] += 0.0001
    genes = pd.concat([genes.query("level == 'frozen'"), same], ignore_index=True)
    text = judge(build_tables(dataclasses.replace(heldout, per_gene=genes))[0])
    assert text.startswith("The levels do as well as each other, with a mean PCC of 0.305")
    assert "excludes zero" not in text.split("best floor")[0]


def test_a_level_is_not_best_because_its_bad_seed_failed(heldout):
    """Seed 0 is easy for both levels; joint has nothing else, so its mean is higher although it is behind."""
    easy = lift(lift(heldout, "joint", 0, 0.2), "frozen", 0, 0.2)
    results = only(easy, lambda t: (t["level"] == "frozen") | (t["seed"] == 0))
    table = build_tables(results)[0]
    frozen, joint = table.levels
    assert joint.estimates["pcc"].mean > frozen.estimates["pcc"].mean
    assert table.find_best("pcc") is frozen
    assert "joint has a higher mean" in judge(table)


def test_verdict_without_the_default_compares_nothing(heldout):
    results = only(heldout, lambda t: t["level"] == "joint")
    assert "no level can be compared" in judge(build_tables(results)[0])


def test_a_study_without_a_finished_trial_still_reports(heldout, tmp_path):
    results = only(heldout, lambda t: t["seed"] < 0)
    tables = build_tables(results)
    assert "no answer" in judge(tables[0])
    assert list_troubles(tables)[0].startswith("Of 8 trials 8 did not finish")
    assert "kernel ridge" in Page(write_report(gather(results), tmp_path).html.read_text(encoding="utf-8")).text


def test_trials_that_were_never_listed_are_missing(heldout):
    listed = heldout.trials[~((heldout.trials["dataset"] == "tissue_a") & (heldout.trials["level"] == "joint"))]
    row = build_tables(dataclasses.replace(heldout, trials=listed))[0].levels[1]
    assert (row.trials.ok, row.trials.failed, row.trials.missing) == (0, 0, 2)


def test_a_missing_floor_is_said(heldout, tmp_path):
    results = dataclasses.replace(heldout, floors=heldout.floors[heldout.floors["method"] != "kernel_ridge"])
    assert list_troubles(build_tables(results))[1] == "tissue_a: the tracking store has no record of kernel ridge."
    assert build_tables(results)[0].find_best_floor("pcc").name == "knn"


def test_tidy_marks_the_default(heldout):
    frame = tabulate_numbers(heldout, build_tables(heldout))
    assert set(frame.loc[frame["is_default"] == True, "name"]) == {load_study("decoder_training").default_label}  # noqa: E712
