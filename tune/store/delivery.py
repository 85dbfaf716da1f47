"""From the entries of an outbox to the runs of the store: each may be delivered twice and is there once.

Where commands on several output folders share a server, the one that opened a run writes to it (`cgd.driver`). The
others compute the same trial and keep what they have, until theirs is done: then the run is finished, and theirs is
left out, or it is not, and they take it over. A run found finished is written to no more. MLflow has no lock: where two
commands finish one trial within the same request, after both have found it open, both write their final metrics, which
are those of the same trial; the run then has two points of each and shows the later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tune.store.errors import TooLargeError
from tune.store.outbox_files import RUN_ID, End, Entry, Epochs, Fail, Finish, Open, Tag
from tune.store.reading import KILLED, RUNNING, RunRecord
from tune.store.tracking import Tracking


class Delivery:
    """Writes the entries of the run with fingerprint `key`, in their order; `model` is the folder of its model."""

    def __init__(self, tracking: Tracking, key: str, model: Path) -> None:
        self.tracking, self.key, self.model = tracking, key, model
        self._run_id: str | None = None
        self._is_over = False  # the store has a whole run already
        self._last_epoch = 0
        self._opening: Open | None = None
        self._held: list[Entry] = []  # while another command writes to the run

    def apply(self, entry: Entry) -> None:
        """Write an entry. Raises TrackingError; the same entry may then come again."""
        if isinstance(entry, Open):
            self._opening, self._run_id, self._is_over = entry, None, False
        found = self.tracking.find(self.key) if isinstance(entry, Open) or self.tracking.is_shared else None
        self._is_over |= found is not None and found.is_whole
        if self._is_over:
            return
        if found and self._is_of_another(found) and not isinstance(entry, Finish | Fail):
            if not isinstance(entry, End):  # this one was stopped; the other goes on
                self._held.append(entry)
            return
        self._write_all(found, entry)

    def abandon(self) -> None:
        """End the run, as nothing more of it will be written now. Raises TrackingError."""
        found = self.tracking.find(self.key)
        if found and found.status == RUNNING and not self._is_of_another(found):
            self.tracking.end(found.run_id, KILLED)

    def _is_of_another(self, found: RunRecord) -> bool:
        shared = self.tracking.is_shared and found.driver not in (None, self.tracking.driver)
        return shared and found.status == RUNNING

    def _write_all(self, found: RunRecord | None, entry: Entry) -> None:
        is_own = found is None or not self.tracking.is_shared or found.driver == self.tracking.driver
        if self._run_id is None or not is_own:
            self._open(found)
        for earlier in [*self._held, entry]:
            self._write(earlier)
        self._held = []

    def _open(self, found: RunRecord | None) -> None:
        about, tracking = self._opening, self.tracking
        assert about is not None  # a run's first entry
        run_id = tracking.open_run(
            about.kind, self.key, about.name, about.tags, found.run_id if found else None, about.at
        )
        if about.note:
            tracking.describe(run_id, about.note.replace(RUN_ID, run_id))
        self._last_epoch = tracking.read_last_epoch(run_id) if found else 0
        if not self._last_epoch:  # a kill may have come before these
            tracking.log_params(run_id, about.params)
            tracking.log_texts(run_id, about.texts)
            for dataset in about.datasets:
                tracking.log_dataset(run_id, dataset)
        self._run_id = run_id

    def _write(self, entry: Entry) -> None:
        run_id = str(self._run_id)
        match entry:
            case Epochs():
                self._add_epochs(run_id, entry.epochs)
            case Tag():
                self.tracking.set_tag(run_id, entry.tag, entry.value)
            case Finish():
                self._finish(run_id, entry)
            case Fail():
                self.tracking.fail(run_id, entry.message, entry.detail, entry.at)
            case End():
                self.tracking.end(run_id, entry.status, entry.at)

    def _add_epochs(self, run_id: str, epochs: Sequence[Mapping[str, float]]) -> None:
        """Those that the run has not: a resumed trial reports its earlier epochs again."""
        new = [epoch for epoch in epochs if epoch["epoch"] > self._last_epoch]
        self.tracking.log_epochs(run_id, new)
        self._last_epoch = max([self._last_epoch, *(int(epoch["epoch"]) for epoch in new)])

    def _finish(self, run_id: str, entry: Finish) -> None:
        link: dict[str, str] = {}
        if entry.model_tags is not None and entry.dataset is not None:
            link = self._attach_model(run_id, entry.model_tags, entry.dataset)
        found = self.tracking.find(self.key) if self.tracking.is_shared else None
        if found and found.is_whole:
            return  # another command's while this one's model was on its way
        self.tracking.finish(run_id, entry.summary, entry.per_gene, link, entry.at)

    def _attach_model(self, run_id: str, tags: Mapping[str, str], dataset: Mapping[str, str]) -> dict[str, str]:
        if not self.model.is_dir():
            self.tracking.set_tag(run_id, "cgd.no_model", f"{self.model} was gone when it was to be attached")
            return {}
        named = {key: value.replace(RUN_ID, run_id) for key, value in tags.items()}
        try:
            model_id = self.tracking.log_model(run_id, self.model, named)
        except TooLargeError as error:  # the result is worth more than its model
            self.tracking.set_tag(run_id, "cgd.no_model", error.reason)
            return {}
        return {"model_id": model_id, "dataset_name": dataset["name"], "dataset_digest": dataset["digest"]}
