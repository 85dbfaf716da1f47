"""SECURITY.md: each claim names a test, and each test it names is there."""

import ast
import re
import tomllib
from contextlib import suppress
from importlib import metadata

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
    extras = project["optional-dependencies"]
    needed = _closure([*project["dependencies"], *(text for extra in extras.values() for text in extra)])
    assert len(needed) > 150, "what packages need is not looked at"
    # pip comes with Python, its own extras are the project, and the libraries for GPUs are a matter of torch's build
    free = {name for name in needed - names if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert free <= {project["name"], "pip"}
    assert "-c constraints.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")


def _closure(texts):
    """Names of what these requirements need here, directly or not, as far as it is installed."""
    waiting, seen = [Requirement(text) for text in texts], set()
    while waiting:
        requirement = waiting.pop()
        one = (_plain(requirement.name), frozenset(requirement.extras))
        if one not in seen:
            seen.add(one)
            with suppress(metadata.PackageNotFoundError):
                found = map(Requirement, metadata.requires(one[0]) or ())
                waiting += [needed for needed in found if _is_asked(needed, one[1])]
    return {name for name, _ in seen}


def _is_asked(requirement, extras):
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()
