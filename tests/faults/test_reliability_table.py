"""The table that `make reliability` writes."""

import ast
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

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


def faults_of(source):
    """The faults that a test file puts into the table, as patterns: the first argument of `outcome`."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "outcome":
            name = call.args[0]
            parts = name.values if isinstance(name, ast.JoinedStr) else [name]
            yield "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in parts)


def absent(faults, rows):
    """What is wrong with the faults of a file: those that no row is about, or that there are none."""
    return [fault for fault in faults if not any(re.fullmatch(fault, row) for row in rows)] if faults else ["none"]


def test_every_fault_tested_has_a_row_in_the_document():
    assert absent(list(faults_of("outcome('disk full'); outcome(f'{n} killed')")), ["2 killed"]) == [r"disk\ full"]
    assert absent([], ["disk full"])
    table = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    files = sorted(Path(__file__).parent.glob("test_fault_*.py"))
    found = {file.name: absent(list(faults_of(file.read_text())), rows) for file in files}
    assert len(files) > 5
    assert {name: wrong for name, wrong in found.items() if wrong} == {}, "run `make reliability`"
