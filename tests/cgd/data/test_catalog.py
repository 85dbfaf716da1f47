"""Data sets by name: the simulated ones, folders of CGD_DATA_DIR, and paths."""

import pytest

from cgd.data.catalog import PAPER_NAMES, SIMULATED, list_datasets, load_dataset
from cgd.data.pair import make_pair
from cgd.errors import DataError


@pytest.fixture
def folders(tmp_path, monkeypatch, tiny):
    """CGD_DATA_DIR with one data set `tissue`, and folders that are none."""
    for name in ("tissue", "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
    tiny.simulation.adata_st.write_h5ad(tmp_path / "data/tissue/st.h5ad")
    tiny.simulation.adata_sc.write_h5ad(tmp_path / "data/tissue/sc.h5ad")
    monkeypatch.setenv("CGD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_simulated_data_sets_need_no_folder_and_repeat(monkeypatch):
    monkeypatch.delenv("CGD_DATA_DIR", raising=False)
    assert list_datasets() == list(SIMULATED)
    pair = load_dataset("simulated")
    assert pair.name == "simulated"
    assert len(pair.genes) >= 100
    assert pair.sha256 == load_dataset("simulated").sha256
    assert pair.sha256 != load_dataset("simulated_seqfish").sha256


def test_names_are_the_folders_that_hold_a_data_set(folders):
    assert list_datasets() == [*SIMULATED, "tissue"]


def test_one_data_set_by_name_by_folder_and_by_two_files(folders, tiny):
    expected = make_pair(tiny.simulation.adata_st, tiny.simulation.adata_sc).sha256
    by_name = load_dataset("tissue")
    assert (by_name.name, by_name.sha256) == ("tissue", expected)
    assert load_dataset(str(folders / "data/tissue")).sha256 == expected
    assert load_dataset("data/tissue").sha256 == expected
    assert load_dataset("data/tissue/st.h5ad, data/tissue/sc.h5ad").sha256 == expected


def test_a_home_directory_in_a_path_is_expanded(folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders))
    assert load_dataset("~/data/tissue").name == "tissue"


def test_a_home_directory_in_the_variable_is_expanded(folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders))
    monkeypatch.setenv("CGD_DATA_DIR", "~/data")
    assert "tissue" in list_datasets()
    assert load_dataset("tissue").name == "tissue"


def test_a_wrong_name_gets_the_closest_one(folders):
    with pytest.raises(DataError, match=r"no data set 'tisue' in CGD_DATA_DIR \(.*data\) .*did you mean 'tissue'\?"):
        load_dataset("tisue")


def test_without_the_variable_the_message_says_so(monkeypatch):
    monkeypatch.delenv("CGD_DATA_DIR", raising=False)
    with pytest.raises(
        DataError, match=r"no data set 'simulatd' \(CGD_DATA_DIR is not set\).*did you mean 'simulated'\?"
    ):
        load_dataset("simulatd")


def test_a_path_to_nothing_lists_the_names(folders):
    with pytest.raises(DataError, match=r"no folder at \./nowhere; .* one of: simulated, .*tissue"):
        load_dataset("./nowhere")


def test_a_variable_that_points_nowhere_keeps_the_simulated_sets(monkeypatch, tmp_path):
    monkeypatch.setenv("CGD_DATA_DIR", str(tmp_path / "gone"))
    assert list_datasets() == list(SIMULATED)


@pytest.mark.data
def test_real_data_sets_with_a_name_in_the_paper_are_there(data_dir):
    assert set(PAPER_NAMES) <= set(list_datasets())
