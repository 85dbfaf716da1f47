"""`--clean`: remove what finished trials and killed commands left below an output folder.

What goes, and nothing else: checkpoints of trials that the store has as finished; folders half written when a process
was killed; kept predictions, unless a study was interrupted (its trials under the other protocol would be fitted
again); what Ray Tune wrote for itself, which is never read. `--clean all` also removes checkpoints that this version of
the code cannot continue: those of trials of other versions and of trials the store does not know. From a checkpoint
storage, which other commands may be using, only those of finished trials go.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cgd.errors import ConfigError
from cgd.files import readable_size
from cgd.kept_prediction import PREDICTIONS
from cgd.version import code_version
from tune.checkpoints.budget import measure_folder
from tune.checkpoints.options import CHECKPOINTS, read_checkpoint_options
from tune.commands.ending import EXIT_FAILED, EXIT_OK, Ending
from tune.store.errors import hide_password
from tune.store.lock import lock_folder
from tune.store.opening import choose_store
from tune.store.reading import FINISHED, KILLED, RUNNING, open_reader

TUNE_FOLDER = "ray_tune"
_HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{32}(\.old)?")  # how `cgd.training.checkpoint` names what is not whole yet

_FINISHED = "the store has the trial as finished"


@dataclass(frozen=True)
class Leftover:
    """A folder that may go, and why."""

    path: Path
    reason: str
    n_bytes: int


@dataclass(frozen=True)
class Known:
    """What the store says, runs that wait in the outbox included."""

    status: Mapping[str, str]  # of each run by its fingerprint
    code: Mapping[str, str]  # its code version, '' for none
    is_interrupted: bool  # whether a study stopped before its end


def read_store(uri: str, output: Path) -> Known | None:
    """What the store says of trials; None where there is no store yet. Raises TrackingError."""
    store = open_reader(uri)
    if store is None:
        return None
    status: dict[str, str] = {}
    code: dict[str, str] = {}
    interrupted = False
    for ended_as, tags in store.list_statuses():
        if key := tags.get("cgd.fingerprint"):
            status.setdefault(key, ended_as)
            code.setdefault(key, tags.get("cgd.code_version", ""))
        interrupted |= tags.get("cgd.kind") == "study" and ended_as in (KILLED, RUNNING)
    for file in (output / "outbox").glob("*.jsonl"):  # a run that the store will hear of is not unknown to it
        status.setdefault(file.stem, RUNNING)
        code.setdefault(file.stem, "")
    return Known(status, code, interrupted)


def find_leftovers(output: Path, known: Known | None, everything: bool) -> Iterator[Leftover]:
    """What may go from an output folder that no command is using; links are not followed."""
    for folder in _list_folders(output / CHECKPOINTS):
        reason = _find_reason(folder.name, known, everything)
        if reason:
            yield _measure_leftover(folder, reason)
        else:
            yield from (_measure_leftover(path, "half written") for path in _find_half_written(folder))
    for folder in _list_folders(output / TUNE_FOLDER):
        yield _measure_leftover(folder, "Ray Tune's own files, never read")


def _find_reason(name: str, known: Known | None, everything: bool) -> str | None:
    """Why a folder of checkpoints may go; None if it stays."""
    if _HALF_WRITTEN.fullmatch(name):
        return "half written"
    if known is None:
        return None
    if name == PREDICTIONS:
        return None if known.is_interrupted else "kept predictions; no study was interrupted"
    if known.status.get(name) == FINISHED:
        return _FINISHED
    if everything and name not in known.status:
        return "the store does not know the trial"
    if everything and known.code[name] not in ("", code_version("cgd.evaluation")):
        return f"a trial of code version {known.code[name]}"
    return None


def _list_folders(place: Path) -> list[Path]:
    if place.is_symlink() or not place.is_dir():
        return []
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())


def _find_half_written(folder: Path) -> Iterator[Path]:
    for path in _list_folders(folder):
        if _HALF_WRITTEN.fullmatch(path.name):
            yield path
        else:
            yield from _find_half_written(path)


def _measure_leftover(path: Path, reason: str) -> Leftover:
    return Leftover(path, reason, measure_folder(path))


def clean(arguments: argparse.Namespace) -> Ending:
    """Run `--clean`: print what goes, with sizes, and remove it unless it is a dry run.

    Raises
    ------
    OutputError, TrackingError
        Another command works in the folder, or the store cannot be read.
    ConfigError
        There is no such folder.
    """
    output: Path = arguments.output
    if not output.is_dir():
        raise ConfigError(f"--clean: there is no folder {output}; name the one to clean with --output")
    with lock_folder(output):
        uri = choose_store(arguments.tracking_uri, output)
        known = read_store(uri, output)
        if known is None:
            print(f"no store at {hide_password(uri)}: checkpoints of trials are left alone")
        found = list(find_leftovers(output, known, arguments.clean == "all"))
        for one in found:
            print(f"{readable_size(one.n_bytes):>10}  {one.path.relative_to(output)}  ({one.reason})")
        left = [] if arguments.dry_run else [one.path for one in found if not _remove(one.path)]
        _clean_storage(arguments, known)
    verb = "would remove" if arguments.dry_run else "removed"
    total = readable_size(sum(one.n_bytes for one in found if one.path not in left))
    n = len(found) - len(left)
    print(f"{verb} {n} folder{'' if n == 1 else 's'}, {total}" if found else "nothing to remove")
    return Ending(EXIT_FAILED if left else EXIT_OK, tuple(f"could not remove {path}" for path in left))


def _clean_storage(arguments: argparse.Namespace, known: Known | None) -> None:
    """Finished trials of what --checkpoint-storage holds, where one is given.

    Nothing else, whatever is asked for: commands on other output folders, other stores and other versions of the code
    may keep checkpoints of running trials there.
    """
    mirror = read_checkpoint_options(arguments).open_mirror(arguments.output / CHECKPOINTS)
    if mirror is None or known is None:
        return
    for name in mirror.list_trials():
        if known.status.get(name) == FINISHED:
            print(f"{'in storage':>10}  {name}  ({_FINISHED})")
            if not arguments.dry_run:
                mirror.remove(mirror.root / name)


def _remove(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
