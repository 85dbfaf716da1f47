"""What names the code and the environment a number was computed with."""

import re
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from cgd import __version__, version

SOURCE = '"""Module."""\n\n\ndef f(x):\n    """Doc."""\n    # why\n    return x + 1\n'


@pytest.fixture
def code_of(tmp_path, monkeypatch):
    """The code version of a package of one file."""
    monkeypatch.setattr(version, "__file__", str(tmp_path / "version.py"))

    def compute(source, name="a.py"):
        for path in tmp_path.rglob("*.py"):
            path.unlink()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
        return version.code_version.__wrapped__()

    return compute


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("# why", "# another reason"),
        SOURCE.replace("Doc.", "Says more.\n\n    A lot more."),
        SOURCE.replace('    """Doc."""\n', ""),
        SOURCE.replace("x + 1", "(x\n            + 1)"),
        SOURCE.replace('"""Module."""', '"""Another."""\n'),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(code_of, same):
    assert code_of(same) == code_of(SOURCE)


@pytest.mark.parametrize("other", [SOURCE.replace("1", "2"), SOURCE.replace("x + 1", "x - 1"), SOURCE + "y = 'text'\n"])
def test_whatever_can_change_a_number_counts(code_of, other):
    assert code_of(other) != code_of(SOURCE)


def test_code_version_depends_on_file_place_not_package_place(code_of, tmp_path, monkeypatch):
    base = code_of(SOURCE)
    assert code_of(SOURCE, "b.py") != base
    assert code_of(SOURCE, "sub/a.py") != base
    code_of(SOURCE)
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    monkeypatch.setattr(version, "__file__", str(tmp_path / "elsewhere" / "version.py"))
    assert version.code_version.__wrapped__() == base


def test_the_number_of_a_release_changes_no_code_version(code_of, tmp_path):
    base = code_of(SOURCE)
    (tmp_path / "version.py").write_text("__version__ = '1'")
    assert version.code_version.__wrapped__() == base


def test_the_changelog_opens_with_this_version():
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)[0] in ("Unreleased", __version__)
    assert f"## [{__version__}]" in text


def test_the_version_of_this_code_is_twelve_hex_digits():
    assert len(version.code_version()) == 12
    assert int(version.code_version(), 16) >= 0
    assert version.code_version() == version.code_version.__wrapped__()


def test_the_environment_names_what_numbers_depend_on():
    found = version.environment()
    assert found["torch"] == metadata.version("torch")
    assert found["code"] == version.code_version()
    assert {"python", "causalged-ray", "numpy", "scipy", "anndata", "diffusers"} <= set(found)


def test_packages_that_are_not_installed_are_said_to_be(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version.metadata, "version", nothing)
    assert version.environment()["ray"] == "not installed"


def test_an_empty_file_of_docstrings_parses(code_of):
    assert Path(version.__file__).name == "version.py"
    assert code_of('class A:\n    """Only a docstring."""\n') != code_of("")


def test_the_version_of_some_modules_is_that_of_what_they_import(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "__file__", str(tmp_path / "version.py"))
    files = {"a.py": "def f():\n    from cgd.sub import b\n", "sub/b.py": "from cgd.config import x\nimport numpy\n"}
    files |= {"c.py": "z = 1\n", "config.py": "x = 1\n", "sub/__init__.py": ""}

    def compute(**changed):
        for name, source in (files | changed).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(source)
        return version.code_version.__wrapped__("cgd.a")

    base = compute()
    assert compute(**{"c.py": "z = 2\n"}) == base  # nothing imports it
    assert compute(**{"config.py": "x = 2\n"}) == base  # its values are in the fingerprint
    assert compute(**{"sub/b.py": "import scipy\n"}) != base
    assert compute(**{"sub/__init__.py": "y = 1\n"}) != base
    assert version.code_version.__wrapped__("cgd.c") != base
