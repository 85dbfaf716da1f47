"""What MODULE:CLASS and entry points mean: they run code, once they are named and no sooner."""

import sys

import pytest

from cgd import baselines
from cgd.baselines import discover_methods, find_method, list_unusable

MODULE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Mine:\n    pass\n"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with a module that leaves a mark when it is imported."""
    (tmp_path / "mine_elsewhere.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("mine_elsewhere", None)


def test_a_custom_class_runs_when_it_is_made_and_no_sooner(outside):
    entry = find_method("mine_elsewhere:Mine")
    entry.code_version()
    assert not (outside / "ran").exists()
    entry.make()
    assert (outside / "ran").exists()


def test_listing_what_packages_offer_imports_nothing_of_them(outside, monkeypatch):
    from importlib.metadata import EntryPoint

    points = [EntryPoint("mine", "mine_elsewhere:Mine", baselines.GROUP)]
    points += [EntryPoint("bad", "__import__('mine_elsewhere')", baselines.GROUP)]
    points += [EntryPoint("spage", "mine_elsewhere:Mine", baselines.GROUP)]
    monkeypatch.setattr(baselines, "entry_points", lambda group: points)
    assert set(discover_methods()) == {"mine"}
    assert len(list_unusable()) == 1
    assert find_method("spage").home.startswith("cgd."), "a package may not take the place of a built-in method"
    assert not (outside / "ran").exists()
