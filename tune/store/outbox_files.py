"""The outbox on disk: a file per run, `KEY.jsonl`, with all that was reported of it until the store has it all."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ablations.findings.stored import explain
from cgd.errors import TrackingError
from cgd.files import write_atomically

_END = ".jsonl"
RUN_ID = "{RUN_ID}"  # stands for the run's id in a description, which is written before there is one


def read_clock() -> int:
    """The time in milliseconds, as MLflow has it."""
    return int(time.time() * 1000)


class _Entry(BaseModel):
    """Something that is to be written to a run; `at` is when it happened, in milliseconds."""

    model_config = ConfigDict(frozen=True)

    at: int = Field(default_factory=read_clock)

    def to_line(self) -> str:
        """One line of ASCII: where a kill cuts it, no character is cut."""
        return json.dumps(self.model_dump(exclude_none=True)) + "\n"


def _make_texts(params: Any) -> Any:
    return {path: str(value) for path, value in params.items()} if isinstance(params, dict) else params


class Open(_Entry):
    """What a run begins with; `datasets` as `describe_dataset` has them, `store` the one it was meant for."""

    op: Literal["open"] = "open"
    kind: str
    name: str
    tags: dict[str, str]
    note: str = ""
    params: Annotated[dict[str, str], BeforeValidator(_make_texts)] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    datasets: tuple[dict[str, str], ...] = ()
    store: str | None = None


class Epochs(_Entry):
    """Metrics of epochs, with `epoch` and `time_ms` among them."""

    op: Literal["epochs"] = "epochs"
    epochs: tuple[dict[str, float], ...]


class Tag(_Entry):
    """A tag that is learnt later than the run begins."""

    op: Literal["tag"] = "tag"
    tag: str
    value: str


class Finish(_Entry):
    """A run's result: final metrics, its table, and of a model that is kept its tags and its data set."""

    op: Literal["finish"] = "finish"
    summary: dict[str, float]
    per_gene: str
    model_tags: dict[str, str] | None = None
    dataset: dict[str, str] | None = None


class Fail(_Entry):
    """Why a run has no result."""

    op: Literal["fail"] = "fail"
    message: str
    detail: str


class End(_Entry):
    """A run that ends without a result, or stopped early."""

    op: Literal["end"] = "end"
    status: str


Entry = Open | Epochs | Tag | Finish | Fail | End
LAST = (Finish, Fail, End)  # after one of these a run has no more entries
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="op")])


def read_entry(line: str, path: Path) -> Entry:
    """What `to_line` wrote to a file. Raises TrackingError."""
    try:
        return _ENTRY.validate_json(line)
    except ValidationError as error:
        reason = f"{path} is damaged: a line of it {explain(error)}"
        raise TrackingError(reason, "move it away, and its trial is run again") from None


class OutboxFiles:
    """The folder of an outbox; made when the first entry is. Runs that were delivered leave nothing in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unsaved: dict[str, str] = {}  # runs that are in memory alone, and why: a full disk above all
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
            file.write(entry.to_line())
            file.flush()
            if durable:
                os.fsync(file.fileno())

    def rewrite(self, key: str, entries: Iterable[Entry]) -> None:
        """Put down all entries of a run again: appending one failed, and may have left half a line. Raises OSError."""
        write_atomically(self._file(key), "".join(entry.to_line() for entry in entries))

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
                found[path.name.removesuffix(_END)] = [read_entry(line, path) for line in lines]
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
