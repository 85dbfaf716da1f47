"""What a running study shows, on a terminal and elsewhere."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

import tune.terminal.progress
from tune.terminal.board import Board, draw
from tune.terminal.logs import CommandLog
from tune.terminal.progress import Progress
from tune.terminal.text import format_clock, format_duration, format_mb, join_lines, make_console

ROOT = Path(__file__).parents[3]
NAME = "ar_decay=0.8 · mouse · seed 0"
OTHER = "ar_decay=0.7 · mouse · seed 0"
ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3\d[;m]")


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 x 30 whose output can be read back."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def make(width=80):
        return Console(file=io.StringIO(), force_terminal=True, width=width, height=30, highlight=False, markup=False)

    return make


def play(progress):
    """One trial fails, one finishes, one runs."""
    with progress:
        for name in (NAME, OTHER, "ar_decay=0.9 · human · seed 0"):
            progress.start(name, 4, "human" if "human" in name else "mouse")
        progress.report_epoch(NAME, 1, {"val_pcc": 0.512})
        progress.report_epoch(OTHER, 2, {"val_pcc": 0.4})
        progress.finish(NAME, "PCC 0.300 in 12 s")
        progress.finish("ar_decay=0.9 · human · seed 0", "FAILED: diverged", failed=True)
    return progress.console.file.getvalue()


def test_a_terminal_shows_one_live_table_under_finished_trials(terminal):
    text = play(Progress(5, 20, terminal()))
    assert ESCAPE in text
    assert f"[1/5] {NAME}: PCC 0.300 in 12 s" in text
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text[text.rindex("[2/5]") :])
    assert "2/5 trials done, 1 failed, 1 running, 2 to do" in last
    assert "elapsed" in last
    assert re.search(r"\n[^ ]+\r?\nrunning +epoch +validation PCC", last)  # the bar is a line of its own
    assert re.search(rf"{OTHER} +2/4 +0\.400", last)
    assert re.search(rf"{NAME} +0\.512", last)  # the best so far is a finished one, by its validation genes


def test_a_pipe_gets_a_line_per_trial_and_no_control_character():
    text = play(Progress(5, 20, make_console(io.StringIO())))
    assert text.splitlines()[0].startswith(f"[1/5] {NAME}: PCC 0.300 in 12 s; about ")
    assert text.splitlines()[1].startswith("[2/5] ar_decay=0.9 · human · seed 0: FAILED: diverged")
    assert len(text.splitlines()) == 2
    assert all(character.isprintable() or character == "\n" for character in text)


def test_no_color_is_honoured(terminal, monkeypatch):
    assert COLOUR.search(play(Progress(5, 20, terminal())))
    monkeypatch.setenv("NO_COLOR", "1")
    text = play(Progress(5, 20, terminal()))
    assert not COLOUR.search(text)
    assert "running" in text


def test_a_terminal_that_cannot_be_drawn_over_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    text = play(Progress(5, 20, terminal()))
    assert ESCAPE not in text
    assert "[2/5]" in text


def test_colour_forced_on_a_pipe_draws_no_table(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert ESCAPE not in play(Progress(5, 20, make_console(io.StringIO())))


def test_verbose_output_and_the_table_do_not_mix(terminal):
    with CommandLog("test", verbose=True):
        progress = Progress(5, 20, terminal())
    assert "elapsed" not in play(progress)


def test_a_heartbeat_breaks_a_long_silence():
    console, started = make_console(io.StringIO()), time.monotonic()
    with Progress(5, 20, console, heartbeat_seconds=0.1) as progress:
        progress.start(NAME, 4, "mouse")
        progress.report_epoch(NAME, 1, {"val_pcc": 0.25})
        time.sleep(0.45)
    lines = console.file.getvalue().splitlines()
    assert 1 <= len(lines) <= (time.monotonic() - started) / 0.1
    assert lines[0].startswith("0/5 trials done, 1 running, 4 to do; best mouse 0.250; about ")


def test_no_heartbeat_while_trials_finish():
    console = make_console(io.StringIO())
    with Progress(50, 200, console, heartbeat_seconds=0.5) as progress:
        for i in range(10):
            progress.start(str(i), 4)
            progress.finish(str(i), "PCC 0.1")
            time.sleep(0.06)
    assert [line[0] for line in console.file.getvalue().splitlines()] == ["["] * 10


def test_the_table_is_drawn_at_most_four_times_a_second(terminal, monkeypatch):
    drawn, started = [], time.monotonic()
    monkeypatch.setattr(tune.terminal.progress, "draw", lambda *arguments: drawn.append(1) or draw(*arguments))
    with Progress(5, 20, terminal()) as progress:
        progress.start(NAME, 4, "mouse")
        for _ in range(200):
            progress.report_epoch(NAME, 1, {"val_pcc": 0.25})
            time.sleep(0.005)
        assert 1 <= len(drawn) <= 4 * (time.monotonic() - started) + 2


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(terminal, width):
    board = Board(40, 400)
    for i in range(30):
        board.start(f"{'組織' * 10} {i} · a_very_long_name_of_a_data_set_that_has_no_end", 10, f"data {i}")
        board.report_epoch(f"{'組織' * 10} {i} · a_very_long_name_of_a_data_set_that_has_no_end", 3, {"val_pcc": 0.1})
    console = terminal(width)
    with console.capture() as captured:
        console.print(draw(board, width, 30))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", captured.get()).splitlines()
    assert len(lines) < 30
    assert max(map(cell_len, lines)) <= width
    assert width < 40 or any("more" in line for line in lines)


def test_the_best_is_by_validation_genes_per_data_set():
    board = Board(4, 40)
    board.start("a", 10, "mouse")
    board.start("b", 10, "human")
    for name, epoch, score in (("a", 1, 0.2), ("a", 2, 0.5), ("a", 3, 0.4), ("b", 1, 0.1)):
        board.report_epoch(name, epoch, {"val_pcc": score, "test_pcc": 0.9})
    board.finish("a", failed=False)
    board.report_epoch("a", 4, {"val_pcc": 0.99})  # a late report of a trial that has ended
    assert board.best == {"mouse": (0.5, "a"), "human": (0.1, "b")}
    assert (board.n_done, board.n_failed, board.n_waiting, board.epochs_over) == (1, 0, 2, 11)


def test_the_time_left_follows_from_the_epochs_done(monkeypatch):
    board = Board(4, 40)
    assert board.describe_time_left() == ""
    board.start("a", 10, "mouse")
    board.report_epoch("a", 5, {})
    monkeypatch.setattr(board, "started", time.monotonic() - 50)
    assert board.estimate_seconds_left() == pytest.approx(350, abs=1)
    board.finish("a", failed=False)  # stopped early: its other epochs need not be waited for
    assert board.estimate_seconds_left() == pytest.approx(150, abs=1)
    for name in "bcd":
        board.start(name, 10, "mouse")
        board.report_epoch(name, 10, {})
    assert board.describe_time_left() == ""  # they predict, for nobody knows how long


def test_a_terminal_without_the_characters_gets_the_closest():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    code = (
        "from tune.terminal.text import *; make_streams_safe(); print('a · b × c … é'); "
        "from tune.terminal.progress import Progress; p = Progress(1, 2); p.start('x · y', 2); p.finish('x · y', 'PCC')"
    )
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert process.stdout.splitlines() == ["a - b x c ~ ?", "[1/1] x - y: PCC"], process.stderr


def test_values_in_words():
    assert [format_duration(s) for s in (0.52, 12, 99.4, 100, 7200, float("nan"))] == [
        "0.5 s", "12 s", "99 s", "2 min", "2.0 h", "?",
    ]  # fmt: skip
    assert [format_mb(m) for m in (0.5, 410.2, 3210.0, float("nan"))] == ["0.5 MB", "410 MB", "3.2 GB", "?"]
    assert format_clock(3792.9) == "1:03:12"
    assert join_lines("\x1b[31mred\r\n  and\tmore\x07") == "[31mred and more"
