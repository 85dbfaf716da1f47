"""The three rooms and their one direction, read from the imports of every file."""

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cgd", "ablations", "tune")
FILES = [path.relative_to(ROOT) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
LIBRARIES = set(metadata.packages_distributions()) - set(ROOMS)
MODULES = {path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for path in FILES}


def imports_of(source, package=""):
    """Modules a source imports anywhere in it, functions included; of `from a import b` also a.b where it is one."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return names


def imports_in(path):
    return imports_of((ROOT / path).read_text(encoding="utf-8"), ".".join(path.parts[:-1]))


def top(names):
    return {name.split(".")[0] for name in names}


def in_room(*rooms):
    return [pytest.param(path, id=path.as_posix()) for path in FILES if path.parts[0] in rooms]


def test_the_reader_sees_every_form_of_import():
    inside = "    from cgd import config\n    from . import x\n    import_module('e.f')"
    source = f"import a.b\nfrom c import d\ndef f():\n{inside}"
    assert imports_of(source, "cgd.model") == {"a.b", "c", "cgd.config", "cgd.model", "e.f"}
    assert {path.parts[0] for path in FILES} == set(ROOMS)
    assert len(FILES) > 30


@pytest.mark.parametrize("path", in_room("cgd"))
def test_the_science_knows_nothing_of_how_it_is_run(path):
    assert not top(imports_in(path)) & {"ray", "optuna", "mlflow", "tune", "ablations"}


@pytest.mark.parametrize("path", in_room("ablations"))
def test_questions_know_the_configuration_and_nothing_else(path):
    names = imports_in(path)
    assert not top(names) & {"ray", "optuna", "torch", "tune"}
    assert {name for name in names if name.split(".")[0] == "cgd"} <= {"cgd.config", "cgd.errors"}


@pytest.mark.parametrize("path", in_room("cgd", "ablations", "tune"))
def test_only_the_tracker_the_reader_of_results_and_what_mlflow_runs_know_mlflow(path):
    knows = ("tune/store/tracking.py", "tune/store/errors.py", "tune/store/model.py", "tune/store/served_model.py")
    knows += ("ablations/findings/results.py",)
    if path.as_posix() not in knows:
        assert "mlflow" not in top(imports_in(path))


def test_the_reader_of_results_imports_mlflow_where_it_reads_alone():
    tree = ast.parse((ROOT / "ablations/findings/results.py").read_text(encoding="utf-8"))
    at_import = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    assert "mlflow" not in top(imports_of(at_import))
    assert "mlflow" in top(imports_in(Path("ablations/findings/results.py")))


def test_ray_is_used_where_it_belongs():
    users = {path.parts[0] for path in FILES if top(imports_in(path)) & {"ray", "optuna"}}
    assert users == {"tune"}


@pytest.mark.parametrize("path", in_room("tune"))
def test_no_file_beside_a_command_shadows_a_library(path):
    """`python tune/run_ablation.py` puts tune/ first on the import path."""
    assert {"ray", "optuna", "mlflow", "yaml"} <= LIBRARIES
    assert path.stem == "__init__" or path.stem not in LIBRARIES | set(sys.stdlib_module_names)
