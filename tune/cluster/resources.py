"""What a trial asks of Ray, how many trials fit at a time, and what can never run.

A trial of one worker runs inside its Tune function, which holds all it needs. One of several runs in a Ray Train
group: the Tune function then only waits, and the workers are placed all at once or not at all. What the function holds
is taken out of the workers' share, so that `n` workers of `c` CPUs take `n * c` CPUs in all; Train's controller and its
helpers ask for none. Because no more trials are started than fit, none waits for what another holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cgd.config import CAUSALGED, Config
from cgd.errors import CGDError, ConfigError
from tune.cluster.capacity import Capacity, Node, format_amount

DRIVER_CPUS = 0.01  # of the Tune function beside the workers of a group
_WORKER_PART = 0.9  # of its CPUs that a worker of a group asks for; the rest leaves room for ten drivers a worker
_MEND = (
    "Ask for fewer workers (--workers-per-trial, train.n_workers), fewer CPUs (--cpus-per-worker, runtime.n_threads) "
    "or fewer GPUs (--gpus-per-trial, runtime.device)"
)


class ResourceError(CGDError):
    """A trial asks for what no node, or not all of them together, can ever give."""


@dataclass(frozen=True)
class Request:
    """What one trial needs: `n_workers` workers of `cpus` CPUs and `gpus` GPUs each."""

    n_workers: int
    cpus: float
    gpus: float = 0.0

    @property
    def driver(self) -> dict[str, float]:
        """What the Tune function asks for."""
        if self.n_workers > 1:
            return {"CPU": DRIVER_CPUS}
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}

    @property
    def worker(self) -> dict[str, float]:
        """What a worker of a group asks for."""
        cpus = {"CPU": round(_WORKER_PART * self.cpus, 4)}
        return {**cpus, "GPU": self.gpus} if self.gpus else cpus

    def __str__(self) -> str:
        each = f"{format_amount(self.cpus, 'CPU')} and {format_amount(self.gpus, 'GPU')}"
        if self.n_workers == 1:
            return each
        total = Node(self.n_workers * self.cpus, self.n_workers * self.gpus)
        return f"{self.n_workers} workers of {each}, {total} in all"

    def fits_in(self, node: Node) -> int:
        """How many of its workers a node takes."""
        by_gpus = node.gpus / self.gpus if self.gpus else math.inf
        return math.floor(min(node.cpus / self.cpus, by_gpus) + 1e-9)


@dataclass(frozen=True)
class Share:
    """What the command gives to each trial; None leaves it to the trial's configuration.

    Raises
    ------
    ConfigError
        By `request`: the options do not go with the trial.
    """

    cpus_per_worker: float | None = None
    gpus_per_trial: float | None = None

    def request(self, config: Config) -> Request:
        """What a trial of this configuration asks for: by default `runtime.n_threads` CPUs, and on cuda a GPU, each."""
        n_workers = count_workers(config)
        return Request(n_workers, self.cpus_per_worker or config.runtime.n_threads, self._count_gpus(config, n_workers))

    def _count_gpus(self, config: Config, n_workers: int) -> float:
        """GPUs of each worker."""
        asked = self.gpus_per_trial
        if config.runtime.device == "cpu":
            if asked:
                raise ConfigError(f"--gpus-per-trial {asked:g} needs --set runtime.device=cuda; found cpu")
            return 0.0
        if asked is None:
            return 1.0
        if config.method != CAUSALGED:
            return min(asked, 1.0)
        if n_workers > 1 and asked != n_workers:
            raise ConfigError(
                f"--gpus-per-trial {asked:g}: each of the {n_workers} workers of a trial computes on a GPU of its own; "
                f"expected {n_workers}, or leave it out. Only a trial of one worker can take part of a GPU"
            )
        if n_workers == 1 and not 0 < asked <= 1:
            raise ConfigError(
                f"--gpus-per-trial {asked:g}: a worker computes on one GPU, or on part of one such as 0.25; for more, "
                "give --workers-per-trial as well"
            )
        return asked / n_workers


NO_SHARE = Share()


def are_alike(requests: Iterable[Request]) -> bool:
    """Whether the Tune functions of all trials hold the same."""
    return len({tuple(request.driver.items()) for request in requests}) <= 1


def count_workers(config: Config) -> int:
    """Workers of a trial; a baseline always has one."""
    return config.train.n_workers if config.method == CAUSALGED else 1


def has_groups(requests: Iterable[Request]) -> bool:
    """Whether any trial has several workers."""
    return any(request.n_workers > 1 for request in requests)


def count_concurrent(
    requests: Iterable[Request], capacity: Capacity, asked: int | None, say: Callable[[str], object] = print
) -> int | None:
    """How many trials may run at a time; None for as many as a cluster that can grow gets to hold.

    Parameters
    ----------
    requests
        Of all trials: the largest decides.
    asked
        --max-concurrent.
    say
        Is called with a message where it is not known what a cluster can grow to.

    Raises
    ------
    ResourceError
        A trial can never run.
    """
    distinct = sorted(set(requests), key=lambda r: (r.n_workers * r.cpus, r.gpus))
    fits = [_count_fitting(request, capacity) for request in distinct]
    if None in fits:
        return _bound_growing(distinct, capacity, asked, say)
    most = min(n for n in fits if n is not None)
    if capacity.can_grow and all(request.n_workers == 1 for request in distinct):
        return asked  # Tune itself waits for what is not there yet, and asks the autoscaler for it
    return min(asked or most, most)


def _count_fitting(request: Request, capacity: Capacity) -> int | None:
    """Trials with this request that fit at a time; None if nobody knows. Raises ResourceError where it is none."""
    n = sum(request.fits_in(node) for node in capacity.nodes) // request.n_workers
    if capacity.can_grow:
        if capacity.limit is None:
            return None
        # node by node: what is left over on one is of no use to a worker on another
        n_workers = sum(most * request.fits_in(node) for most, node in capacity.types)
        n = max(n, min(n_workers, request.fits_in(capacity.limit)) // request.n_workers)
    if not n:
        raise ResourceError(f"a trial asks for {request}, but {capacity}: it could never run. {_MEND}")
    return n


def _bound_growing(
    requests: list[Request], capacity: Capacity, asked: int | None, say: Callable[[str], object]
) -> int | None:
    now = min(sum(r.fits_in(node) for node in capacity.nodes) // r.n_workers for r in requests)
    if now == 0:
        say(
            f"a trial asks for {requests[-1]}; {capacity}, and does not say what it can grow to: trials wait until it "
            "has grown to that"
        )
    if asked or all(request.n_workers == 1 for request in requests):
        return asked
    return max(now, 1)
