"""Names that become files and folders cannot lead out of the folder they belong to."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ablations.search.space import load_space
from ablations.study.study import Study, load_study
from cgd.baselines import find_method
from cgd.errors import CGDError, ConfigError, DataError, StudyError
from tune.commands.options import file_name
from tune.comparison.export import export_splits
from tune.comparison.methods import parse_brought
from tune.store.lock import lock_folder
from tune.trials.mlflow_notes import clean_metric_part
from tune.trials.plan import Planner

BAD = ["../up", "..", ".", "/etc/x", "a/b", "a\\b", "a\0b", "", " ", "a\n", "ü", "-rf", "~", "$HOME", "x" * 300]


@pytest.mark.parametrize("name", BAD)
def test_the_name_of_a_study_is_a_plain_word(name):
    given = {"name": name, "question": "?", "hypothesis": "!", "factor": {"path": "ar.decay", "name": "d"}}
    given |= {"levels": [{"value": 0.8, "label": "a"}, {"value": 1.0, "label": "b"}], "default": 0.8}
    assert Study.from_dict({**given, "name": "plain_word"}).name == "plain_word"
    with pytest.raises(StudyError, match="name"):
        Study.from_dict(given)


@pytest.mark.parametrize("name", BAD)
def test_the_name_of_a_space_is_a_plain_word(tmp_path, name):
    path = tmp_path / "s.yaml"
    values = {"name": name, "description": "d", "parameters": [{"path": "ar.decay", "low": 0.5, "high": 0.9}]}
    path.write_text(json.dumps(values))  # JSON is YAML, with any character in it
    with pytest.raises(StudyError, match="name"):
        load_space(path)


@pytest.mark.parametrize("name", [name for name in BAD if name not in ("~",)])
def test_the_name_of_a_search_is_that_of_a_file(name):
    with pytest.raises(argparse.ArgumentTypeError):
        file_name(name)


@pytest.mark.parametrize("name", ["../up", "a/b", "/etc/x", "..", "a\0b", "", "<b>", "=1", "x" * 300])
def test_the_name_of_predictions_is_no_path(name):
    with pytest.raises(ConfigError, match="--predictions"):
        parse_brought([f"{name}=file.csv"])


@pytest.mark.parametrize("name", ["../up", "os", "os.system", "a/b:C", "os:system()", "a b:C", ":C", "a:", "a:\0"])
def test_the_name_of_a_method_is_one_that_is_known_or_a_class(name):
    with pytest.raises(ConfigError, match="no method is called"):
        find_method(name)


def _planned(tiny, monkeypatch, name):
    """The data sets of a plan whose one data set has this name."""
    monkeypatch.setattr("tune.trials.plan.load_dataset", lambda given: replace(tiny.pair, name=name))
    return Planner(tiny.base, ["given"], [0], 2).prepare_under_base()


@pytest.mark.parametrize("name", ["..", ".", "", "../up", "/etc", "a/b", "a\0b", "a\nb", "x" * 256])
def test_a_data_set_whose_name_is_no_folder_is_refused(tiny, monkeypatch, name):
    with pytest.raises(DataError, match="no name of a folder"):
        _planned(tiny, monkeypatch, name)


def test_a_file_can_have_such_a_name(tiny, tmp_path):
    tiny.simulation.adata_st.write_h5ad(tmp_path / "...h5ad")  # its stem is ..
    tiny.simulation.adata_sc.write_h5ad(tmp_path / "sc.h5ad")
    with pytest.raises(DataError, match="no name of a folder"):
        Planner(tiny.base, [f"{tmp_path / '...h5ad'},{tmp_path / 'sc.h5ad'}"], [0], 2)


@pytest.mark.parametrize("name", ["mouse", "Mouse brain (2)", "mäuse", "<script>", "=1+1", "$(x)", "...a"])
def test_any_other_name_of_a_data_set_is_taken(tiny, monkeypatch, name):
    assert list(_planned(tiny, monkeypatch, name)) == [name]


def test_splits_are_exported_into_their_folder_alone(tiny, tmp_path):
    source = tmp_path / "in" / "..a"  # as near to the folder above as a folder's name can be
    source.mkdir(parents=True)
    tiny.simulation.adata_st.write_h5ad(source / "st.h5ad")
    tiny.simulation.adata_sc.write_h5ad(source / "sc.h5ad")
    planner = Planner(tiny.base, [str(source)], [0], 2)
    list(export_splits(planner, tmp_path / "out" / "splits"))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"splits"}
    assert {path.name for path in (tmp_path / "out" / "splits").iterdir()} == {"README.md", "..a"}


@pytest.mark.parametrize("label", ["../up", "/etc/x", "..", ".", "a\0b", "a\nb", "x" * 500])
def test_a_level_that_names_a_metric_is_no_path(label):
    part = clean_metric_part(label)
    assert not set(part) & set("/\\\0\n")
    assert part not in ("", ".", "..")
    assert len(part) <= 90


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0b"])
def test_a_study_that_is_no_study_is_refused_without_being_shown(name):
    with pytest.raises(CGDError) as refused:
        load_study(name)
    assert "root:" not in str(refused.value)


@pytest.mark.parametrize("folder", ["x" * 300, "a?b"])
def test_an_output_folder_that_cannot_be_is_refused(tmp_path, folder):
    with pytest.raises(CGDError, match="--output"), lock_folder(tmp_path / folder):
        pass


def test_an_output_folder_may_be_a_link_with_nothing_beside_it(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with lock_folder((tmp_path / "link").resolve()):
        assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}
        assert [path.name for path in Path(tmp_path / "real").iterdir()] == [".lock"]
