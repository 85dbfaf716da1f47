"""Arguments that several commands take, and what they say of the store."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from ablations.findings.store_uri import without_password
from cgd.errors import ConfigError


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def own_store(output: Path) -> str:
    """Tracking URI of the store that belongs to an output folder."""
    return f"sqlite:///{output / 'mlflow.db'}"


def parse_assignment(text: str) -> tuple[str, Any]:
    """`PATH=VALUE` of --set as path and value. Raises ConfigError for anything else."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text}: expected PATH=VALUE, e.g. --set train.epochs=5")
    try:
        return path.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: '{value}' is not a YAML value") from None


def file_name(text: str) -> str:
    """A name that is a file's and a folder's too, for argparse."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise argparse.ArgumentTypeError(
            f"expected letters, digits, '.', '_' and '-', a letter or digit first; got {text}"
        )
    return text


def print_datasets() -> None:
    """The data sets a command can name, for --list."""
    from cgd.data.catalog import available  # imports anndata, which --help does without

    print("Data sets:")
    for name in available():
        print(f"  {name}")


def recorded(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments as JSON can hold them, without passwords: they are kept beside the results."""
    values = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    return {key: without_password(value) if isinstance(value, str) else value for key, value in values.items()}


def open_ui(uri: str, output: Path | None) -> str:
    """The command that opens the UI, without a password; `output` is the folder of our own store."""
    if output is None:
        uri = without_password(uri)
        server = f"mlflow server --host 127.0.0.1 --gunicorn-opts '--threads 4' --backend-store-uri {shlex.quote(uri)}"
        return uri if uri.startswith("http") else server
    folder = "" if output == Path("outputs").resolve() else f" OUTPUT={shlex.quote(str(output))}"
    return f"make ui{folder}  (http://127.0.0.1:5000)"
