"""Habits that hold for every test."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
LONGEST_NAME = 60


def long_names(source):
    """Names of the tests of a source that are too long to be read in a list."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if node.name.startswith("test_") and len(node.name) > LONGEST_NAME]


def test_the_name_of_a_test_is_at_most_60_characters_long():
    good, bad = "test_" + "a" * 55, "test_" + "a" * 56
    assert long_names(f"def {good}(): ...\nclass A:\n    def {bad}(self): ...") == [bad]
    found = {path.relative_to(TESTS).as_posix(): long_names(path.read_text("utf-8")) for path in TESTS.rglob("*.py")}
    assert len(found) > 100
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
