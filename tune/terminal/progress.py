"""What a running study shows: a line for each finished trial, and beneath them one live table.

Where the output is no terminal, or one that cannot be drawn over (TERM=dumb), a heartbeat line takes the table's place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Event, Lock, Thread
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from cgd.metrics.facts import PRIMARY
from tune.terminal.board import Board, draw
from tune.terminal.logs import is_verbose
from tune.terminal.text import is_live, join_lines, make_console

_REFRESH_PER_SECOND = 4
_HEARTBEAT_SECONDS = 60.0


class Progress:
    """Progress over the epochs of all trials; a context manager.

    Parameters
    ----------
    n_trials, n_epochs
        Trials to run, and the sum of their epochs at most.
    console
        Where to write; standard output when omitted.
    heartbeat_seconds
        Without a table, a line says where the study stands after so long a silence.
    outcomes
        Whose validation scores are shown; of running trials the first.
    """

    def __init__(
        self,
        n_trials: int,
        n_epochs: int,
        console: Console | None = None,
        heartbeat_seconds: float = _HEARTBEAT_SECONDS,
        outcomes: tuple[str, ...] = (PRIMARY,),
    ) -> None:
        self.console = console or make_console()
        self.board = Board(n_trials, max(n_epochs, 1), outcomes)
        self._lock = Lock()  # the table and the heartbeat are drawn by a thread of their own
        self._live: Live | None = None
        self._heartbeat: _Heartbeat | None = None
        if is_live(self.console) and not is_verbose():  # what libraries say would run into the table
            self._live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=_REFRESH_PER_SECOND,
                transient=True,
                redirect_stderr=False,  # what libraries write there goes to the log
            )
        else:
            self._heartbeat = _Heartbeat(self._beat, heartbeat_seconds)

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        if self._heartbeat:
            self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._heartbeat:
            self._heartbeat.stop()

    def start(self, name: str, n_epochs: int, dataset: str = "", has_epochs: bool = True) -> None:
        """A trial of at most `n_epochs` began; without epochs they only measure its work."""
        with self._lock:
            self.board.start(name, n_epochs, dataset, has_epochs)

    def report_epoch(self, name: str, epoch: int, metrics: Mapping[str, float] | None = None) -> None:
        """A trial finished an epoch; its validation score is shown and decides the best so far."""
        with self._lock:
            self.board.report_epoch(name, epoch, metrics or {})

    def finish(self, name: str, outcome: str, failed: bool = False) -> None:
        """A trial ended, perhaps before its last epoch."""
        with self._lock:
            self.board.finish(name, failed)
            board, left = self.board, self.board.describe_time_left()
        line = f"[{board.n_done}/{board.n_trials}] {join_lines(name)}: {join_lines(outcome)}"
        if self._live:
            self.console.print(Text(line, style="red" if failed else ""), no_wrap=True, overflow="ellipsis")
        else:
            self._write(f"{line}; {left}" if left else line)

    def note(self, line: str) -> None:
        """A line about something other than a trial."""
        if self._live:
            self.console.print(Text(join_lines(line), style="yellow"))
        else:
            self._write(join_lines(line))

    def mark_best(self, where: str, score: float, name: str) -> None:
        """The best so far, where it is not for the epochs to decide; `start` such trials without a data set."""
        with self._lock:
            self.board.best[where] = (score, name)

    # ---- without a table --------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        with self._lock:
            best = [f"best {join_lines(data)} {score:.3f}" for data, (score, _) in self.board.best.items()]
            line = "; ".join(filter(None, [self.board.describe_counts(), *best, self.board.describe_time_left()]))
        self._write(line)

    def _write(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()  # a pipe is buffered, and someone may be waiting for the line
        if self._heartbeat:
            self._heartbeat.rest()

    # ---- the table --------------------------------------------------------------------------------------------------

    def _render(self) -> RenderableType:
        with self._lock:
            return draw(self.board, self.console.width, self.console.height)


class _Heartbeat:
    """Calls `beat` after each silence of `seconds`, from a thread of its own: a trial that hangs reports nothing."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self._beat, self._seconds = beat, seconds
        self._last = time.monotonic()
        self._stopped = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._last = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def rest(self) -> None:
        """Something was written: the silence starts again."""
        self._last = time.monotonic()

    def _run(self) -> None:
        while not self._stopped.wait(max(self._count_left(), 0.01)):
            if self._count_left() <= 0:
                self._beat()

    def _count_left(self) -> float:
        return self._last + self._seconds - time.monotonic()
