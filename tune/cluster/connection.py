"""Connecting to Ray: a private local instance unless a cluster is asked for."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray

from tune.cluster.capacity import measure_cluster, measure_machine
from tune.cluster.environment import DEFAULTS, ROOT
from tune.cluster.private_ray import (
    ClusterError,
    keep_gloo_on_loopback,
    listen_on_loopback,
    make_session_folder,
    protect_token,
)
from tune.cluster.resources import Request, count_concurrent, has_groups
from tune.terminal.logs import is_verbose

_MEND = "Give the address of a running cluster's head, or omit --address to run on this machine"
_PACKAGES = ("ablations", "cgd", "tune")
_NETWORK = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # which of its networks a node trains over
_state = {"joined": False}
_checked: set[str] = set()  # nodes that were looked at and found good


@contextmanager
def connect(address: str, n_cpus: int | None = None, groups: bool = False) -> Iterator[int]:
    """Connect, yield the number of CPUs, disconnect.

    Parameters
    ----------
    address
        `local` starts Ray on this machine for this command alone, whatever RAY_ADDRESS says; `auto` or HOST:PORT
        joins a running cluster, to which the code of this checkout is shipped; where there is no checkout, because
        the package was installed, it has to be installed on every node, which `tune.trials.preflight` looks at.
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
    level = logging.INFO if is_verbose() else logging.WARNING
    start = partial(ray.init, address=address, log_to_driver=is_verbose(), logging_level=level)
    protect_token(make=address == "local")
    try:
        if address == "local":
            cpus, folder = n_cpus or os.cpu_count(), make_session_folder()
            # trials of one worker need no dashboard; it would listen on a port for nothing
            with listen_on_loopback(), keep_gloo_on_loopback():
                start(num_cpus=cpus, include_dashboard=groups, dashboard_host="127.0.0.1", _temp_dir=folder)
        else:
            start(runtime_env=make_runtime_env())
            _state["joined"] = True
    except ClusterError:
        raise
    except Exception as error:  # Ray raises a bare one where a busy machine does not start it in time
        ray.shutdown()  # it may be half connected
        raise (_explain_failed_start(error) if address == "local" else _explain_failed_join(address, error)) from None
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        _state["joined"] = False
        _checked.clear()
        ray.shutdown()


def is_joined() -> bool:
    """Whether this process is connected to a cluster that it did not start itself."""
    return _state["joined"]


def note_checked(node_ids: Iterable[str]) -> None:
    """Note that these nodes of the cluster can run our trials, until this process leaves it."""
    _checked.update(node_ids)


def list_checked() -> frozenset[str]:
    """Ids of the nodes that were noted; one that joined since is not among them."""
    return frozenset(_checked)


def make_runtime_env(root: Path = ROOT) -> dict[str, Any]:
    """What nodes get from the driver: its code, if `root` is a checkout, and the environment its libraries run in."""
    variables = {key: os.environ[key] for key in DEFAULTS if key in os.environ and not key.startswith("RAY_")}
    variables |= {key: os.environ[key] for key in _NETWORK if key in os.environ}
    if not (root / "pyproject.toml").is_file():
        return {"env_vars": variables}
    # the packages alone: data and results that lie in a checkout would be shipped with it
    packages = [str(root / name) for name in _PACKAGES]
    return {"py_modules": packages, "excludes": ["__pycache__"], "env_vars": variables}


def _explain_failed_start(error: Exception) -> ClusterError:
    if "AF_UNIX path length" in str(error):  # of its sockets, which lie in the folder of the session
        return ClusterError(f"Ray did not start on this machine: {error}. Set RAY_TMPDIR to a shorter folder")
    return ClusterError(
        f"Ray did not start on this machine: {error} Give the same command again with --resume once the machine is "
        "less busy; what is finished is kept"
    )


def _explain_failed_join(address: str, error: Exception) -> ClusterError:
    if "Version mismatch" in str(error):  # Ray's own check, before any of ours can run
        what = " ".join(str(error).split()).removeprefix("Version mismatch: ")
        return ClusterError(
            f"the cluster at '{address}' has another Ray or Python than this command: {what}. Give both the same "
            "(pip install -c constraints.txt, with the same Python)"
        )
    return ClusterError(f"no Ray cluster at '{address}': {error}. {_MEND}")


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


def check_here(requests: Sequence[Request], address: str, asked: int | None) -> int | None:
    """How many of these trials may run at a time here, `asked` on a cluster. Raises ResourceError if one never can."""
    return count_concurrent(requests, measure_machine(), asked) if address == "local" and requests else asked


@contextmanager
def connect_for(requests: Sequence[Request], address: str, asked: int | None) -> Iterator[int | None]:
    """Connect for these trials; yield how many of them may run at a time, None for as many as a growing cluster takes.

    Parameters
    ----------
    requests
        Of all trials; where there are none, the connection serves other work.
    address
        As for `connect`. Whether trials fit on this machine is known before Ray is started.
    asked
        --max-concurrent.

    Raises
    ------
    ResourceError
        A trial can never run there.
    ClusterError
        No Ray there.
    """
    limit = check_here(requests, address, asked)
    with connect(address, groups=has_groups(requests)):
        if requests and address != "local":
            limit = count_concurrent(requests, measure_cluster(), asked)
        yield limit
