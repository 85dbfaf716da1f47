"""The same tables in HTML, Markdown, LaTeX and CSV, with names that try to break out of each."""

import dataclasses
import json
import re

import pandas as pd
import pytest
from made_up_study import made_up
from markdown_it import MarkdownIt
from report_reader import Page

from ablations.findings import wording
from ablations.findings.study_json import Forecast, TrialForecast
from ablations.report.content import gather
from ablations.report.formats import latex, markdown
from ablations.report.formats.terminal import summarise_report
from ablations.report.pages.write import write_report
from ablations.study.study import Study, load_study

BAD = r"a|b <script>x</script> & $\frac_{1}$ *[l](http://x) `c` #1 ~^ %"
STAMP = "Published protocol: all zeros and 70 % of the non-zeros of the test genes are copied from the truth."
OLDER = {"seed": 0, "fold": 0, "code_version": "old_1", "run_id": "x", "pcc": -0.777, "when": "2026-01-02"}


@pytest.fixture(scope="module")
def results():
    """A study whose every name is hostile, with a failed trial, older results and a forecast."""
    study = Study.from_dict(
        {"name": "tried", "question": f"Why {BAD}?", "hypothesis": BAD, "figure": "table"}
        | {"factor": {"path": "model.depth", "name": f"Depth {BAD}"}, "default": 2}
        | {"levels": [{"value": 1, "label": f"[one] {BAD}"}, {"value": 2, "label": "two"}, {"value": 3, "label": "*3"}]}
        | {"paper": {"figure": "Fig. 9", "protocol": "published", "metric": "pcc", "claim": BAD}}
    )
    paper = study.paper.model_copy(update={"values": {"two": {"MVC": 0.853}}})
    found = made_up(study.model_copy(update={"paper": paper}), {"tissue_a": "MVC", BAD: None}, published=True)
    trials = found.trials.copy()
    trials.loc[0, ["status", "error"]] = ["FAILED", f"```\n{BAD}"]
    older = pd.DataFrame([{"dataset": "tissue_a", "level": "two", **OLDER}])
    return dataclasses.replace(found, trials=trials, older=older, versions={"torch": BAD})


@pytest.fixture(scope="module")
def files(results, tmp_path_factory):
    return write_report(gather(results), tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="module")
def content(results):
    return gather(results)


def squeezed(text):
    return re.sub(r"\s+", "", text)


def lines_of(sheet):
    """Every line of a sheet as texts without blanks, each field's notes after its number."""
    return [[squeezed("".join([cell.text, *cell.tags, *cell.beneath])) for cell in line.cells] for line in sheet.lines]


def markdown_rows(text):
    rows = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and rows is not None and token.level >= 3:
            words = "".join(
                t.content for t in token.children or [] if t.type in ("text", "text_special", "html_inline")
            )
            rows[-1:] = [[*rows[-1], words.replace("<br>", "")]] if rows else []
    return rows


def latex_rows(text):
    """The fields of every line of every tabular, its commands undone."""
    body = re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL)
    lines = [line.removesuffix(r" \\") for part in body for line in part.splitlines() if line.endswith(r" \\")]
    return [[undone(field) for field in re.split(r"(?<!\\)&", line)] for line in lines]


def undone(field):
    back = {value: key for key, value in latex._SPECIAL.items()}
    text = re.sub(r"\\(shortstack|textbf)(?=\{)|\\scriptsize ", "", field.replace(r" \\ ", ""))
    commands = sorted(back, key=len, reverse=True)
    text = re.sub("|".join(map(re.escape, commands)) + r"|[{}]", lambda m: back.get(m[0], ""), text)
    return squeezed(text)


def contained(wanted, rows):
    rows = [[squeezed(field) for field in row] for row in rows]
    return all(line in rows for line in wanted)


def test_every_number_of_every_table_stands_in_html(files, content):
    rows = Page(files.html.read_text("utf-8")).rows
    for sheet in content.sheets:
        assert contained(lines_of(sheet), rows), sheet.key
    assert {"effects", "levels", "fractions", "cost", "paper", "intervals", "older"} <= {
        sheet.key for sheet in content.sheets
    }


