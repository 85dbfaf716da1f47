"""The report of a comparison: what its page, tables and files say, and that nothing in a name is code."""

import re

import pandas as pd
import pytest
from made_up_study import METHODS, places, results_of, without
from report_reader import Page

from ablations.findings.table_one import build_table_one
from ablations.findings.tables import build_tables
from ablations.report.content import gather
from ablations.report.formats.markdown import write_table_one
from ablations.report.formats.terminal import summarise_report
from ablations.report.formats.tidy import tabulate_sheets
from ablations.report.pages.write import write_report
from ablations.report.sheets.comparison import make_means
from ablations.study.comparison import Compared

HOSTILE = "<b>x</b> & $\\frac{1}{0}$ | `y`"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_report(gather(without(results_of(), "tissue", "Gamma")), folder)


@pytest.fixture(scope="module")
def page(written):
    return Page(written.html.read_text())


def test_the_page_holds_table_one_and_fetches_nothing(page):
    assert page.foreign == []
    assert "Comparison of methods" in page.text
    heads = [row for row in page.rows if row and row[0] == "Method"]
    assert len(heads) == 3  # over the data sets, and one for each
    assert heads[1][5:9] == ["PCC: CausalGeD − this row", "adjusted p", "PCC: this row − best floor", "adjusted p"]
    assert "minus default" not in page.text
    assert "Smallest detectable" not in page.text


def test_the_intervals_stand_in_every_form(page, written):
    assert "Intervals of 90 %" in page.text
    assert "## Intervals of 90 %" in written.markdown.read_text()
    assert r"\caption{Intervals of 90 \%" in written.tex.read_text()
    assert "## Intervals of 90 %" in write_table_one(gather(results_of()))


def test_a_failed_method_is_named_with_its_reason(page):
    row = next(row for row in page.rows if row and row[0] == "Gamma" and row[1] == "failed")
    assert row[-1].startswith("0 ok")
    assert "3 failed" in row[-1]
    assert "Gamma on tissue: DataError: nonsense" in page.text
    assert any(row and row[0] == "Gamma failed on tissue" for row in page.rows)


def test_what_must_be_said_of_a_method_stands_below_the_table(page, written):
    assert "Reduced to half its epochs." in page.text
    assert "Beta: Reduced to half its epochs." in written.markdown.read_text()


def test_floors_stand_apart_and_the_best_is_marked(written):
    results = results_of()
    content = gather(results)
    kinds = [line.kind for line in content.data_sets[0].lines]
    assert kinds == ["level"] * 4 + ["floor"] * 5 + ["ceiling"]
    rules = [line.has_rule for line in content.data_sets[0].lines]
    assert [i for i, rule in enumerate(rules) if rule] == [0, 4, 9]
    ridge = content.data_sets[0].lines[8].cells[0]
    assert (ridge.text, ridge.tags) == ("kernel ridge", ("best floor",))
    gamma = content.data_sets[0].lines[3].cells
    assert [cell.is_strong for cell in gamma[1:5]] == [True] * 4
    assert not any(cell.is_strong for cell in content.data_sets[0].lines[0].cells[1:5])


def test_a_floor_above_every_method_is_said_to_be():
    results = results_of()
    floors = results.floors.copy()
    floors.loc[floors["method"] == "knn", "pcc"] = 0.9
    fresh = type(results)(**{**vars(results), "floors": floors})
    tags = {line.cells[0].text: line.cells[0].tags for line in gather(fresh).data_sets[0].lines}
    assert tags["k nearest genes"] == ("best floor", "above every method")


def test_the_published_table_says_what_is_copied_and_a_fills_pcc(tmp_path):
    results = results_of("published")
    fills = results.floors[results.floors["method"] == "knn"].assign(method="zero_fill", pcc=0.7)
    results = type(results)(**{**vars(results), "floors": pd.concat([results.floors, fills])})
    files = write_report(gather(results), tmp_path)
    assert files.html.name == "comparison_published.html"
    text = Page(files.html.read_text()).text
    assert "Published protocol: all zeros and 70 % of the non-zeros" in text
    assert "tissue 87.0 %" in text
    assert "hidden entries set to 0: 0.700" in text
    for written in (files.markdown.read_text(), files.tex.read_text(), summarise_report(gather(results))):
        assert "Published protocol" in written


