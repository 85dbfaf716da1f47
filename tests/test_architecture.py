"""The three floors, the rooms on them and their one direction, read from the imports of every file."""

import ast
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = ("cgd", "ablations", "tune")
FILES = [path.relative_to(ROOT) for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
LIBRARIES = set(metadata.packages_distributions()) - set(FLOORS)
MODULES = {path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for path in FILES}

# from the top down; a room imports from its own and from those below it, rooms side by side know nothing of each other
ROOMS = {
    "tune": (
        {"run_ablation", "run_comparison", "run_search", "measure_scaling"},
        {"commands"},
        {"search", "comparison"},
        {"trials"},
        {"store"},
        {"cluster"},
        {"checkpoints", "terminal"},
    ),
    "ablations": ({"search"}, {"report"}, {"findings"}, {"statistics"}, {"study"}),
}
MLFLOW = {f"tune/store/{name}.py" for name in ("reading", "tracking", "mlflow_errors", "model", "served_model")}


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


def on(floor):
    return [path for path in FILES if path.parts[0] == floor]


def storey(path):
    """How high above the lowest rooms of its floor a file is, None for what is in no room."""
    room = path.parts[1] if len(path.parts) > 2 else path.stem
    return next((-i for i, rooms in enumerate(ROOMS[path.parts[0]]) if room in rooms), None)


def file_of(module):
    path = Path(module.replace(".", "/"))
    return path.with_suffix(".py") if path.with_suffix(".py") in FILES else path / "__init__.py"


def goes_up(path, module):
    """Whether an import leads to a higher room or to another one side by side."""
    other = file_of(module)
    if other.name == "__init__.py" or other.parts[1] == path.parts[1]:
        return False
    return storey(other) >= storey(path)


def test_the_reader_sees_every_form_of_import():
    inside = "    from cgd import config\n    from . import x\n    import_module('e.f')"
    source = f"import a.b\nfrom c import d\ndef f():\n{inside}"
    assert imports_of(source, "cgd.model") == {"a.b", "c", "cgd.config", "cgd.model", "e.f"}
    assert top(MODULES) == set(FLOORS)
    assert len(FILES) > 30


def test_the_science_knows_nothing_of_how_it_is_run():
    known = {"ray", "optuna", "mlflow", "tune", "ablations"}
    assert {path.as_posix(): top(imports_in(path)) & known for path in on("cgd") if top(imports_in(path)) & known} == {}


def test_questions_know_of_the_science_what_is_data():
    allowed, offenders = {"cgd.config", "cgd.errors", "cgd.metrics.facts"}, {}
    for path in on("ablations"):
        names = imports_in(path)
        wrong = top(names) & {"ray", "optuna", "torch", "tune"}
        wrong |= {name for name in names if name.split(".")[0] == "cgd"} - allowed
        if wrong:
            offenders[path.as_posix()] = wrong
    assert offenders == {}


def test_only_the_store_knows_mlflow():
    assert {path.as_posix() for path in FILES if "mlflow" in top(imports_in(path))} == MLFLOW


def test_ray_and_optuna_are_used_in_tune_alone():
    assert top(path.parts[0] for path in FILES if top(imports_in(path)) & {"ray", "optuna"}) == {"tune"}


def test_every_file_is_in_a_room():
    outside = [path.as_posix() for floor in ROOMS for path in on(floor) if storey(path) is None]
    assert outside == ["tune/__init__.py", "ablations/__init__.py"]


def test_imports_between_rooms_go_down():
    assert goes_up(Path("tune/store/lock.py"), "tune.trials.plan")
    assert goes_up(Path("tune/search/plan.py"), "tune.comparison.export")
    up = [
        f"{path.as_posix()} imports {name}"
        for floor in ROOMS
        for path in on(floor)
        if path.name != "__init__.py"
        for name in sorted(imports_in(path))
        if name.split(".")[0] == floor and name != floor and goes_up(path, name)
    ]
    assert up == []


def test_no_file_imports_itself_through_others():
    """Circles between files, found by taking away again and again what imports nothing that is left."""
    graph = {module: imports_in(file_of(module)) & MODULES - {module} for module in MODULES}
    left = dict(graph)
    while done := [module for module, names in left.items() if not names & set(left)]:
        for module in done:
            del left[module]
    assert left == {}


def test_nothing_beside_a_command_shadows_a_library():
    """`python tune/run_ablation.py` puts tune/ first on the import path."""
    assert {"ray", "optuna", "mlflow", "yaml"} <= LIBRARIES
    beside = {path.parts[1].removesuffix(".py") for path in on("tune")} - {"__init__"}
    assert beside & (LIBRARIES | set(sys.stdlib_module_names)) == set()
