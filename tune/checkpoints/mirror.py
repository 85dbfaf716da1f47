"""Checkpoints kept in a store that all machines of a cluster reach, beside the folder of the machine a trial runs on.

A trial that Ray starts again on another machine finds no folder of its own there: it takes the newest whole checkpoint
from the store. Losing the store for a while loses no trial; it is tried again at the next epoch.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs
from torch import Tensor

from cgd.errors import CGDError, CheckpointError
from cgd.files import explain_disk_errors
from cgd.training.checkpoint import (
    STATE,
    TENSORS,
    CheckpointFolder,
    CheckpointWarning,
    choose_kept_epochs,
    epoch_folder,
    parse_epoch,
    read_folder,
    write_folder,
)

_ERRORS = (OSError, pa.ArrowException)  # what pyarrow raises of a store


class StorageError(CGDError):
    """The store of checkpoints cannot be reached, read or understood."""


@lru_cache
def _open_store(uri: str) -> tuple[fs.FileSystem, str]:
    return fs.FileSystem.from_uri(uri)


@dataclass(frozen=True)
class CheckpointMirror:
    """The store that an address names; it travels to Ray's workers as that address.

    Attributes
    ----------
    uri
        `s3://BUCKET/PREFIX`, with `?endpoint_override=HOST:PORT&scheme=http` for another service than Amazon's, or
        `file:///DIR` for a folder that all machines share. S3 takes its key from the environment.
    root
        Folder of checkpoints on each machine; a folder's place below it is its place in the store.
    """

    uri: str
    root: Path

    def check(self) -> None:
        """Raise StorageError unless one can write there."""
        if "@" in urlsplit(self.uri).netloc:
            raise StorageError(
                "--checkpoint-storage: the address holds a key, which would be kept with the results; put it into the "
                "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) instead"
            )
        with self._explain("write to"):
            files, base = _open_store(self.uri)
            files.create_dir(base, recursive=True)
            with files.open_output_stream(f"{base}/.written") as stream:
                stream.write(b"by causalged")
            files.delete_file(f"{base}/.written")

    def open(self, path: Path, fingerprint: str) -> MirroredFolder:
        """The checkpoints of one trial: what `cgd.evaluation.evaluate` takes as `open_checkpoints`."""
        return MirroredFolder(path, fingerprint, self)

    def put(self, folder: Path) -> None:
        """Copy what `write_folder` wrote. The file with the hash comes last: without it nothing is read there."""
        files, target = self._place(folder)
        files.create_dir(target, recursive=True)
        self._delete(files, f"{target}/{STATE}")
        for name in (TENSORS, STATE):
            with (folder / name).open("rb") as source, files.open_output_stream(f"{target}/{name}") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)

    def fetch(self, folder: Path) -> None:
        """Bring a folder here, if it is whole there.

        Raises
        ------
        CheckpointError
            It is missing there, not whole or damaged.
        StorageError
            The store does not answer.
        """
        files, source = self._place(folder)
        with TemporaryDirectory() as held, self._explain("read"), explain_disk_errors(Path(held)):
            copy = Path(held) / folder.name
            copy.mkdir()
            for name in (STATE, TENSORS):
                try:
                    with files.open_input_stream(f"{source}/{name}") as stream, (copy / name).open("wb") as target:
                        shutil.copyfileobj(stream, target, 1 << 20)
                except FileNotFoundError:
                    raise CheckpointError(f"{source} in {self.uri} is not whole: it has no {name}") from None
            found = read_folder(copy)
        write_folder(folder, *found)

    def list_trials(self) -> list[str]:
        """Names of the trials that have a place in the store. Raises StorageError."""
        with self._explain("read"):
            files, base = _open_store(self.uri)
            entries = files.get_file_info(fs.FileSelector(base, allow_not_found=True))
        return sorted(entry.base_name for entry in entries if entry.type == fs.FileType.Directory)

    def list_epochs(self, path: Path) -> list[int]:
        """Epochs of which a trial's place in the store has a checkpoint, whole or not. Raises StorageError."""
        with self._explain("read"):
            files, place = self._place(path)
            entries = files.get_file_info(fs.FileSelector(place, allow_not_found=True))
        found = (parse_epoch(entry.base_name) for entry in entries)
        return sorted(epoch for epoch in found if epoch is not None)

    def try_to_put(self, folder: Path) -> None:
        """As `put`, but a failure is only a warning."""
        try:
            self.put(folder)
        except (*_ERRORS, StorageError) as error:
            warnings.warn(f"{folder} did not reach {self.uri}: {error}", CheckpointWarning, stacklevel=2)

    def try_to_fetch(self, folder: Path) -> None:
        """As `fetch`, but a failure is only a warning; the caller checks whether the folder is there."""
        try:
            self.fetch(folder)
        except CGDError as error:
            warnings.warn(str(error), CheckpointWarning, stacklevel=2)

    def remove(self, folder: Path) -> None:
        """Remove a folder from the store. Raises StorageError."""
        with self._explain("clean"), suppress(FileNotFoundError):
            files, place = self._place(folder)
            self._delete(files, f"{place}/{STATE}")
            files.delete_dir(place)

    def forget(self, fingerprint: str) -> None:
        """Remove a trial from the store if it can be reached; what stays there only takes space."""
        with suppress(StorageError):
            self.remove(self.root / fingerprint)

    @staticmethod
    def _delete(files: fs.FileSystem, path: str) -> None:
        if files.get_file_info(path).type == fs.FileType.File:
            files.delete_file(path)

    def _place(self, path: Path) -> tuple[fs.FileSystem, str]:
        """Where a folder is in the store. Raises StorageError where the store is not there.

        `check` has made it: a shared folder that is not mounted on this machine must not be taken for an empty one.
        """
        with self._explain("reach"):
            files, base = _open_store(self.uri)
            if files.get_file_info(base).type != fs.FileType.Directory:
                raise FileNotFoundError("there is no such folder as seen from this machine")
        return files, f"{base}/{path.relative_to(self.root).as_posix()}"

    @contextmanager
    def _explain(self, doing: str) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise StorageError(
                f"cannot {doing} the checkpoint storage {self.uri}: {str(error).strip() or type(error).__name__}. Give "
                "--checkpoint-storage s3://BUCKET/PREFIX, with a key in the environment, or file:///DIR"
            ) from None


