"""What a command is told about checkpoints: how much room they may take, and where else they are kept."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune.checkpoints.mirror import CheckpointMirror

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
CHECKPOINTS = "checkpoints"  # their folder in that of all output
DEFAULT_BUDGET = 20 * 10**9


@dataclass(frozen=True)
class CheckpointOptions:
    """Options of a command."""

    budget: int = DEFAULT_BUDGET  # bytes that the checkpoints below the output folder may take
    storage: str | None = None  # address of a store that all machines reach, where checkpoints are kept too

    def open_mirror(self, root: Path) -> CheckpointMirror | None:
        """The store beside `root`, the folder of all checkpoints; None where none was asked for."""
        if self.storage is None:
            return None
        from tune.checkpoints.mirror import CheckpointMirror  # imports torch, which --help does without

        return CheckpointMirror(self.storage, root)


DEFAULT_OPTIONS = CheckpointOptions()


def size(text: str) -> int:
    """Bytes of `20GB`, `500 MB` or `1.5TiB`, for argparse."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)", text.strip().lower())
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB, 20GB or 1.5TiB, got '{text}'")
    return round(float(found[1]) * _UNITS[found[2]])


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """How checkpoints are kept, and how what is left of them is removed."""
    add = parser.add_argument
    add(
        "--checkpoint-budget",
        metavar="SIZE",
        type=size,
        default=DEFAULT_BUDGET,
        help="what all checkpoints in --output may take, e.g. 500MB; the newest of a trial that is not finished stays "
        "whatever it takes (default: 20GB)",
    )
    add(
        "--checkpoint-storage",
        metavar="URI",
        help="keep checkpoints there too, for machines that share no --output: s3://BUCKET/PREFIX or file:///DIR",
    )


def add_clean_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clean",
        nargs="?",
        const="finished",
        choices=["finished", "all"],
        help="remove what finished trials and stopped commands left in --output, and stop; 'all' also removes "
        "checkpoints that this version of the code cannot continue. With --dry-run only say what would go",
    )


def read_checkpoint_options(arguments: argparse.Namespace) -> CheckpointOptions:
    return CheckpointOptions(arguments.checkpoint_budget, arguments.checkpoint_storage)


def check_checkpoint_options(arguments: argparse.Namespace) -> CheckpointOptions:
    """The options of a command that is about to run. Raises StorageError unless the store can be written to."""
    options = read_checkpoint_options(arguments)
    if mirror := options.open_mirror(arguments.output / CHECKPOINTS):
        mirror.check()
    return options
