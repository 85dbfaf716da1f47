"""What a number was computed with: package versions and a hash of the code that computes."""

from __future__ import annotations

import ast
import hashlib
import platform
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

__version__ = "0.2.0"  # of the whole project: pyproject.toml reads it here

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "scanpy", "ray", "optuna", "mlflow", "diffusers")
_METHOD_PACKAGES = ("pot", "scikit-learn", "scvi-tools", "tangram-sc")  # what the compared methods run

# tables, not computations: what a trial takes from them is in its fingerprint already, or a name
_NO_CODE = ("version.py", "config.py", "baselines/__init__.py", "metrics/facts.py")


@lru_cache
def code_version(*modules: str) -> str:
    """12 hex digits over the syntax trees of the package `cgd`, or of `modules` (`cgd.evaluation`) and of all that
    they import from the package, directly or not.

    Comments, docstrings and layout do not count, so that only a change that can change a number makes old results
    results of another version. (Another Python version writes trees differently and counts as a change too.)
    """
    root = Path(__file__).parent
    # not of this file: the number of a release must not make results those of another version
    files = _closure(root, modules) if modules else sorted({*root.rglob("*.py")} - {root / "version.py"})
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(ast.dump(_drop_docstrings(_parse(path))).encode())
    return digest.hexdigest()[:12]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _closure(root: Path, modules: tuple[str, ...]) -> list[Path]:
    """Files of `modules` and of everything they import, inside functions too."""
    found: set[Path] = set()
    waiting = [path for module in modules for path in _files(root, module)]
    while waiting:
        path = waiting.pop()
        if path not in found and path.relative_to(root).as_posix() not in _NO_CODE:
            found.add(path)
            waiting += [file for name in _list_imports(_parse(path)) for file in _files(root, name)]
    return sorted(found)


def _list_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(root: Path, module: str) -> list[Path]:
    """The file of a module of the package; none for anything else."""
    package, *parts = module.split(".")
    if package != "cgd" or not parts:
        return []
    place = root.joinpath(*parts)
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]


def _drop_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree


def environment() -> dict[str, str]:
    """Versions of Python, this package and the packages numbers depend on."""
    versions = {"python": platform.python_version(), "causalged-ray": __version__, "code": code_version()}
    for name in (*_PACKAGES, *_METHOD_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
