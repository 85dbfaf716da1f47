"""The table that `make reliability` writes."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest
from intact import Outcome
from reliability_table import BEGIN, COLUMNS, DOCUMENT, END, render, write_between


def test_every_column_is_something_that_a_test_records():
    assert list(COLUMNS) == [field.name for field in fields(Outcome)]


def test_a_row_per_outcome_and_nothing_but_the_table_is_replaced():
    row = Outcome("disk full", "filled", lost=0, duplicated=0, changed=0, seconds_lost=3.4, ending="exit 0")
    text = render([row.to_row()], datetime(2026, 1, 2, tzinfo=UTC))
    assert text.startswith("2026-01-02, Python 3")
    assert "| disk full | filled |  |  | 0 | 0 | 0 | 3 | exit 0 |" in text
    once = write_between(text, f"before\n{BEGIN}\nold\n{END}\nafter")
    assert once == f"before\n{BEGIN}\n{text}\n{END}\nafter"
    assert write_between(text, once) == once


def test_a_document_without_markers_is_refused():
    with pytest.raises(ValueError, match="expected <!-- outcomes: begin -->"):
        write_between("table", "no markers")
    assert write_between("", DOCUMENT.read_text())
