"""Writing files so that an interruption never leaves half of one under its final name."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cgd.errors import DiskError

# what a full or failing disk says; EFBIG is the limit on the size of a file (ulimit -f)
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS}


def is_disk_error(error: OSError) -> bool:
    """Whether the disk is full, over its quota, failing or read-only: nothing that the program could do better."""
    return error.errno in _DISK_ERRORS


def find_disk_error(error: BaseException | None) -> OSError | None:
    """What the disk said, where that is the error or what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and is_disk_error(error):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def disk_message(path: Path, error: OSError) -> str:
    """What could not be written, why, what is free there, and what to do."""
    return (
        f"cannot write {path}: {error.strerror or error}; {free_space(path)} free there. Free some space or choose "
        "another folder"
    )


def free_space(path: Path) -> str:
    """Space on the file system of `path`, or of the nearest folder above it that exists, e.g. `1.5 GB`."""
    for place in (path, *path.parents):
        with suppress(OSError):
            return readable_size(shutil.disk_usage(place).free)
    return "an unknown amount"


def readable_size(n_bytes: float) -> str:
    """Bytes in the largest decimal unit that leaves at least 1, e.g. `20 GB`."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while n_bytes >= 999.5 and len(units) > 1:
        n_bytes /= 1000
        del units[0]
    return f"{n_bytes:.0f} {units[0]}" if n_bytes >= 100 or units[0] == "bytes" else f"{n_bytes:.3g} {units[0]}"


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn what a full or failing disk says within into a DiskError that names `path`."""
    try:
        yield
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise DiskError(disk_message(path, error)) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, as fsync does for the content of a file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not know it for folders
            raise
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write to a temporary file beside `path`, flush it to disk, then rename it into place.

    Raises
    ------
    DiskError
        The disk is full or fails.
    """
    data = content.encode() if isinstance(content, str) else content
    with explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # the half-written file must go, whatever stopped the write
            Path(temporary).unlink(missing_ok=True)
            raise
