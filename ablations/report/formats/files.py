"""Files that replace their predecessors in one step, and CSV that a spreadsheet shows as it is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cgd.errors import CGDError

_FORMULA = re.compile(r"\s*[=+\-@]")


def replace_file(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, then put it in its place. Raises OSError, and then leaves no draft."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_files(folder: Path, contents: Mapping[str, str | bytes], what: str) -> None:
    """Write files, name -> content, to a folder, which is made; `what` they are, for the message.

    Raises
    ------
    CGDError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            replace_file(folder / name, content)
    except OSError as error:
        raise CGDError(f"cannot write {what} to {folder}: {error}; pass a folder you may write") from None


def to_csv(table: pd.DataFrame) -> str:
    """A table without its index; a text that a spreadsheet would run as a formula begins with an apostrophe instead.

    Names of genes, levels and data sets come from files of others. Numbers are left alone, negative ones too.
    """
    safe = table.rename(columns=_make_text)
    for column in range(safe.shape[1]):
        if safe.dtypes.iloc[column].kind not in "biuf":
            safe.isetitem(column, safe.iloc[:, column].map(_make_text))
    return safe.to_csv(index=False)


def _make_text(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # pandas does not quote it, and a spreadsheet begins a line there
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
