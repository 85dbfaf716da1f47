"""What a node says of itself, in this process."""

from dataclasses import replace

import pytest

from tune.cluster import node_check
from tune.cluster.node_check import Expected, find_problems


@pytest.fixture
def expected(tmp_path):
    found = Expected.describe_this_process(tmp_path / "checkpoints", [tmp_path / "values.csv"])
    found.write_probe()
    (tmp_path / "values.csv").write_text("")
    yield found
    found.remove_probe()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_the_process_itself_is_as_expected(expected):
    assert find_problems(expected) == []


def test_each_other_version_is_named_with_both(expected):
    versions = dict(expected.versions) | {"torch": "1.0", "cgd code": "0123456789ab"}
    problems = find_problems(replace(expected, versions=tuple(versions.items())))
    here = dict(expected.versions)
    assert problems == [
        f"cgd code {here['cgd code']}, the driver has 0123456789ab",
        f"torch {here['torch']}, the driver has 1.0",
    ]


def test_another_build_of_the_same_torch_is_the_same(expected):
    assert "+" not in dict(expected.versions)["torch"]


def test_a_folder_that_is_not_the_drivers_is_refused(expected):
    expected.probe.write_text("of another driver")
    assert find_problems(expected) == [f"{expected.probe.parent} is not the driver's folder of that name"]
    expected.remove_probe()
    assert find_problems(expected) == [f"{expected.probe.parent} is not the driver's folder of that name"]


def test_a_file_that_is_not_there_is_named(expected, tmp_path):
    (tmp_path / "values.csv").unlink()
    assert find_problems(expected) == [f"sees no file {tmp_path / 'values.csv'}"]


def test_a_package_that_fails_as_it_is_imported_is_named(expected, monkeypatch):
    def broken(name):
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(node_check.importlib, "import_module", broken)
    assert find_problems(expected) == [
        "cannot import cgd.evaluation: OSError: libcudart.so.13: cannot open shared object file"
    ]


def test_with_shared_storage_the_folder_may_be_the_nodes_own(expected, tmp_path):
    kept = replace(expected, storage=f"file://{tmp_path}/storage/study")
    kept.remove_probe()
    assert find_problems(kept) == []
    assert not list((tmp_path / "storage" / "study").iterdir())


def test_a_storage_that_takes_nothing_is_refused(expected, tmp_path):
    (tmp_path / "file").write_text("")
    storage = f"file://{tmp_path}/file/study"
    (problem,) = find_problems(replace(expected, storage=storage))
    assert problem.startswith(f"cannot write to {storage}: ")
