"""Text for the terminal: safe on any encoding and width, without control characters from outside."""

from __future__ import annotations

import codecs
import math
import os
import sys
from datetime import timedelta
from typing import TextIO

from rich.console import Console

_UNLIMITED = 10_000  # columns, where no terminal sets a limit
_ASCII = {"·": "-", "×": "x", "…": "~", "–": "-", "—": "-", "±": "+-", "→": "->", "≥": ">=", "≤": "<="}


def _find_closest(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: the closest ASCII for what an encoding lacks, `?` for the rest."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in lost), error.end


codecs.register_error("cgd_readable", _find_closest)


def make_streams_safe() -> None:
    """Let printing never fail: a terminal that cannot show a character gets the closest one it can."""
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        if not encoding.startswith("utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="cgd_readable")


def make_console(file: TextIO | None = None) -> Console:
    """A console on `file` (standard output when omitted). It honours NO_COLOR; a pipe is no terminal, ever.

    (Left alone, rich takes FORCE_COLOR as leave to write control characters into a file.) A pipe is as wide as its
    text; only a terminal, or COLUMNS, sets a width.
    """
    stream = file or sys.stdout
    is_terminal = stream.isatty()
    width = None if is_terminal or os.environ.get("COLUMNS", "").isdigit() else _UNLIMITED
    return Console(file=stream, force_terminal=is_terminal, width=width, highlight=False, markup=False, emoji=False)


def is_live(console: Console) -> bool:
    """Whether lines can be drawn over: on a terminal that understands how."""
    return console.is_terminal and not console.is_dumb_terminal


def join_lines(text: str) -> str:
    """`text` on one line and without control characters, which a name or a message from outside may hold."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`; `?` where unknown."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def format_clock(seconds: float) -> str:
    """`0:03:12`."""
    return str(timedelta(seconds=int(seconds)))


def format_mb(value: float) -> str:
    """`410 MB`, `3.2 GB`; `?` where unknown."""
    if not math.isfinite(value):
        return "?"
    if value < 10:
        return f"{value:.1f} MB"
    return f"{value:.0f} MB" if value < 1000 else f"{value / 1000:.1f} GB"
