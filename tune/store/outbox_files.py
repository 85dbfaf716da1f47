"""The outbox on disk: a file per run, `KEY.jsonl`, with all that was reported of it until the store has it all."""

from __future__ import annotations

import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cgd.errors import TrackingError
from cgd.files import write_atomically

Entry = dict[str, Any]  # what is to be written, with `op` and `at`, the time in milliseconds
_END = ".jsonl"


class OutboxFiles:
    """The folder of an outbox.

    Parameters
    ----------
    folder
        Is made when the first entry is; runs that were delivered leave nothing.

    Attributes
    ----------
    unsaved
        Runs that are in memory alone, and why: a full disk above all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unsaved: dict[str, str] = {}
        self._whole: dict[str, list[Entry]] = {}  # all entries of each run that the store has not whole

    def keep(self, key: str, entry: Entry, durable: bool) -> None:
        """Take an entry of a run, on the disk if that is possible; else it is tried again with the next."""
        self._whole.setdefault(key, []).append(entry)
        if key in self.unsaved:
            self._save(key, lambda: self.rewrite(key, self._whole[key]))
        else:
            self._save(key, lambda: self.append(key, entry, durable))

    def try_again(self) -> None:
        """Put on the disk what it did not take, if it does now."""
        for key in list(self.unsaved):
            self._save(key, lambda key=key: self.rewrite(key, self._whole[key]))  # type: ignore[misc]

    def _save(self, key: str, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self.unsaved[key] = error.strerror or str(error)
        else:
            self.unsaved.pop(key, None)

    def append(self, key: str, entry: Entry, durable: bool) -> None:
        """Add an entry of a run; a durable one is on the disk, not merely on its way there, when this returns.

        Raises
        ------
        OSError
            The disk does not take it, or but a part of it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file(key).open("a", encoding="utf-8") as file:
            file.write(_line(entry))
            file.flush()
            if durable:
                os.fsync(file.fileno())

    def rewrite(self, key: str, entries: Iterable[Entry]) -> None:
        """Put down all entries of a run anew: appending one failed, and may have left half a line. Raises OSError."""
        write_atomically(self._file(key), "".join(map(_line, entries)))

    def read(self) -> dict[str, list[Entry]]:
        """What an earlier command left, by run; a last line that a kill cut off is removed.

        Raises
        ------
        TrackingError
            A file is not what `append` writes.
        """
        found = {}
        for path in sorted(self.folder.glob(f"*{_END}")):
            *lines, torn = path.read_text(encoding="utf-8").split("\n")
            if torn:
                write_atomically(path, "".join(f"{line}\n" for line in lines))
            if lines:
                found[path.name.removesuffix(_END)] = [_entry(line, path) for line in lines]
            else:
                path.unlink()
        return found

    def remove(self, key: str) -> None:
        """The store has all of a run."""
        self._whole.pop(key, None)
        self.unsaved.pop(key, None)
        self._file(key).unlink(missing_ok=True)
        shutil.rmtree(self.model(key), ignore_errors=True)

    def refuse(self, key: str) -> Path:
        """Set a run's file aside, for the store will never take it; returns where it is now."""
        place = self.folder / "refused" / f"{key}{_END}"
        place.parent.mkdir(parents=True, exist_ok=True)
        for path in (self._file(key), self.model(key)):
            if path.exists():
                shutil.rmtree(place.parent / self.model(key).name, ignore_errors=True)
                path.replace(place.parent / path.name)
        return place

    def model(self, key: str) -> Path:
        """Where the model of a run waits."""
        return self.folder / f"{key}-model"

    def keep_model(self, key: str, folder: Path) -> None:
        """Move a model here, in place of one that an attempt left which was killed before it was finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.model(key), ignore_errors=True)
        shutil.move(folder, self.model(key))

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{_END}"


def _line(entry: Entry) -> str:
    return json.dumps(entry) + "\n"


def _entry(line: str, path: Path) -> Entry:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise TrackingError(f"{path} is damaged ({error})", "move it away, and its trial is run again") from None
    if not isinstance(entry, dict) or not {"op", "at"} <= entry.keys():
        raise TrackingError(f"{path} holds a line that is no entry of an outbox", "move it away")
    return entry


OPEN, EPOCHS, TAG, FINISH, FAIL, END = "open", "epochs", "tag", "finish", "fail", "end"
LAST = {FINISH, FAIL, END}  # after one of these a run has no more entries
RUN_ID = "{RUN_ID}"  # stands for the run's id in a description, which is written before there is one


def opening(
    kind: str,
    name: str,
    tags: Mapping[str, str],
    note: str = "",
    params: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    datasets: Sequence[Mapping[str, str]] = (),
) -> Entry:
    """What a run begins with; `datasets` as `describe_dataset` has them."""
    flat = {path: str(value) for path, value in (params or {}).items()}
    about = {"note": note, "params": flat, "texts": dict(texts or {}), "datasets": list(datasets)}
    return {"op": OPEN, "kind": kind, "name": name, "tags": dict(tags), **about}


class Reporting(ABC):
    """Ways to report; `put` takes what they make of it."""

    files: OutboxFiles

    @abstractmethod
    def put(self, key: str, entry: Entry) -> None:
        """Take an entry of the run with the fingerprint `key`."""

    def epochs(self, key: str, epochs: list[Mapping[str, float]]) -> None:
        """Metrics of several epochs, at `time_ms` or now."""
        when = now()
        if epochs:
            self.put(key, {"op": EPOCHS, "at": when, "epochs": [{"time_ms": when, **epoch} for epoch in epochs]})

    def tag(self, key: str, tag: str, value: str) -> None:
        self.put(key, {"op": TAG, "tag": tag, "value": value})

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
            The table as `table_text` has it.
        model
            Folder of the model, which is moved away, its tags, and its data set as `describe_dataset` has it.
        """
        entry: Entry = {"op": FINISH, "summary": dict(summary), "per_gene": per_gene, "model_tags": None}
        if model:
            folder, tags, dataset = model
            if self._keep_model(key, folder):
                entry |= {"model_tags": dict(tags), "dataset": dict(dataset)}
        self.put(key, entry)

    def _keep_model(self, key: str, folder: Path) -> bool:
        try:
            self.files.keep_model(key, folder)
        except OSError as error:
            self.tag(key, "cgd.no_model", f"it could not be kept for the store: {error}")
            return False
        return True

    def fail(self, key: str, message: str, detail: str) -> None:
        self.put(key, {"op": FAIL, "message": message, "detail": detail})

    def end(self, key: str, status: str) -> None:
        self.put(key, {"op": END, "status": status})


def now() -> int:
    """The time in milliseconds, as MLflow has it."""
    return int(time.time() * 1000)
