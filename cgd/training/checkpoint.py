"""Checkpoints: tensors in safetensors, everything else in JSON, both checked by one hash. No pickle.

A checkpoint is a folder `epoch-NNNNN` written under a temporary name and renamed when whole, so that a kill leaves
either the folder or nothing. The newest whole one is resumed from. Beside it stay the one of the epoch that training
keeps (the best) and the one before it, in case that the newest is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cgd.errors import CheckpointError, DiskError
from cgd.files import explain_disk_errors, sync_folder

TENSORS, STATE = "tensors.safetensors", "state.json"
_LOST = "lost"  # in the state: what `CheckpointFolder.counts` returned
_HASH, _OLDER_HASH = "sha256", "tensors_sha256"  # the older one was over the tensors alone
# what `CheckpointFolder.counts` may say of a trial
LOST = {"damaged_checkpoints", "unsaved_checkpoints", "unmirrored_checkpoints"}


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged or could not be kept; training goes on."""


def write_folder(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `folder` whole or not at all; an older checkpoint of that name is replaced.

    Raises
    ------
    CheckpointError
        Something else than a checkpoint has that name: it is left alone.
    DiskError
        The disk is full or fails; nothing is left of the attempt.
    """
    folder = folder.resolve()
    if _is_something_else(folder):
        raise CheckpointError(f"{folder} exists and is not a saved model or checkpoint; choose another folder")
    data = save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    blank = json.dumps({_HASH: "", **state}).encode()
    content = blank.replace(b'""', f'"{_hash(data, blank)}"'.encode(), 1)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    with explain_disk_errors(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            _write_file(temporary / TENSORS, data)
            _write_file(temporary / STATE, content)
            sync_folder(temporary)
            _replace(folder, temporary)
        except BaseException:  # whatever stopped the write, half a folder must not fill the disk
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _is_something_else(folder: Path) -> bool:
    try:
        return not {path.name for path in folder.iterdir()} <= {TENSORS, STATE}
    except FileNotFoundError:  # nothing is there, or another process puts its own there just now
        return False
    except NotADirectoryError:
        return True


def _hash(data: bytes, state: bytes) -> str:
    """Over both files as they are on disk; in that of the state the place of the hash is blank."""
    digest = hashlib.sha256(data)
    digest.update(state)
    return digest.hexdigest()


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(folder: Path, new: Path) -> None:
    """Put `new` where `folder` may be; of several processes that do so at once the last one stays."""
    while True:
        older = folder.with_name(f"{new.name}.old")
        with suppress(FileNotFoundError):
            folder.rename(older)
        try:
            new.rename(folder)
            sync_folder(folder.parent)
        except OSError:
            shutil.rmtree(older, ignore_errors=True)
            if not folder.exists() or not new.exists():  # not that another process put its own there in between
                raise
            continue
        shutil.rmtree(older, ignore_errors=True)
        return


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_folder` wrote. Raises CheckpointError if it is missing, incomplete or damaged."""
    try:
        content, data = (folder / STATE).read_bytes(), (folder / TENSORS).read_bytes()
        state = json.loads(content)
        is_older = _OLDER_HASH in state
        expected = state.pop(_OLDER_HASH if is_older else _HASH)
        found = _hash(data, b"" if is_older else content.replace(expected.encode(), b"", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint ({STATE} and {TENSORS}): {error!r}") from None
    if found != expected:
        raise CheckpointError(f"{folder} is damaged: the hash of {TENSORS} and {STATE} is not the one stored")
    try:
        return load(data), state
    except SafetensorError as error:
        raise CheckpointError(f"{folder / TENSORS} is not a safetensors file: {error}") from None


def remove_folder(folder: Path) -> None:
    """Remove a checkpoint so that an interruption leaves no half of one under its name, or leave it as it is."""
    hidden = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
    with suppress(OSError):  # gone already, or on a disk that fails: no reason to stop a trial
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def epoch_folder(epoch: int) -> str:
    """Name of the folder of an epoch's checkpoint."""
    return f"epoch-{epoch:05d}"


def parse_epoch(name: str) -> int | None:
    """The epoch of which a folder of that name is the checkpoint; None for any other name."""
    found = re.fullmatch(r"epoch-(\d{5,})", name)
    return int(found[1]) if found else None


def choose_kept_epochs(epochs: Iterable[int], last: int, best: int | None) -> set[int]:
    """Which checkpoints the rule keeps: the last, the best, and the one before the last as a spare."""
    spare = max((epoch for epoch in epochs if epoch < last), default=last)
    return {epoch for epoch in epochs if epoch in (last, best, spare)}


class CheckpointFolder:
    """The checkpoints of one trial.

    Parameters
    ----------
    path
        Folder of the trial, named by its fingerprint.
    fingerprint
        Stored in each checkpoint; one that bears another fingerprint is refused.

    Attributes
    ----------
    damaged
        Checkpoints that `load_newest` passed over.
    unsaved
        Epochs whose checkpoint could not be written.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.damaged: list[str] = []
        self.unsaved: list[int] = []
        self._earlier: dict[str, float] = {}  # what was lost before this process took over

    def save(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write the checkpoint of an epoch and remove those that the rule no longer keeps.

        The best one is that of `state["kept_epoch"]`. Where the disk is full or fails, that is said once and
        noted in `unsaved`: the older ones stay, and losing a checkpoint must not lose the trial.
        """
        try:
            own = {"fingerprint": self.fingerprint, _LOST: self.counts()}
            write_folder(self.path / epoch_folder(epoch), tensors, {**state, **own})
        except DiskError as error:
            if not self.unsaved:
                self._warn(f"no checkpoint of epoch {epoch}, training goes on and the next epoch tries again: {error}")
            self.unsaved.append(epoch)
            return
        epochs = self.epochs()
        for old in set(epochs) - choose_kept_epochs(epochs, epoch, state.get("kept_epoch")):
            remove_folder(self.path / epoch_folder(old))

    def load_newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole checkpoint, or None. Damaged ones are passed over in favour of older ones, and named."""
        for epoch in reversed(self.epochs()):
            folder = self.path / epoch_folder(epoch)
            try:
                tensors, state = read_folder(folder)
            except CheckpointError as error:
                self._pass_over(folder.name, error)
                continue
            if state.pop("fingerprint", None) != self.fingerprint:
                raise CheckpointError(f"{folder} belongs to another trial than {self.fingerprint}; remove {self.path}")
            self._earlier = state.pop(_LOST, {})
            if self.damaged:
                self._warn(f"training continues from {folder}")
            return tensors, state
        if self.damaged:
            self._warn(f"no whole checkpoint in {self.path}: training starts from zero")
        return None

    def counts(self) -> dict[str, float]:
        """How many checkpoints of the trial were damaged or not saved, for its record; nothing where none was.

        Checkpoints carry it, so that a worker that takes over knows what was lost before.
        """
        total = {key: count + self._earlier.get(key, 0.0) for key, count in self._own_counts().items()}
        return {key: float(count) for key, count in total.items() if count}

    def _own_counts(self) -> dict[str, int]:
        """What this process lost."""
        return {"damaged_checkpoints": len(self.damaged), "unsaved_checkpoints": len(self.unsaved)}

    def clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def epochs(self) -> list[int]:
        """Epochs that have a checkpoint, whole or not; the newest last."""
        found = (parse_epoch(path.name) for path in self.path.glob("epoch-*"))
        return sorted(epoch for epoch in found if epoch is not None)

    def _pass_over(self, name: str, error: CheckpointError) -> None:
        if name in self.damaged:
            return
        self.damaged.append(name)
        self._warn(f"passed over a damaged checkpoint: {error}")

    def _warn(self, message: str) -> None:
        warnings.warn(message, CheckpointWarning, stacklevel=3)


OpenCheckpoints = Callable[[Path, str], CheckpointFolder]  # of a trial's folder and fingerprint


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer state as named tensors."""
    return {
        f"optimizer.{index}.{key}": value
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
