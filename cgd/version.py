"""What a number was computed with: package versions and a hash of the code that computes."""

from __future__ import annotations

import ast
import hashlib
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "scanpy", "ray", "optuna", "mlflow", "diffusers")


def package_version() -> str:
    try:
        return metadata.version("causalged-ray")
    except metadata.PackageNotFoundError:
        return "0+uninstalled"


@lru_cache(maxsize=1)
def code_version() -> str:
    """12 hex digits over the syntax trees of the package `cgd`.

    Comments, docstrings and layout do not count, so that only a change that can change a number makes old results
    results of another version. (Another Python version writes trees differently and counts as a change too.)
    """
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(ast.dump(_without_docstrings(tree)).encode())
    return digest.hexdigest()[:12]


def _without_docstrings(tree: ast.Module) -> ast.Module:
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
    versions = {"python": platform.python_version(), "causalged-ray": package_version(), "code": code_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
