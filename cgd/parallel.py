"""Several processes that train one model: what each takes of a batch, and what they tell each other.

Every process draws the same batch from the same streams and computes its share of it; the gradients of the shares add
up to that of the batch. So the number of processes changes no more than the order of sums does (except for dropout,
whose masks each draws for its share), a share may be larger than another, and nothing is lost or counted twice.
(DistributedDataParallel averages over processes instead, which is the gradient of the batch only where all shares weigh
the same.)

Whoever starts the processes also makes the process group; nothing here knows about Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Parallel:
    """This process among those that train a model.

    Attributes
    ----------
    rank
        0 to `size - 1`; rank 0 validates, reports and keeps the checkpoints.
    size
        Number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def from_process_group(cls) -> Parallel:
        """This process in torch's default process group (gloo or NCCL), which must be there."""
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of `n` items: parts are disjoint, hold all of them and differ by one at most."""
        return pieces(slice(0, n), self.size)[self.rank]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(summed.view_as(tensor))

    def add_up_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients over the processes; a parameter that no share of the batch used keeps none at all."""
        if self.size == 1:
            return
        listed = list(parameters)
        used = torch.tensor([float(p.grad is not None) for p in listed], device=listed[0].device)
        self.add_up([used])
        chosen = [p for p, count in zip(listed, used.tolist(), strict=True) if count]
        for p in chosen:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self.add_up([cast(Tensor, p.grad) for p in chosen])

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    def from_main(self, value: _Value) -> _Value:
        """The value rank 0 gives; those of the other processes are not looked at. (It is unpickled: whoever speaks on
        the process group is trusted like the trial itself.)"""
        if self.size == 1:
            return value
        held = [value if self.is_main else None]
        dist.broadcast_object_list(held, src=0)
        return cast(_Value, held[0])


ALONE = Parallel()


def pieces(part: slice, n: int) -> list[slice]:
    """`part` cut into `n` contiguous pieces whose lengths differ by one at most; some are empty if it is shorter."""
    length = part.stop - part.start
    bounds = [part.start + length * i // n for i in range(n + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
