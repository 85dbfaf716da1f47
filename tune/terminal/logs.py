"""Quiet terminals: whatever libraries say goes to `<output>/logs/<timestamp>-<command>.log`."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from cgd.files import is_disk_error

KEPT_LOGS = 20
_FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
_verbose: ContextVar[bool] = ContextVar("verbose", default=False)


def is_verbose() -> bool:
    """Whether the running command was asked to show everything, the output of Ray's workers included."""
    return _verbose.get()


class CommandLog:
    """The log of one command; a context manager.

    Inside it the standard error stream belongs to libraries and ends in the log: Python's logging and warnings, and
    what native code writes. Our own lines go to standard output, or are written after the end of the context. Until
    `open` names a folder everything is held back in a temporary file, so that a command refused for its arguments
    leaves nothing behind. (A library imported before may keep the stream it found, so commands import ray inside.)

    Parameters
    ----------
    command
        Name of the command, e.g. `run_ablation`.
    verbose
        Show on the terminal, too, what goes to the log. Native code then writes to the terminal alone.
    """

    def __init__(self, command: str, verbose: bool = False) -> None:
        self.command, self.verbose = command, verbose
        self.path: Path | None = None
        self.lost: str | None = None  # why something could not be written
        self._sink = -1
        self._stack = ExitStack()

    def __enter__(self) -> CommandLog:
        held = tempfile.TemporaryFile(buffering=0)
        self._stack.callback(held.close)
        self._sink = held.fileno()
        self._stack.callback(_verbose.reset, _verbose.set(self.verbose))
        stream = _Noise(self, sys.stderr)
        if not self.verbose:
            self._stack.enter_context(_redirect_native_errors(self._sink))
        self._stack.enter_context(redirect_stderr(stream))
        self._stack.enter_context(_redirect_logging(stream))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._sink = -1

    def open(self, output: Path) -> Path:
        """Create the log in `output/logs`, move there what was held back and remove all but the newest logs.

        Raises
        ------
        OSError
            The folder cannot be written to.
        """
        if self.path is None:
            folder = output / "logs"
            folder.mkdir(parents=True, exist_ok=True)
            stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{self.command}"
            path = folder / f"{stem}.log"
            if path.exists():
                path = folder / f"{stem}-{os.getpid()}.log"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            os.write(file, os.pread(self._sink, os.fstat(self._sink).st_size, 0))
            for target in (self._sink,) if self.verbose else (self._sink, 2):
                os.dup2(file, target)
            os.close(file)
            self.path = path
            for old in sorted(folder.glob("*.log"), key=lambda log: log.name)[:-KEPT_LOGS]:  # names begin with the time
                old.unlink(missing_ok=True)
        return self.path

    def write(self, text: str) -> None:
        """Add to the log, and to nothing else."""
        try:
            os.write(self._sink, text.encode(errors="backslashreplace"))
        except OSError as error:  # it is written to from within libraries: a full disk must not end what they do
            if not is_disk_error(error):
                raise
            self.lost = error.strerror

    def is_active(self) -> bool:
        return self._sink >= 0


class _Noise(io.TextIOBase):
    """The standard error stream while a command runs.

    Libraries keep it in their logging handlers, beyond the end of the command: then it is the stream it replaced.
    """

    encoding = "utf-8"

    def __init__(self, log: CommandLog, original: TextIO) -> None:
        self._log, self._original = log, original

    def write(self, text: str) -> int:
        if self._log.is_active():
            self._log.write(text)
        if self._log.verbose or not self._log.is_active():
            self._original.write(text)
        return len(text)

    def flush(self) -> None:
        if self._log.verbose or not self._log.is_active():
            self._original.flush()

    def fileno(self) -> int:
        return 2

    def writable(self) -> bool:
        return True


@contextmanager
def _redirect_native_errors(sink: int) -> Iterator[None]:
    """Point file descriptor 2 at `sink`: what is not written by Python goes there too."""
    saved = os.dup(2)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def _redirect_logging(stream: _Noise) -> Iterator[None]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
