"""What trials report, on disk first and then in the tracking store: a store that goes away does not hurt a study.

The callbacks of a study put entries here and never wait: each is in `OUTPUT/outbox/` before the call returns, and a
thread of its own delivers it, run by run in order, again and again while the store is away.
"""

from __future__ import annotations

import gc
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType

from cgd.errors import CGDError, TrackingError
from tune.store.delivery import Delivery
from tune.store.errors import StoreAwayError, UndeliveredError, hide_password
from tune.store.outbox_files import LAST, End, Entry, Epochs, Fail, Finish, Open, OutboxFiles, Tag, read_clock
from tune.store.reading import KILLED
from tune.store.tracking import Tracking

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # seconds between one attempt and the next, the last forever
_STOP_SECONDS = 5.0
_WAIT_VARIABLE, _WAIT_SECONDS = "CGD_STORE_WAIT", 60.0


class Outbox:
    """Writes to the store in the background; a context manager, to be left before Ray is."""

    def __init__(self, tracking: Tracking, output: Path) -> None:
        self.tracking, self.files = tracking, OutboxFiles(output / "outbox")
        # where lines for the terminal go; called from the thread that delivers
        self.say: Callable[[str], None] = partial(print, flush=True)
        self._waiting: OrderedDict[str, deque[Entry]] = OrderedDict()
        self._deliveries: dict[str, Delivery] = {}
        self._changed = Condition()
        self._failures, self._away, self._n_delivered = 0, "", 0
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = Thread(target=self._work, name="outbox", daemon=True)

    def __enter__(self) -> Outbox:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:  # after an error the store, if it is there, still hears how the runs ended
            ended = self._changed.wait_for(lambda: self._is_idle() or bool(self._away), _STOP_SECONDS)
            self._stopping = True
            self._changed.notify_all()
        if ended:
            self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():  # a server that does not answer; the thread ends with the process
            gc.disable()  # in that thread it might come upon something of Ray after Ray is gone, which ends the process

    # ---- what is reported -------------------------------------------------------------------------------------------

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry of a run and have it delivered.

        Raises
        ------
        TrackingError
            The store refused an earlier one.
        """
        if isinstance(entry, Open):  # a later command may be given another store
            entry = entry.model_copy(update={"store": hide_password(self.tracking.uri)})
        with self._changed:
            self._check()
            is_news = not self.files.unsaved
            self.files.keep(key, entry, durable=isinstance(entry, LAST))
            self._waiting.setdefault(key, deque()).append(entry)
            self._changed.notify_all()
        if is_news and (reason := self.files.unsaved.get(key)):
            self.say(f"cannot write to {self.files.folder} ({reason}): what is reported is kept in memory")

    def add_epochs(self, key: str, epochs: Sequence[Mapping[str, float]]) -> None:
        """Metrics of several epochs, at `time_ms` or now."""
        when = read_clock()
        if epochs:
            self.put(key, Epochs(at=when, epochs=tuple({"time_ms": when, **epoch} for epoch in epochs)))

    def tag(self, key: str, tag: str, value: str) -> None:
        self.put(key, Tag(tag=tag, value=value))

    def finish(
        self,
        key: str,
        summary: Mapping[str, float],
        per_gene: str,
        model: tuple[Path, Mapping[str, str], Mapping[str, str]] | None = None,
    ) -> None:
        """A run's result.

        Parameters
        ----------
        per_gene
            The table as `write_per_gene` has it.
        model
            Folder of the model, which is moved away, its tags, and its data set as `describe_dataset` has it.
        """
        entry = Finish(summary=dict(summary), per_gene=per_gene)
        if model:
            folder, tags, dataset = model
            try:
                self.files.keep_model(key, folder)
                entry = entry.model_copy(update={"model_tags": dict(tags), "dataset": dict(dataset)})
            except OSError as error:
                self.tag(key, "cgd.no_model", f"it could not be kept for the store: {error}")
        self.put(key, entry)

    def fail(self, key: str, message: str, detail: str) -> None:
        """Why a run has no result; a path in it that is no UTF-8 is shown as far as it is."""
        message, detail = (text.encode(errors="replace").decode() for text in (message, detail))
        self.put(key, Fail(message=message, detail=detail))

    def end(self, key: str, status: str) -> None:
        self.put(key, End(status=status))

    def is_safe(self, key: str) -> bool:
        """Whether all that was reported of a run is on the disk or in the store."""
        with self._changed:
            return key not in self.files.unsaved

    # ---- what an earlier command left -------------------------------------------------------------------------------

    def take_up(self) -> int:
        """Have delivered what an earlier command could not; returns of how many runs.

        Raises
        ------
        TrackingError
            It is for another store, or damaged.
        """
        left, own = self.files.read(), hide_password(self.tracking.uri)
        for key, (first, *_) in left.items():
            if not isinstance(first, Open):
                place = self.files.folder / f"{key}.jsonl"
                raise TrackingError(f"{place} does not begin with the start of its run", "move it away")
            if first.store not in (None, own):
                raise TrackingError(
                    f"{self.files.folder} holds what an earlier command could not deliver to {first.store}, and this "
                    f"one writes to {own}",
                    "give the earlier --tracking-uri once more, or move the folder away to give up what is in it",
                )
        with self._changed:
            for key, entries in left.items():
                if not isinstance(entries[-1], LAST):  # its driver was killed
                    entries.append(End(status=KILLED, at=entries[-1].at))
                self._waiting[key] = deque(entries)
            self._changed.notify_all()
        return len(left)

    # ---- the end of a command ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until the store has everything, as long as it takes some of it now and then.

        Raises
        ------
        UndeliveredError
            The store is away and took nothing for CGD_STORE_WAIT seconds, 60 if that is not set.
        TrackingError
            It refused something.
        """
        wait = read_patience()
        with self._changed:
            if self._away:
                self.say(f"waiting for the tracking store, {wait:g} s at most: {self._count_writes()} not delivered")
                self._failures = min(self._failures, 2)  # somebody waits now
            while not self._is_idle():
                before = self._n_delivered
                took_some = self._changed.wait_for(lambda seen=before: self._is_settled(seen), wait)  # type: ignore[misc]
                if not took_some and self._failures:  # else it is at a large one; what hangs, the client gives up
                    raise self._make_error(wait)
        self._check()

    def _is_settled(self, n_before: int) -> bool:
        return self._is_idle() or self._n_delivered > n_before

    def _is_idle(self) -> bool:
        return not self._waiting or self._error is not None

    def _make_error(self, wait: float) -> UndeliveredError:
        self.files.try_again()
        why = self._away or "the store does not answer"
        reason = (
            f"{self._count_writes()} could not be delivered: {why}. Tried for {wait:g} s. What was reported lies in "
            f"{self.files.folder}"
        )
        advice = "the same command delivers it and runs no finished trial again"
        if unsaved := self.files.unsaved:
            lost = f"{len(unsaved)} run(s) could not be kept there ({next(iter(unsaved.values()))})"
            advice += f". {lost}: the same command runs these again, from their checkpoints where there are any"
        return UndeliveredError(reason, advice)

    def _count_writes(self) -> str:
        return f"{sum(map(len, self._waiting.values()))} write(s) of {len(self._waiting)} run(s)"

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (key := self._next()) is not None:
                self._attempt(key)
        except BaseException as error:  # whatever it is, the command must hear of it and not wait forever
            self._stop_with(error)

    def _next(self) -> str | None:
        """The run to write to now; None when the command is over."""
        with self._changed:
            if self._failures:
                pause = _PAUSES[min(self._failures, len(_PAUSES)) - 1]
                self._changed.wait_for(lambda: self._stopping, pause)
            self._changed.wait_for(lambda: self._stopping or bool(self._waiting))
            return None if self._stopping else next(iter(self._waiting))

    def _attempt(self, key: str) -> None:
        entry = self._waiting[key][0]
        if key not in self._deliveries:
            self._deliveries[key] = Delivery(self.tracking, key, self.files.model(key))
        try:
            self._deliveries[key].apply(entry)
        except StoreAwayError as error:
            self._went_away(key, error)
        except TrackingError as error:
            with self._changed:  # from here on nothing is kept of it, so that no file begins in its middle
                place = self.files.refuse(key)
                self._error = TrackingError(
                    f"{error.reason} (refused; what was reported of this run is in {place})", error.advice
                )
            raise self._error from None
        else:
            self._drop_delivered(key, entry)

    def _went_away(self, key: str, error: StoreAwayError) -> None:
        with self._changed:
            is_news, self._away = not self._away, error.reason
            self._failures += 1
            self._waiting.move_to_end(key)  # it may be this one request that the store cannot take
            counts = self._count_writes()
            self._changed.notify_all()
        if is_news:
            where = f"the study goes on; {counts} wait(s) in {self.files.folder}"
            self.say(f"the tracking store is away: {self._away}; {where}")

    def _drop_delivered(self, key: str, entry: Entry) -> None:
        with self._changed:
            self._waiting[key].popleft()
            if not self._waiting[key]:
                del self._waiting[key]
                if isinstance(entry, LAST):
                    self.files.remove(key)
                    del self._deliveries[key]
            self._failures, self._n_delivered = 0, self._n_delivered + 1
            is_back = bool(self._away) and not self._waiting
            if is_back:
                self._away = ""
            self._changed.notify_all()
        if is_back:
            self.say("the tracking store is back and has everything")

    def _stop_with(self, error: BaseException) -> None:
        for delivery in self._deliveries.values():  # none of the runs may stay RUNNING
            with suppress(TrackingError):  # it may be the store that failed
                delivery.abandon()
        with self._changed:
            self._error = error
            self._changed.notify_all()

    @contextmanager
    def redirect_lines(self, say: Callable[[str], None]) -> Iterator[None]:
        """While a table is on the terminal, lines go through it."""
        before, self.say = self.say, say
        try:
            yield
        finally:
            self.say = before


def read_patience() -> float:
    """Seconds to wait for a store at the end of a command. Raises CGDError."""
    given = os.environ.get(_WAIT_VARIABLE, str(_WAIT_SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds < float("inf"):
        raise CGDError(f"{_WAIT_VARIABLE}={given!r} is no number of seconds; expected 1 or more, such as 60")
    return seconds
