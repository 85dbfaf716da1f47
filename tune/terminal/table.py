"""The live table of a running study."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.terminal.board import Board, RunningTrial
from tune.terminal.text import clock, one_line

_MOST_ROWS = 12
_OTHER_LINES = 6  # heading, bar, two table headings, `and N more`, the cursor


def draw(board: Board, width: int, height: int) -> RenderableType:
    """Counts and times, the running trials and the best so far of each data set, in a terminal of that size."""
    times = [f"{clock(board.elapsed())} elapsed", board.time_left()]
    head = _cell(", ".join(filter(None, [board.counts(), *times])), style="bold")
    bar = Table.grid()  # a bar by itself does not end its line
    bar.add_row(ProgressBar(board.n_epochs, board.epochs_over, width=min(40, width)))
    n_rows = min(_MOST_ROWS, max((height - _OTHER_LINES) // 2, 1))
    return Group(head, bar, _running(board.running, n_rows), _best(board.best, n_rows))


def _running(running: Mapping[str, RunningTrial], n_rows: int) -> Table:
    table = _table("running", "epoch", "validation PCC")
    for name, trial in list(running.items())[:n_rows]:
        score = f"{trial.score:.3f}" if math.isfinite(trial.score) else ""
        table.add_row(_cell(name), f"{trial.epoch}/{trial.n_epochs}" if trial.has_epochs else "", score)
    if len(running) > n_rows:
        table.add_row(f"and {len(running) - n_rows} more", "", "")
    return table


def _best(best: Mapping[str, tuple[float, str]], n_rows: int) -> Table:
    table = _table("best so far", "validation PCC")
    table.show_header = bool(best)
    for dataset, (score, name) in list(best.items())[:n_rows]:
        table.add_row(_cell(name if dataset in name else f"{dataset}: {name}"), f"{score:.3f}")
    return table


def _table(first: str, *numbers: str) -> Table:
    """A borderless table over the whole width, whose first column gives way where the terminal is narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    table.add_column(first, no_wrap=True, overflow="ellipsis", ratio=1)
    for heading in numbers:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", justify="right")
    return table


def _cell(text: str, style: str = "") -> Text:
    return Text(one_line(text), no_wrap=True, overflow="ellipsis", style=style)
