"""What a metric or a floor is called stands in `cgd.metrics.facts` alone; everyone else reads it there."""

import ast
import re
from pathlib import Path

from cgd.metrics.facts import METRICS, REFERENCES, SCORES

ROOT = Path(__file__).parents[1]
LABELS = {METRICS[name].label for name in SCORES}
LABELS |= {label for floor in REFERENCES.values() for label in (floor.label, floor.short_label)}
LABELS -= {"random", "ceiling", "replicate"}  # words of their own
PATTERN = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(LABELS)))})(?![\w-])")


def texts_of(source):
    """(line, text) of every string that is no docstring."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_the_reader_sees_labels_and_no_docstrings():
    assert [line for line, text in texts_of('"""PCC"""\nx = f"mean PCC {1}"') if PATTERN.search(text)] == [2]


def test_no_label_is_written_by_hand():
    offenders = [
        f"{path.relative_to(ROOT)}:{line} {text!r}"
        for floor in ("ablations", "tune")
        for path in sorted((ROOT / floor).rglob("*.py"))
        for line, text in texts_of(path.read_text(encoding="utf-8"))
        if PATTERN.search(text)
    ]
    assert offenders == []
