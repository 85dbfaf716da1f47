"""Where a search is kept: a journal file beside the results, or a database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from cgd.errors import CGDError
from tune.store.errors import hide_password


class SearchError(CGDError):
    """A search cannot be stored, continued or started from another."""


@contextmanager
def readable_storage_errors(where: str) -> Iterator[None]:
    """Turn what a storage raises into a SearchError that names it."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SearchError(
            f"cannot use the search storage {hide_password(where)}: {hide_password(reason)}. Omit "
            "--storage for a journal file in --output, or give "
            "the URL of a database such as postgresql://USER@HOST/NAME, with its driver installed"
        ) from None
    except ValueError as error:  # what the journal raises for a line it cannot read
        raise SearchError(f"{hide_password(where)} is not a whole search journal: {error}") from None


def open_storage(journal: Path, url: str | None, output: Path) -> BaseStorage:
    """The journal file, or the database at `url`.

    Raises
    ------
    SearchError
        It cannot be opened, or it is an SQLite file that another command could write to at the same time.
    """
    if url is None:
        return open_journal(journal)
    _refuse_shared_sqlite(url, output)
    with readable_storage_errors(url):
        return RDBStorage(url, skip_compatibility_check=False)


def open_journal(path: Path) -> BaseStorage:
    """A journal file; a last line that a kill cut short is removed first, or whatever follows could not be read."""
    with readable_storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _drop_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path)))


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
            file.flush()
            os.fsync(file.fileno())


def _refuse_shared_sqlite(url: str, output: Path) -> None:
    """Only inside the output folder, which one command at a time may use, has an SQLite file one writer for certain."""
    if not url.startswith("sqlite"):
        return
    database = Path(url.partition(":///")[2].partition("?")[0])
    if not database.is_absolute() or not database.resolve().is_relative_to(output):
        raise SearchError(
            f"--storage {url}: SQLite locks the whole file for every write, and several writers (another command, a "
            "second machine) lose trials to 'database is locked'. A storage outside --output can have several. Omit "
            f"--storage for a journal file, give a PostgreSQL or MySQL URL, or put the file below {output} with "
            "an absolute path"
        )


def open_earlier(where: str) -> optuna.Study:
    """The study of an earlier search: a journal file or the URL of a database, with `#NAME` where it holds several.

    Raises
    ------
    SearchError
        There is none, or several and no name.
    """
    place, _, name = where.partition("#")
    if "://" not in place and not Path(place).is_file():
        raise SearchError(f"--warm-start {where}: no such file; give a configuration (.yaml), a journal or a URL")
    if place.startswith("sqlite:///") and not Path(place.removeprefix("sqlite:///")).is_file():
        raise SearchError(f"--warm-start {where}: no such file")  # opening it would create one
    with readable_storage_errors(place):
        storage = RDBStorage(place) if "://" in place else JournalStorage(JournalFileBackend(place))
        names = optuna.get_all_study_names(storage)
        if not name and len(names) != 1:
            shown = hide_password(place)
            raise SearchError(f"{shown} holds {len(names)} searches; name one: {shown}#{names[0] if names else 'NAME'}")
        if name and name not in names:
            raise SearchError(f"{hide_password(place)} holds no search '{name}'; it has: {', '.join(names) or 'none'}")
        return optuna.load_study(study_name=name or names[0], storage=storage)
