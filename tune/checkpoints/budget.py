"""A limit on what the checkpoints of an output folder take, held by the driver when a trial ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from cgd.errors import CheckpointError
from cgd.files import readable_size
from cgd.training.checkpoint import parse_epoch, read_folder, remove_folder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A checkpoint on disk; `trial` is the name of the folder below that of all checkpoints."""

    path: Path
    trial: str
    epoch: int
    n_bytes: int


def measure_folder(folder: Path) -> int:
    """Bytes of the files in a folder; links are not followed, and files that vanish meanwhile are not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


def find_checkpoints(root: Path) -> Iterator[Stored]:
    """Every checkpoint below `root`, which holds a folder per trial, or per candidate with trials in it."""
    for place, folders, _ in os.walk(root):
        path = Path(place)
        for name in [name for name in folders if parse_epoch(name) is not None]:
            folders.remove(name)
            epoch = parse_epoch(name)
            if path != root and epoch is not None and not (path / name).is_symlink():
                trial = path.relative_to(root).parts[0]
                yield Stored(path / name, trial, epoch, measure_folder(path / name))


class CheckpointBudget(ray_tune.Callback):
    """Removes checkpoints while all of them together are too large, whenever a trial ends: no epoch waits for it.

    Those of trials that have ended go first, then spares, then the best of a trial where it is not the last. The last
    whole one of a trial that has not ended never goes.

    Parameters
    ----------
    root
        Folder of all checkpoints.
    limit
        In bytes.
    has_ended
        Whether the trial of that folder is finished or has failed.
    """

    def __init__(self, root: Path, limit: int, has_ended: Callable[[str], bool]) -> None:
        self.root, self.limit, self.has_ended = root, limit, has_ended
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a snapshot that is never read

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.enforce()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.enforce()

    def enforce(self) -> list[Stored]:
        """Remove what has to go; returns it."""
        found = list(find_checkpoints(self.root))
        total = sum(one.n_bytes for one in found)
        removed: list[Stored] = []
        for one in self._sort_removable(found) if total > self.limit else ():
            remove_folder(one.path)
            removed.append(one)
            total -= one.n_bytes
            _log.info("removed %s (%s): over the checkpoint budget", one.path, readable_size(one.n_bytes))
            if total <= self.limit:
                break
        if total > self.limit and not self._warned:
            self._warned = True
            _log.warning(
                "checkpoints take %s, more than the budget of %s: what is left are the newest ones of unfinished "
                "trials, which are needed to continue them; give a larger --checkpoint-budget",
                readable_size(total),
                readable_size(self.limit),
            )
        return removed

    def _sort_removable(self, found: Iterable[Stored]) -> list[Stored]:
        """What may go, what is needed least first."""
        ranked: list[tuple[int, Stored]] = []
        by_folder: dict[Path, list[Stored]] = {}
        for one in found:
            if self.has_ended(one.trial):
                ranked.append((0, one))
            else:
                by_folder.setdefault(one.path.parent, []).append(one)
        for checkpoints in by_folder.values():
            ranked += [(1 + is_best, one) for one, is_best in _find_dispensable(checkpoints)]
        return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


def _find_dispensable(checkpoints: list[Stored]) -> Iterator[tuple[Stored, bool]]:
    """Those of one unfinished trial other than its last whole one, and whether each is the best."""
    newest_first = sorted(checkpoints, key=lambda one: -one.epoch)
    for last in newest_first:
        try:
            _, state = read_folder(last.path)
        except CheckpointError:
            continue
        yield from ((one, one.epoch == state.get("kept_epoch")) for one in newest_first if one is not last)
        return
