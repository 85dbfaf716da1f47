"""Habits that hold for every file."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
LONGEST_NAME = 60
PREPOSITIONS = {"about", "as", "at", "by", "for", "in", "of", "off", "under", "without"}
NO_PARTICIPLES = {"embed", "feed", "seed"}


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


def misnamed(source):
    """Functions and methods called by a preposition or a participle, which do not say what is done."""
    tree = ast.parse(source)
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    functions = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]
    plain = [node.name for node in functions if not any("property" in ast.unparse(d) for d in node.decorator_list)]
    first = {name: name.strip("_").split("_")[0] for name in plain if not name.startswith("__")}
    return [
        name
        for name, word in first.items()
        if word in PREPOSITIONS or (word.endswith("ed") and word not in NO_PARTICIPLES) or name.endswith("_of")
    ]


def test_functions_are_named_for_what_they_do():
    source = "def of(): ...\ndef _checked(x): ...\nclass A:\n    def name_of(self): ...\n    def check(self): ..."
    assert misnamed(source) == ["of", "_checked", "name_of"]
    files = [path for floor in ("cgd", "ablations", "tune") for path in (TESTS.parent / floor).rglob("*.py")]
    assert len(files) > 100
    found = {path.relative_to(TESTS.parent).as_posix(): misnamed(path.read_text("utf-8")) for path in files}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
