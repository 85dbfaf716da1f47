"""A trial that runs out of GPU memory is run again with its batches in smaller pieces: the same numbers in less memory.

The same except for dropout (`model.dropout`), whose masks are drawn piece by piece.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from cgd.config import CAUSALGED, Config
from cgd.errors import CGDError
from tune.cluster.resources import Request, count_workers
from tune.trials.failure import Failure, describe

RETRIES_TAG, PIECES_TAG, SHARE_TAG = "cgd.out_of_memory_retries", "cgd.micro_batches", "cgd.out_of_memory"
_Value = TypeVar("_Value")


class OutOfGPUMemory(CGDError):
    """A trial needs more GPU memory than it has, however small the pieces of its batches."""


@dataclass(frozen=True)
class Memory:
    """How often a trial ran out of GPU memory and into how many pieces its batches were cut in the end."""

    n_retries: int
    micro_batches: int
    request: Request

    def tags(self) -> dict[str, str]:
        """For its run; none where memory sufficed."""
        if not self.n_retries:
            return {}
        return {RETRIES_TAG: str(self.n_retries), PIECES_TAG: str(self.micro_batches), SHARE_TAG: self.reason}

    @property
    def reason(self) -> str:
        """What ran out, for a person."""
        gpus = self.request.gpus
        if 0 < gpus < 1:
            return (
                f"it used more than its share of {gpus:g} of a GPU, which Ray does not hold it to: trials beside it "
                "may have run out for that reason. Give each more with --gpus-per-trial"
            )
        return "it used more memory than the GPU has"


def retry_with_less_memory(
    compute: Callable[[Config], _Value], config: Config, request: Request
) -> tuple[_Value, dict[str, str]]:
    """What `compute` returns, and the tags that say how its batches had to be cut.

    Parameters
    ----------
    compute
        Runs the trial; after running out of memory it is called again with `runtime.micro_batches` doubled, down to
        pieces of one sequence. What it keeps in checkpoints is not lost.

    Raises
    ------
    OutOfGPUMemory
        Pieces of one sequence were too large.
    """
    memory = Memory(0, config.runtime.micro_batches, request)
    while True:
        found, failure = _try(compute, config)
        if failure is None:
            assert found is not None
            return found[0], memory.tags()
        most = _count_most_pieces(config)
        if memory.micro_batches >= most:
            raise OutOfGPUMemory(f"out of GPU memory with batches in {memory.micro_batches} pieces, the most there can "
                                 f"be: {memory.reason}. {failure.message}")  # fmt: skip
        memory = Memory(memory.n_retries + 1, min(2 * memory.micro_batches, most), request)
        config = config.with_values({"runtime.micro_batches": memory.micro_batches})
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _try(compute: Callable[[Config], _Value], config: Config) -> tuple[tuple[_Value] | None, Failure | None]:
    """What was computed or how memory ran out; once this has returned, nothing holds the memory any more."""
    try:
        return (compute(config),), None
    except Exception as error:  # of any other kind: raised again
        failure = describe(error)
        if not failure.is_out_of_memory:
            raise
        return None, failure


def _count_most_pieces(config: Config) -> int:
    """Pieces of one sequence each; other methods have no batches that could be cut."""
    if config.method != CAUSALGED:
        return config.runtime.micro_batches
    return max(-(-config.train.batch_size // count_workers(config)), config.runtime.micro_batches)
