"""What a node must have before a trial runs there, looked at on the node itself. Imports nothing that it may lack."""

from __future__ import annotations

import hashlib
import importlib
import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PACKAGES = ("ray", "torch", "numpy", "pandas")
_WHAT_A_TRIAL_IMPORTS = "cgd.evaluation"
_SHOWN = 300  # characters of an error


@dataclass(frozen=True)
class Expected:
    """What the driver has, and every node must have."""

    versions: tuple[tuple[str, str], ...]  # name and version of each, as of `read_versions`
    probe: Path  # file the driver wrote in the folder of the checkpoints
    token: str  # its content
    files: tuple[Path, ...] = ()  # those that trials read
    storage: str | None = None  # `s3://BUCKET/PREFIX` for all nodes' checkpoints, where they share no folder of `probe`

    @classmethod
    def describe_this_process(cls, folder: Path, files: Sequence[Path] = (), storage: str | None = None) -> Expected:
        """What this process has, with the name of a probe in `folder`, which `write_probe` writes."""
        token = uuid.uuid4().hex
        return cls(tuple(read_versions().items()), folder / f".nodes-{token[:12]}", token, tuple(files), storage)

    def write_probe(self) -> None:
        """Raises OSError."""
        self.probe.parent.mkdir(parents=True, exist_ok=True)
        self.probe.write_text(self.token)

    def remove_probe(self) -> None:
        self.probe.unlink(missing_ok=True)


@lru_cache
def read_versions() -> dict[str, str]:
    """Versions of what a trial's numbers and pickles depend on, and hashes of our own code, in this process.

    `cgd code` is `cgd.version.code_version()`; `tune code` is over the files of `tune` and `ablations`. A local version
    (`2.13.0+cpu`) is left out: a head without a GPU may well have another build of the same torch.

    Raises
    ------
    ImportError
        `cgd` cannot be imported.
    """
    from cgd.version import code_version

    versions = {"cgd code": code_version(), "tune code": _hash_tune_code(), "Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def _hash_tune_code() -> str:
    digest = hashlib.sha256()
    for package in ("ablations", "tune"):
        spec = find_spec(package)  # Ray unpacks each package that it ships into a folder of its own
        places = spec.submodule_search_locations if spec else None
        for root in map(Path, places or ()):
            for path in sorted(root.rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def find_problems(expected: Expected) -> list[str]:
    """Why no trial of the driver's can run in this process; empty where one can."""
    try:
        found = read_versions()
    except Exception as error:  # whatever a broken installation raises is the answer
        return [f"cannot import cgd: {_shorten(error)}"]
    differing = [
        f"{name} {found.get(name)}, the driver has {version}"
        for name, version in expected.versions
        if found.get(name) != version
    ]
    unseen = [f"sees no file {path}" for path in expected.files if not path.is_file()]
    return differing or [*_check_import(), *_check_folder(expected), *unseen]


@lru_cache
def find_problems_once(expected: Expected) -> list[str]:
    """`find_problems`, once in a process; a function of this name, for Ray sends it to the nodes by its name."""
    return find_problems(expected)


def examine(expected: Expected, data: Sequence[Any]) -> list[str]:
    """`find_problems`, and whether the data of the study arrive; `data` are references to Ray's object store."""
    problems = find_problems(expected)
    if problems:
        return problems
    import ray

    try:
        ray.get(list(data))
    except Exception as error:  # lost on the way, or written by packages that this node lacks
        return [f"cannot read the data: {_shorten(error)}"]
    return []


def _check_import() -> list[str]:
    try:
        importlib.import_module(_WHAT_A_TRIAL_IMPORTS)
    except Exception as error:  # a package that is missing, or one that fails as it is imported
        return [f"cannot import {_WHAT_A_TRIAL_IMPORTS}: {_shorten(error)}"]
    return []


def _check_folder(expected: Expected) -> list[str]:
    """A folder that holds what the driver wrote is the driver's; one that takes a file takes checkpoints."""
    folder = expected.probe.parent
    if expected.storage is None and not _is_the_drivers(expected):
        return [f"{folder} is not the driver's folder of that name"]
    own = folder / f"{expected.probe.name}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own.write_text(expected.token)
    except OSError as error:
        return [f"cannot write to {folder}: {error.strerror}"]
    own.unlink(missing_ok=True)
    return _check_storage(expected.storage, own.name) if expected.storage else []


def _is_the_drivers(expected: Expected) -> bool:
    try:
        return expected.probe.read_text() == expected.token
    except OSError:
        return False


def _check_storage(storage: str, name: str) -> list[str]:
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(storage)
        system.create_dir(path, recursive=True)
        with system.open_output_stream(f"{path}/{name}") as stream:
            stream.write(b"")
        system.delete_file(f"{path}/{name}")
    except Exception as error:  # no such bucket, no permission, no route, ...: each library with errors of its own
        return [f"cannot write to {storage}: {_shorten(error)}"]
    return []


def _shorten(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    return f"{type(error).__name__}: {text}"[:_SHOWN]
