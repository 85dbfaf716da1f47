"""SECURITY.md: each claim names a test, and each test it names is there."""

import ast
import re
import tomllib

from packaging.requirements import Requirement
from watched import ROOT

TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def functions_of_this_folder():
    """Test functions of this folder, and which of them are slow."""
    found = {}
    for path in (ROOT / "tests" / "security").glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name] = any("slow" in ast.unparse(mark) for mark in node.decorator_list)
    return found


def test_every_test_it_names_is_there_and_marked_as_it_says():
    named = dict(re.findall(r"`(test_\w+)`(\*?)", TEXT))
    assert len(named) > 30
    there = functions_of_this_folder()
    assert named.keys() - there.keys() == set()
    assert {name for name, star in named.items() if (star == "*") != there[name]} == set()


def test_every_package_is_pinned_to_one_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line.strip() and not line.startswith("#")]
    assert [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    names = {_plain(line.partition("==")[0]) for line in pinned}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    assert {_plain(Requirement(text).name) for text in needed} - names == {project["name"]}  # its own extras
    assert "-c constraints.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")


def _plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()
