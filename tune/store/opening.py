"""The tracking store of a command, opened for it alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tune.store.errors import StoreAwayError, UndeliveredError
from tune.store.lock import lock_folder
from tune.store.outbox import Outbox
from tune.store.reading import find_database
from tune.store.tracking import Tracking
from tune.terminal.logs import CommandLog


def name_own_store(output: Path) -> str:
    """Tracking URI of the store that belongs to an output folder."""
    return f"sqlite:///{output / 'mlflow.db'}"


def choose_store(given: str | None, output: Path) -> str:
    """The store a command writes to: the one given, else MLFLOW_TRACKING_URI, else that of the output folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or name_own_store(output)


@contextmanager
def open_store(uri: str, output: Path, log: CommandLog) -> Iterator[Tracking]:
    """Lock the output folder and, where it lies elsewhere, the folder of an SQLite database; open log and store.

    Raises
    ------
    OutputError, TrackingError
        Another command works there, or the folder or the store cannot be used.
    UndeliveredError
        The store did not take what an earlier command had left for it.
    """
    is_own, database = uri == name_own_store(output), find_database(uri)
    with lock_folder(output), lock_folder(database.parent) if database and not is_own else nullcontext():
        log.open(output)
        tracking = Tracking(uri, output / "artifacts")
        deliver_leftovers(tracking, output)
        if is_own:  # nobody else writes to it: what is still running there was killed
            tracking.mark_killed()
        yield tracking


def deliver_leftovers(tracking: Tracking, output: Path) -> None:
    """Give the store what an earlier command on this folder could not. Raises TrackingError."""
    with Outbox(tracking, output) as outbox:
        n_runs = outbox.take_up()
        outbox.settle()
    if n_runs:
        print(f"delivered what an earlier command had left for the tracking store: {n_runs} run(s)")


@contextmanager
def explain_absence() -> Iterator[None]:
    """For what is read from the store and written to it when all trials have run: losing it there loses no result.

    Raises
    ------
    UndeliveredError
        The store went away.
    """
    try:
        yield
    except StoreAwayError as error:
        raise UndeliveredError(
            f"the tracking store went away: {error.reason}. Everything ran and is in the store or in the outbox",
            "the same command writes the report",
        ) from None
