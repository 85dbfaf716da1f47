"""Connecting to Ray: a private local instance unless a cluster is asked for."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from tune.environment import ROOT
from tune.log_files import is_verbose
from tune.private_ray import ClusterError, loopback_only, protect_token, session_folder

_MEND = "Give the address of a running cluster's head, or omit --address to run on this machine"


@contextmanager
def connected(address: str, n_cpus: int | None = None, groups: bool = False) -> Iterator[int]:
    """Connect, yield the number of CPUs, disconnect.

    Parameters
    ----------
    address
        `local` starts Ray on this machine for this command alone, whatever RAY_ADDRESS says; `auto` or HOST:PORT
        joins a running cluster, to which this checkout is shipped.
    n_cpus
        CPUs of a local instance; all of them when omitted.
    groups
        Whether trials of several workers will run: what Train leaves behind where one is stopped is found and freed
        through the dashboard, which a local instance then has, on loopback.

    Raises
    ------
    ClusterError
        No cluster at `address`, or Ray does not start here.
    """
    verbose = is_verbose()
    logs = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.WARNING}
    protect_token(make=address == "local")
    try:
        if address == "local":
            # trials of one worker need no dashboard; it would listen on a port for nothing
            own = {"include_dashboard": groups, "dashboard_host": "127.0.0.1", "_temp_dir": session_folder()}
            with loopback_only():
                ray.init(address="local", num_cpus=n_cpus or os.cpu_count(), **own, **logs)
        else:
            runtime_env = {"working_dir": str(ROOT), "excludes": [".git", ".venv", "outputs", "tests"]}
            ray.init(address=address, runtime_env=runtime_env, **logs)
    except ClusterError:
        raise
    except Exception as error:  # Ray raises a bare one where a busy machine does not start it in time
        if address == "local":
            raise ClusterError(
                f"Ray did not start on this machine: {error} Give the same command again with --resume once the "
                "machine is less busy; what is finished is kept"
            ) from None
        raise ClusterError(f"no Ray cluster at '{address}': {error}. {_MEND}") from None
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Raise ClusterError if nothing answers at `address`; Ray itself takes minutes to give up."""
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"--address {address}: expected local, auto or HOST:PORT. {_MEND}")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ClusterError(f"nothing answers at '{address}': {error}. {_MEND}") from None
