"""What is reported of a run, as entries of an outbox: plain values that a line of JSON holds."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tune.store.outbox_files import Entry, OutboxFiles

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
