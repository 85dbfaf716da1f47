"""Names from data sets and studies are text in a report: not markup, not commands, not formulas."""

import io
import json

import markupsafe
import pandas as pd
import pytest
from watched import ROOT

from ablations.report.formats.files import to_csv
from ablations.report.formats.latex import escape as latex
from ablations.report.formats.markdown import escape as markdown
from ablations.report.pages.index import write_index
from ablations.report.pages.write import CARD

GENES = ['=HYPERLINK("http://x")', "+1+cmd|'/c calc'!A0", "-2+3", "@SUM(1)", "\t=1", "a\r=1", " =1"]
PLAIN = ["Actb", "HLA-A", "mt-Co1", "-0.5", "+3", "1e-3", "2900-A", "a=b"]


@pytest.mark.parametrize("gene", GENES)
def test_a_gene_that_is_a_formula_is_text_in_a_spreadsheet(gene):
    text = "a =1" if gene == "a\r=1" else f"'{gene}"
    table = pd.DataFrame({"gene": [gene, "Actb"], "pcc": [-0.5, 0.25], gene: [1, 2]})
    back = pd.read_csv(io.StringIO(to_csv(table)), dtype=str, keep_default_na=False)
    assert back["gene"].tolist() == [text, "Actb"]
    assert back["pcc"].tolist() == ["-0.5", "0.25"]
    assert back.columns[2] == text


def test_every_other_name_and_number_is_written_as_it_is():
    table = pd.DataFrame({"gene": pd.Categorical(PLAIN), "n": pd.array([*range(7), None], "Int64"), "x": -1.5})
    assert to_csv(table) == table.to_csv(index=False)


def test_every_csv_is_written_in_this_way():
    writers = {path.name for path in (ROOT / "ablations").rglob("*.py") if ".to_csv(" in path.read_text()}
    assert writers == {"files.py"}


TEMPLATES = ROOT / "ablations" / "report" / "pages" / "templates"
MARKUP = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '" onload="x', "<b>{{ 7*7 }}{% include 'x' %}"]


@pytest.mark.parametrize("name", MARKUP)
def test_no_name_is_markup_on_a_page(tmp_path, name):
    card = dict.fromkeys(("name", "title", "question", "opening", "protocol"), name)
    card |= {"kind": CARD, "page": "page.html", "datasets": [name]}
    (tmp_path / "a.json").write_text(json.dumps(card))
    (tmp_path / "page.html").write_text("")
    page = write_index(tmp_path).read_text()
    assert str(markupsafe.escape(name)) in page
    assert name not in page or not set(name) & set("<>\"'")


@pytest.mark.parametrize("page", ["../x.html", "/etc/passwd", "javascript:alert(1)", "//host/x", "a/b.html"])
def test_the_index_links_to_nothing_but_its_own_reports(tmp_path, page):
    card = dict.fromkeys(("name", "title", "question", "opening", "protocol"), "a") | {"page": page, "datasets": []}
    (tmp_path / "a.json").write_text(json.dumps(card | {"kind": CARD}))
    assert "<a " not in write_index(tmp_path).read_text()


def test_a_page_may_fetch_and_run_nothing():
    templates = {path.name: path.read_text() for path in TEMPLATES.glob("*.html")}
    assert "default-src 'none'; style-src 'unsafe-inline'" in templates["head.html"]
    assert [name for name, text in templates.items() if "|safe" in text.replace(" ", "")] == []


@pytest.mark.parametrize("command", [r"\input{/etc/passwd}", r"\write18{id}", "^^5cinput x", "$x$", "%", "{}"])
def test_no_name_is_a_command_in_latex(command):
    text = latex(command)
    for part in (r"\input", r"\write", "^^"):
        assert part not in text
    assert not text.startswith("%")


@pytest.mark.parametrize("text", ["[x](http://y)", "![x](http://y)", "<b>", "a|b", "`x`"])
def test_no_name_is_markdown(text):
    found = markdown(text)
    assert not any(found.count(mark) > found.count(f"\\{mark}") for mark in "[]<>|`" if mark in text)
