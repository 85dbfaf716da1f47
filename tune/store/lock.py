"""Keeping two commands out of one folder or one database."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgd.errors import CGDError


class OutputError(CGDError):
    """The output folder cannot be used."""


@contextmanager
def lock_folder(output: Path) -> Iterator[None]:
    """Create the output folder and keep other commands out of it. Raises OutputError."""
    if "?" in str(output):
        raise OutputError(f"{output}: the address of a database cannot hold a '?'; choose another folder with --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("a+")
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror}; choose another folder with --output") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise OutputError(
                f"{output} is in use by process {lock.read() or 'unknown'}; wait for it, or choose another --output"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
