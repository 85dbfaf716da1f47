"""Connecting to Ray for trials that are known to fit there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tune.cluster.capacity import of_cluster, of_this_machine
from tune.cluster.connection import connected
from tune.cluster.resources import Request, has_groups, n_concurrent


def check_here(requests: Sequence[Request], address: str, asked: int | None) -> None:
    """Raise ResourceError if a trial could never run on this machine; a cluster is asked once it is joined."""
    if address == "local" and requests:
        n_concurrent(requests, of_this_machine(), asked)


@contextmanager
def placed(requests: Sequence[Request], address: str, asked: int | None) -> Iterator[int | None]:
    """Connect for these trials; yield how many of them may run at a time, None for as many as a growing cluster takes.

    Parameters
    ----------
    requests
        Of all trials; where there are none, the connection serves other work.
    address
        As for `connected`. Whether trials fit on this machine is known before Ray is started.
    asked
        --max-concurrent.

    Raises
    ------
    ResourceError
        A trial can never run there.
    ClusterError
        No Ray there.
    """
    local = address == "local"
    limit = n_concurrent(requests, of_this_machine(), asked) if local and requests else asked
    with connected(address, groups=has_groups(requests)):
        if requests and not local:
            limit = n_concurrent(requests, of_cluster(), asked)
        yield limit
