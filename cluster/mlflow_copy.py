"""Copies of the head's MLflow database in the bucket, which outlives the head.

Usage: mlflow_copy.py restore|save|keep FILE

`restore` makes FILE from the copy, if there is one and no FILE, and sets it to write-ahead logging; `save` copies it
now; `keep` does so every ten minutes. The bucket is CGD_BUCKET; without one, nothing is copied.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from pyarrow import fs

_SECONDS = 600


def place() -> str | None:
    """Where the copies lie, as a URI; None without a bucket. CGD_MLFLOW_COPIES names another place than the bucket."""
    bucket = os.environ.get("CGD_BUCKET")
    return os.environ.get("CGD_MLFLOW_COPIES") or (f"s3://{bucket}/mlflow" if bucket else None)


def save(database: Path) -> None:
    """Put a consistent copy in place of the last; a writer is not disturbed."""
    where = place()
    if where is None or not database.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / database.name
        with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        system, path = fs.FileSystem.from_uri(where)
        system.create_dir(path, recursive=True)
        # under another name first: an upload that breaks off must not be all there is
        with copy.open("rb") as source_file, system.open_output_stream(f"{path}/{database.name}.new") as stream:
            shutil.copyfileobj(source_file, stream)
        system.move(f"{path}/{database.name}.new", f"{path}/{database.name}")
    print(f"saved {database} to {where}", flush=True)


def restore(database: Path) -> None:
    """Make the database from the copy, unless there is one, and let it be read while it is written."""
    where = place()
    if where is not None and not database.exists():
        system, path = fs.FileSystem.from_uri(where)
        source = f"{path}/{database.name}"
        if system.get_file_info(source).type == fs.FileType.File:
            part = database.with_suffix(".part")
            with system.open_input_stream(source) as stream, part.open("wb") as target:
                shutil.copyfileobj(stream, target)
            part.rename(database)
            print(f"restored {database} from {where}", flush=True)
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def keep(database: Path) -> None:
    """Save forever."""
    while True:
        time.sleep(_SECONDS)
        try:
            save(database)
        except (OSError, sqlite3.Error) as error:  # the next one may succeed; the log says that this did not
            print(f"could not save {database}: {error}", flush=True)


if __name__ == "__main__":
    {"restore": restore, "save": save, "keep": keep}[sys.argv[1]](Path(sys.argv[2]))