def test_every_number_of_every_table_stands_in_markdown(files, content):
    rows = [[re.sub(r"[(),]", "", field) for field in row] for row in markdown_rows(files.markdown.read_text("utf-8"))]
    for sheet in content.sheets:
        wanted = [[re.sub(r"[(),]", "", field) for field in line] for line in lines_of(sheet)]
        assert contained(wanted, rows), sheet.key


def test_every_number_of_every_table_stands_in_latex(files, content):
    rows = [[re.sub(r"[(),]", "", field) for field in row] for row in latex_rows(files.tex.read_text("utf-8"))]
    for sheet in content.sheets:
        wanted = [[re.sub(r"[(),]", "", field) for field in line] for line in lines_of(sheet)]
        assert contained(wanted, rows), sheet.key


def test_latex_is_balanced_and_every_row_has_its_columns(files):
    text = files.tex.read_text("utf-8")
    bare = re.sub(r"\\[{}\\]", "", re.sub(r"(?<!\\)%.*", "", text))
    depth = 0
    for character in bare:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert text.count(r"\begin{") == text.count(r"\end{")
    for head, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in (line for line in body.splitlines() if line.endswith(r" \\") and "multicolumn" not in line):
            assert len(re.split(r"(?<!\\)&", line)) == len(head)
        spans = [int(n) for line in body.splitlines() for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        assert sum(spans) in (0, len(head))
    assert not re.search(r"\\\\\s*[\[*]", text)  # would be an argument of the line break
    assert "booktabs" in text.splitlines()[1]
    assert re.sub(r"\\\$|\$(-|\\times|\\uparrow|\\downarrow)\$", "", text).count("$") == 0


def test_hostile_names_stay_text_in_html(files):
    page = Page(files.html.read_text("utf-8"))
    assert page.open == []
    assert page.foreign == []
    assert BAD in page.text


def test_hostile_names_stay_text_in_markdown(files):
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(files.markdown.read_text("utf-8"))
    assert "<script" not in html
    assert "<a " not in html
    assert html.count("<img") == 2
    visible = Page(html).text
    assert visible.count(BAD) > 10


def test_markdown_escapes_what_would_open_a_block():
    assert markdown.escape("- item") == r"\- item"
    assert markdown.escape("1. item") == r"1\. item"
    assert markdown.escape("a\n\n# b") == r"a \# b"
    assert markdown.set_code("``` x") == "````\n``` x\n````"


def test_latex_escapes_commands_and_ligatures():
    assert latex.escape(r"50% of \a_b{c} #1 ~^ x&y $z$") == (
        r"50\% of \textbackslash{}a\_b\{c\} \#1 \textasciitilde{}\textasciicircum{} x\&y \$z\$"
    )
    assert latex.escape("a--b ''c\n\n%d") == r"a-{}-b '{}'c \%d"


def test_the_stamp_stands_in_every_format(files, results, content):
    for path in (files.html, files.markdown, files.figure, files.effects):
        words = re.sub(r"\s+|\\(?=-)", " ", re.sub(r"<[^>]*>", " ", path.read_text("utf-8")))
        assert STAMP in words, path.name
    tex = files.tex.read_text("utf-8")
    n_ours = tex.count(r"\caption{") - 1  # all but the paper's own table
    assert tex.count(latex.escape(STAMP)) == n_ours
    for path in (files.csv, files.per_gene):
        protocols = pd.read_csv(path).query("kind != 'paper'")["protocol"]
        assert set(protocols) == {"published"}
    card = json.loads(files.card.read_text("utf-8"))
    assert (card["protocol"], card["opening"]) == ("published", content.headline)
    assert card["opening"] == f"{STAMP} {content.opening}"
    assert STAMP in re.sub(r"\s+", " ", summarise_report(gather(results)))


def test_per_gene_table_holds_every_trial_gene_and_metric(files, results):
    table = pd.read_csv(files.per_gene)
    levels, floors = table[table["kind"] == "level"], table[table["kind"] != "level"]
    assert len(levels) == len(results.per_gene)
    assert len(floors) == len(results.floors)
    assert set(floors["kind"]) == {"floor", "ceiling"}
    row = results.per_gene.iloc[17]
    same = levels[(levels["dataset"] == row["dataset"]) & (levels["name"] == row["level"])]
    same = same[(same["seed"] == row["seed"]) & (same["gene"] == row["gene"])].iloc[0]
    for metric in results.metrics:
        assert same[metric] == pytest.approx(row[metric])
    assert floors["seed"].isna().all()


def test_tidy_table_agrees_with_the_tables(files, content):
    known = pd.read_csv(files.csv).set_index(["dataset", "name", "quantity"])
    for table in content.tables:
        for row in table.levels:
            found = known.loc[(table.name, row.name, "pcc")]
            assert [found["value"], found["low"], found["high"]] == pytest.approx(
                [row.estimates["pcc"].mean, row.estimates["pcc"].low, row.estimates["pcc"].high]
            )
            for metric, effect in row.differences.items():
                line = known.loc[(table.name, row.name, f"{metric}_minus_default")]
                for field in ("p", "p_holm", "effect_size", "mde", "standard_error", "df"):
                    assert line[field] == pytest.approx(getattr(effect, field), nan_ok=True)
            for metric, share in row.fractions.items():
                shown = known.loc[(table.name, row.name, f"{metric}_fraction"), "value"]
                assert shown == pytest.approx(share, nan_ok=True)
    assert known.loc[("tissue_a", "two @ old_1", "pcc"), "value"] == -0.777


def test_results_of_older_code_are_in_no_other_table(files, content):
    page = Page(files.html.read_text("utf-8"))
    assert [row for row in page.rows if "0.777" in "".join(row)] == [
        ["tissue_a", "two", "old_1", "−0.777", "1", "2026-01-02"]
    ]
    assert content.find("older").title == "Results of older code"


def test_the_ceiling_of_a_study_of_the_latent_is_explained(content):
    found = made_up(load_study("latent_width"), {"tissue_a": None})
    note = gather(found).find("fractions").note
    assert note.endswith("The ceiling is that of a latent of 48 dimensions, whatever the level.")
    assert "dimensions" not in content.find("fractions").note


def test_forecast_stands_beside_the_outcome(results):
    trials = results.trials.assign(started=1_000_000.0, ended=1_000_100.0)
    planned = tuple(TrialForecast(key, seconds=20.0, memory_mb=1000.0) for key in trials["fingerprint"])
    forecast = Forecast(n_concurrent=2, trials=planned, made="1970-01-02")
    timed = dataclasses.replace(results, trials=trials, forecast=forecast)
    sheet = gather(timed).find("forecast")
    n = int((trials["status"] == "FINISHED").sum())
    wall, seconds, memory = ([cell.text for cell in line.cells[1:]] for line in sheet.lines)
    expected = forecast.wall_seconds * n / len(trials)
    assert wall == [wording.format_number(expected, 0), "100", wording.format_number(100 / expected, 2)]
    ran = trials.loc[trials["status"] == "FINISHED", "wall_seconds"].sum()
    assert seconds == [
        wording.format_number(20.0 * n, 0),
        wording.format_number(ran, 0),
        wording.format_number(ran / (20 * n), 2),
    ]
    assert memory == ["1\u202f000", "850", "0.85"]


def test_the_terminal_gets_the_opening_first_and_no_long_line(results, content):
    lines = summarise_report(gather(results)).splitlines()
    assert re.sub(r"\s+", " ", " ".join(lines)).startswith(re.sub(r"\s+", " ", content.opening))
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)


def test_numbers_have_a_true_minus_and_a_dash_for_nothing():
    assert wording.format_number(-0.1234) == "−0.123"
    assert wording.format_number(float("nan")) == wording.format_number(None) == wording.format_p(float("nan")) == "–"
    assert wording.format_number(-0.0001) == "0.000"
    assert wording.format_number(12345, 0) == "12\u202f345"
    assert wording.format_p(0.0004) == "< 0.001"
    assert wording.format_percent(0.873) == "87 %"
