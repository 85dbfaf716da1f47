"""Checkpoints: tensors in safetensors, everything else in JSON, both checked by hash. No pickle.

A checkpoint is a folder `epoch-NNNNN` written under a temporary name and renamed when whole, so that a kill leaves
either the folder or nothing. The newest whole one is resumed from; the one before it is kept in case it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cgd.errors import CheckpointError

_TENSORS, _STATE = "tensors.safetensors", "state.json"


def write_folder(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `folder` whole or not at all; an older checkpoint of that name is replaced.

    Raises
    ------
    CheckpointError
        Something else than a checkpoint bears that name: it is left alone.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= {_TENSORS, _STATE}):
        raise CheckpointError(f"{folder} exists and is not a saved model or checkpoint; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir()
    data = save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    for name, content in ((_TENSORS, data), (_STATE, json.dumps({**state, "tensors_sha256": digest}).encode())):
        with (temporary / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _replace(folder, temporary)


def _replace(folder: Path, new: Path) -> None:
    """Put `new` where `folder` may be; of several processes that do so at once the last one stays."""
    while True:
        older = folder.with_name(f"{new.name}.old")
        with suppress(FileNotFoundError):
            folder.rename(older)
        try:
            new.rename(folder)
        except OSError:
            shutil.rmtree(older, ignore_errors=True)
            if not folder.exists():  # not that another process put its own there in between
                raise
            continue
        shutil.rmtree(older, ignore_errors=True)
        return


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_folder` wrote. Raises CheckpointError if it is missing, incomplete or damaged."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        data = (folder / _TENSORS).read_bytes()
        expected = state.pop("tensors_sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint ({_STATE} and {_TENSORS}): {error!r}") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise CheckpointError(f"{folder / _TENSORS} is damaged: its hash is not the one stored in {_STATE}")
    try:
        return load(data), state
    except SafetensorError as error:
        raise CheckpointError(f"{folder / _TENSORS} is not a safetensors file: {error}") from None


class CheckpointFolder:
    """The checkpoints of one trial.

    Parameters
    ----------
    path
        Folder of the trial, named by its fingerprint.
    fingerprint
        Stored in each checkpoint; one that bears another fingerprint is refused.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    def save(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        write_folder(self.path / f"epoch-{epoch:05d}", tensors, {**state, "fingerprint": self.fingerprint})
        for old in self._folders()[:-2]:
            shutil.rmtree(old)

    def load_newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole checkpoint, or None. Damaged ones are passed over in favour of older ones."""
        for folder in reversed(self._folders()):
            try:
                tensors, state = read_folder(folder)
            except CheckpointError:
                continue
            if state.pop("fingerprint", None) != self.fingerprint:
                raise CheckpointError(f"{folder} belongs to another trial than {self.fingerprint}; remove {self.path}")
            return tensors, state
        return None

    def clear(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.path.glob("epoch-*"))


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
