"""A Ray for one command alone: it listens on loopback, and its files are the user's own.

Left to itself Ray listens on every interface of the machine, and keeps logs, sockets and shipped code in `/tmp/ray`,
where every user of the machine may write.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants

from cgd.errors import CGDError

LOOPBACK = "127.0.0.1"


class ClusterError(CGDError):
    """The Ray cluster cannot be reached, or not in a safe way."""


@contextmanager
def loopback_only() -> Iterator[None]:
    """A Ray started inside has the address 127.0.0.1, and then all of it listens there and nowhere else.

    That is what Ray does by itself where it supports no clusters (macOS, Windows); RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER
    would do the same for the whole process, in which a command that joins a cluster could then not be reached.

    Raises
    ------
    ClusterError
        Ray started with another address: this version of it would have to be asked in another way.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    if ray.is_initialized() and (found := ray.util.get_node_ip_address()) != LOOPBACK:
        ray.shutdown()
        raise ClusterError(
            f"Ray {ray.__version__} listens on {found}, where other machines may reach it; expected {LOOPBACK}. "
            "Install the version that constraints.txt names"
        )


def session_folder() -> str:
    """The folder of Ray's sessions, below RAY_TMPDIR or the machine's own for temporary files.

    Ray opens it to everybody, so it lies in one that nobody else may enter.

    Raises
    ------
    ClusterError
        It cannot be made, or is not this user's alone.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).resolve() / f"ray-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()  # not what a link there leads to
    except OSError as error:
        raise ClusterError(f"cannot make {folder}: {error.strerror}; name another place with RAY_TMPDIR") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ClusterError(
            f"{folder} is not a folder of yours alone ({stat.filemode(found.st_mode)}, user {found.st_uid}); remove "
            "it, or name another place with RAY_TMPDIR"
        )
    return str(folder / "ray")
