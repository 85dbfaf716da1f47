"""The draws in a report: their tables, figures and files, beside those of the best guess."""

import io

import pandas as pd
import pytest
from made_up_study import made_up, results_of
from report_reader import Page
from test_figures import DATA as THREE
from test_figures import overlaps, words

from ablations.findings.tables import build_tables
from ablations.report.content import gather
from ablations.report.figures.effects import draw_effects, draw_leads
from ablations.report.figures.figure import draw
from ablations.report.formats.markdown import write_table_one
from ablations.report.formats.terminal import summarise_report
from ablations.report.pages.write import write_report
from ablations.report.sheets.comparison import make_means
from ablations.study.study import load_study
from cgd.metrics.facts import METRICS
from tune.comparison.results_file import make_files
from tune.trials.mlflow_notes import list_study_metrics, write_parent_note

STUDY = load_study("ar_decay")
DATA = {"tissue_a": "MVC", "tissue_b": None}


@pytest.fixture(scope="module")
def content():
    return gather(made_up(STUDY, DATA, drawing=STUDY.labels), n_resamples=50)


@pytest.fixture(scope="module")
def compared():
    return gather(results_of(drawing=("CausalGeD", "Beta")), n_resamples=50)


@pytest.fixture(scope="module")
def files(content, tmp_path_factory):
    return write_report(content, tmp_path_factory.mktemp("draws"))


def lines_of(sheet):
    return {line.cells[0].text: line.cells for line in sheet.lines}


def test_effects_stand_beside_each_other(content):
    sheet = content.find("effects")
    assert [sheet.columns[i] for i in (2, 8)] == ["PCC ↑ − default", "CRPS ↓ − default"]
    row = content.tables[0].levels[-1]
    cells = next(line.cells for line in sheet.lines if line.cells[1].text == row.name)
    assert [cells[i].text for i in (2, 8)] == [
        f"{row.differences[m].mean:+.3f}".replace("-", "−") for m in ("pcc", "crps")
    ]
    assert cells[1].tags == ("best in PCC and CRPS",)
    assert cells[13].text == "3 of 3"


def test_draws_have_their_floors_ceiling_and_scores(content):
    sheet = content.find("draws:tissue_a")
    assert [line.kind for line in sheet.lines] == ["floor"] * 3 + ["ceiling"] + ["level"] * 4
    cells = lines_of(sheet)
    center = cells["count noise around the centre"]
    assert center[0].tags == ("best floor",)
    assert center[1].notes == ("0 %",)
    assert center[6].text == center[7].text == "–"  # scores over the genes together are of trials
    level = cells["1.0"]
    assert level[0].tags == ("best",)
    assert level[1].is_strong
    assert (level[3].text, level[4].text) == ("86.4 %", "+0.356")
    assert level[6].text == "0.570"
    assert sheet.columns[5] == METRICS["moran_error"].heading


def test_the_predicted_share_has_its_ceiling_and_null(content):
    sheet = content.find("predicted")
    names = [line.cells[1].text for line in sheet.lines]
    assert names[:5] == ["kernel ridge", "0.7", "0.8", "0.9", "1.0"]
    cells = sheet.lines[4].cells
    assert [cell.text for cell in cells[2:]] == ["0.188", "0.590", "0.040", "32 %"]


def test_a_study_without_draws_has_neither_table_and_says_why():
    bare = gather(made_up(STUDY, DATA), n_resamples=50)
    assert {sheet.key.partition(":")[0] for sheet in bare.sheets}.isdisjoint({"draws", "predicted"})
    assert bare.notes[0].startswith("This study has one outcome, the best guess: ")


def test_every_file_holds_both_outcomes(content, files):
    page = Page(files.html.read_text("utf-8"))
    assert page.open == []
    for path in (files.html, files.markdown, files.tex):
        text = path.read_text("utf-8")
        assert "the draws" in text, path.name
        assert "counts" in text or "count noise" in text, path.name
    table = pd.read_csv(files.csv)
    assert not table.duplicated(["dataset", "paper_name", "kind", "name", "quantity"]).any()
    known = table.set_index(["dataset", "name", "quantity"])["value"]
    row = content.tables[0].levels[-1]
    assert known["tissue_a", "1.0", "crps_minus_default"] == pytest.approx(row.differences["crps"].mean)
    assert known["tissue_a", "1.0", "gene_correlation_error"] == pytest.approx(0.57)
    assert known["tissue_a", "1.0", "share_predicted"] == pytest.approx(row.predicted.share)
    genes = pd.read_csv(files.per_gene)
    assert genes.loc[genes["name"] == "replicate", "kind"].eq("ceiling").all()
    assert genes.loc[genes["name"] == "counts_center", "crps"].notna().all()