def test_the_csv_holds_every_number_of_table_one(written):
    results = without(results_of(), "tissue", "Gamma")
    found = build_table_one(results, build_tables(results))
    table = pd.read_csv(written.csv)
    where = (table["dataset"] == "tissue") & (table["name"] == "Alpha")
    lead = table[where & (table["quantity"] == "pcc_reference_minus")].iloc[0]
    expected = places(found, "tissue")["Alpha"].leads["pcc"]
    assert (lead["value"], lead["low"], lead["p_holm"]) == pytest.approx((expected.mean, expected.low, expected.p_holm))
    assert table[where & (table["quantity"] == "pcc_rank")]["value"].tolist() == [2]
    scores = table[table["dataset"].isna() & (table["quantity"] == "accuracy_score")].set_index("name")["value"]
    assert scores["Alpha"] == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_the_terminal_shows_ranks_and_fits():
    text = summarise_report(gather(without(results_of(), "tissue", "Gamma")))
    for shown in (text, summarise_report(gather(results_of("published", datasets={"tissue": None})))):
        assert max(len(line) for line in shown.splitlines()) <= 100
    assert any(line.split()[:2] == ["Gamma", "failed"] for line in text.splitlines())
    assert "All data sets" in text


def test_names_are_escaped_everywhere(tmp_path):
    results = results_of(methods=(*METHODS, Compared("d", HOSTILE, "note " + HOSTILE)))
    files = write_report(gather(results), tmp_path)
    page = Page(files.html.read_text())
    assert HOSTILE in page.text
    assert "b" not in page.open
    assert "<b>x</b>" not in files.html.read_text()
    assert r"\frac" not in files.tex.read_text()
    assert "<b>" not in files.markdown.read_text().replace("\\<b", "")
    assert "\\<b\\>" in write_table_one(gather(results))


def test_the_text_for_a_document_is_the_same_each_time():
    text = write_table_one(gather(results_of()))
    assert text == write_table_one(gather(results_of()))
    assert text.startswith("# Table I, heldout genes protocol")


@pytest.mark.parametrize("protocol", ["heldout_genes", "published"])
def test_no_number_of_the_page_is_escaped(protocol):
    for line in write_table_one(gather(results_of(protocol))).splitlines():
        assert not re.search(r"\\[\d.+−<\[\]-]", line), line


def test_the_spreadsheet_has_the_digits_of_the_page():
    content = gather(results_of("published"))
    table = tabulate_sheets(content.data_sets)
    assert not any(mark in " ".join(map(str, table.to_numpy().ravel())) for mark in "−–↑")
    row = table[(table["data set"] == "tissue") & (table["Method"] == "Alpha")].iloc[0]
    found = places(content.table_one, "tissue")["Alpha"]
    lead = "PCC: CausalGeD - this row"
    assert [row["PCC"], row["PCC, low"]] == [
        f"{v:.3f}" for v in (found.row.estimates["pcc"].mean, found.row.estimates["pcc"].low)
    ]
    assert [row[lead], row[f"{lead}, high"]] == [
        f"{v:+.3f}" for v in (found.leads["pcc"].mean, found.leads["pcc"].high)
    ]
    assert row["trials"] == "3 ok"
    assert len(set(table.columns)) == len(table.columns)


def test_the_means_hold_methods_best_floor_and_ceiling():
    content = gather(results_of())
    lines = {line.cells[0].text: line.cells[1:] for line in make_means(content.table_one, "pcc").lines}
    assert list(lines) == ["CausalGeD", "Alpha", "Beta", "Gamma", "best floor", "ceiling"]
    assert [cell.is_strong for cell in lines["Gamma"]] == [True, True, False]
    place = places(content.table_one, "other")["Beta"]
    assert lines["Beta"][1].text == f"{place.row.estimates['pcc'].mean:.3f}"
    assert make_means(content.table_one, "pcc").lines[4].cells[0].tags == ("kernel ridge",)