class MirroredFolder(CheckpointFolder):
    """The checkpoints of one trial, in its folder and in the store."""

    def __init__(self, path: Path, fingerprint: str, mirror: CheckpointMirror) -> None:
        super().__init__(path, fingerprint)
        self.mirror = mirror
        self.unmirrored: list[int] = []  # epochs whose checkpoint did not reach the store

    def save(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """As in the base; then the store gets it, and loses what the rule no longer keeps."""
        super().save(epoch, tensors, state)
        if epoch in self.unsaved:
            return
        try:
            self.mirror.put(self.path / epoch_folder(epoch))
            epochs = self.mirror.list_epochs(self.path)
            for old in set(epochs) - choose_kept_epochs(epochs, epoch, state.get("kept_epoch")):
                self.mirror.remove(self.path / epoch_folder(old))
        except (*_ERRORS, StorageError) as error:
            if not self.unmirrored:
                place = self.mirror.uri
                self._warn(f"epoch {epoch} did not reach {place}, training goes on and the next one tries: {error}")
            self.unmirrored.append(epoch)

    def load_newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole checkpoint of both places. Raises StorageError if the store does not answer.

        To go on without it could mean to begin again from zero, and to replace there what is further.
        """
        newest = self._find_newest_whole()
        for epoch in reversed(self.mirror.list_epochs(self.path)):
            if epoch <= newest or self._fetch(epoch):
                break
        return super().load_newest()

    def _own_counts(self) -> dict[str, int]:
        return {**super()._own_counts(), "unmirrored_checkpoints": len(self.unmirrored)}

    def _find_newest_whole(self) -> int:
        """The newest epoch of which this machine has a whole checkpoint; 0 for none."""
        for epoch in reversed(self.epochs()):
            try:
                read_folder(self.path / epoch_folder(epoch))
                return epoch
            except CheckpointError as error:
                self._pass_over(epoch_folder(epoch), error)
        return 0

    def _fetch(self, epoch: int) -> bool:
        try:
            self.mirror.fetch(self.path / epoch_folder(epoch))
        except CheckpointError as error:
            self._pass_over(f"{self.mirror.uri}/{epoch_folder(epoch)}", error)
            return False
        return True