def test_the_terminal_shows_a_table_for_each_outcome(content, compared):
    for found in (content, compared):
        lines = summarise_report(found).splitlines()
        assert max(map(len, lines)) <= 100
        assert sum(line.split()[:1] == ["CRPS"] for line in lines) >= 2


@pytest.mark.parametrize("name", ["decoder_training", "depth", "timestep_sampling"])
def test_figures_show_both_outcomes_and_overlap_nowhere(name):
    study = load_study(name)
    tables = build_tables(made_up(study, THREE, drawing=study.labels), n_resamples=50)
    text = " ".join(words(draw(study, tables)))
    for metric in ("pcc", "crps"):
        assert f"{tables[0].find_best_floor(metric).get_mean(metric):.3f}" in text
        assert METRICS[metric].heading in text
    assert overlaps(draw(study, tables)) == []
    effects = draw_effects(study, tables)
    assert [panel.get_xlabel().partition("  ")[2] for panel in effects.axes] == ["(better →)", "(← better)"]
    assert overlaps(effects) == []


def test_the_figures_of_a_comparison_tell_who_draws(compared):
    study = compared.results.study
    assert words(draw(study, compared.tables)).count("no draws") == 4  # Alpha and Gamma, on two data sets
    text = " ".join(words(draw_leads(study, compared.table_one)))
    assert "best floor of draws: counts, centre" in text


def test_table_one_has_its_generative_half(compared):
    (tissue, other) = compared.draws_of_methods
    assert other.title.endswith("the draws")
    cells = lines_of(tissue)
    assert [cell.text for cell in cells["Alpha"][1:]] == ["–"] * 7 + [""] * 4 + ["–"]
    assert cells["Beta"][1].is_strong
    assert cells["Beta"][-1].text == "1"
    assert cells["count noise around the centre"][0].tags == ("best floor",)
    assert cells["count noise around the centre"][8].text == "+0.010"
    assert [sheet.key for sheet in compared.sheets[:2]] == ["overall", "overall:crps"]
    text = write_table_one(compared)
    assert "## tissue: the draws" in text


def test_the_means_of_draws_have_their_floor_and_ceiling(compared):
    sheet = make_means(compared.table_one, "crps")
    cells = lines_of(sheet)
    assert list(cells) == ["CausalGeD", "Beta", "best floor", "ceiling"]
    assert [cell.is_strong for cell in cells["Beta"][1:3]] == [True, True]
    assert "lower is better" in sheet.note


def test_the_results_file_has_the_means_of_both_outcomes(compared, tmp_path):
    files = make_files([compared], tmp_path / "results.md")
    assert {"results/heldout_genes_draws.csv", "results/heldout_genes.csv"} < set(files)
    table = pd.read_csv(io.StringIO(files["results/heldout_genes_draws.csv"]))
    assert set(table["data set"]) == {"tissue: the draws", "other (MVC in the paper): the draws"}
    beta = table[table["Method"] == "Beta"].iloc[0]
    assert beta["CRPS"] == pytest.approx(0.368)
    text = files["results.md"]
    assert text.count("| **CausalGeD** |") == 2
    assert "(results/heldout_genes_draws.csv)" in text
    bare = make_files([gather(results_of(), n_resamples=50)], tmp_path / "results.md")
    assert not any("draws" in name for name in bare)


def test_the_store_gets_metrics_and_a_note_of_both_outcomes(content):
    found = list_study_metrics(content.tables)
    assert {"pcc/tissue_a/1.0", "crps/tissue_a/1.0", "crps/tissue_a/floor", "crps/tissue_a/ceiling"} <= set(found)
    assert found["crps_minus_default/tissue_a/1.0"] < 0
    lines = write_parent_note(STUDY, "1", "abc", content).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6}
