import json
import os

import pytest
from report_reader import Page

from ablations.report.pages.index import write_index
from ablations.report.pages.write import CARD
from cgd.errors import CGDError


def card(folder, name, when, **changes):
    """A report's card and its page, as old as `when` seconds."""
    folder.mkdir(parents=True)
    known = {
        "kind": CARD,
        "name": name,
        "title": f"T {name}",
        "question": "Q?",
        "opening": "O <b>.",
        "datasets": ["d&1"],
    }
    known |= {"protocol": "heldout_genes", "page": f"{name}.html"} | changes
    (folder / f"{name}.json").write_text(json.dumps(known))
    (folder / f"{name}.html").write_text("page")
    os.utime(folder / f"{name}.html", (when, when))


def test_the_index_lists_every_report_with_the_newest_first(tmp_path):
    card(tmp_path / "old 1", "one", 1_000_000)
    card(tmp_path / "new", "two", 2_000_000_000)
    (tmp_path / "new" / "other.json").write_text("[1]")
    path = write_index(tmp_path)
    page = Page(path.read_text("utf-8"))
    assert path == tmp_path / "index.html"
    assert page.open == []
    assert page.text.index("T two") < page.text.index("T one")
    assert page.foreign == ["a href=./new/two.html", "a href=./old%201/one.html"]
    for words in ("Q?", "O <b>.", "d&1", "2033-05-18 03:33 UTC", "1970-01-12", "heldout genes protocol", "2 reports"):
        assert words in page.text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_cards_that_cannot_be_read_are_named(tmp_path):
    card(tmp_path / "a", "away", 1.0, page="../../etc/passwd")
    card(tmp_path / "b", "gone", 1.0, question=3)
    (tmp_path / "broken.json").write_text("{")
    text = Page(write_index(tmp_path).read_text("utf-8")).text
    assert "0 reports" in text
    for name in ("a/away.json: page", "b/gone.json: the card does not fit", "broken.json: "):
        assert f"Not listed: {name}" in text
    assert write_index(tmp_path).read_text("utf-8").count("<a ") == 0


def test_an_index_of_nothing_says_so(tmp_path):
    assert "No study has left a report here yet." in write_index(tmp_path).read_text("utf-8")
    with pytest.raises(CGDError, match="no folder"):
        write_index(tmp_path / "absent")
