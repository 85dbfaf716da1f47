"""A Ray for one command alone: it listens on loopback, and its files and its token are the user's own.

Left to itself Ray listens on every interface of the machine, keeps logs, sockets and shipped code in `/tmp/ray`, where
every user of the machine may write, and writes the token that guards it so that they may read it.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

from cgd.errors import CGDError

LOOPBACK = "127.0.0.1"


class ClusterError(CGDError):
    """The Ray cluster cannot be reached, or not in a safe way."""


@contextmanager
def listen_on_loopback() -> Iterator[None]:
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


@contextmanager
def keep_gloo_on_loopback() -> Iterator[None]:
    """What a Ray started inside runs has gloo listen on loopback, unless GLOO_SOCKET_IFNAME names another network.

    The variable is taken back: a command that joins a cluster would give it to nodes that have to reach each other.
    """
    name = "GLOO_SOCKET_IFNAME"
    if name in os.environ or "lo" not in {interface for _, interface in socket.if_nameindex()}:
        yield
        return
    os.environ[name] = "lo"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def make_session_folder() -> str:
    """The folder of Ray's sessions, below RAY_TMPDIR or the machine's own for temporary files.

    Ray opens it to everybody, so it lies in one that nobody else may enter. On macOS a user's own folder for temporary
    files is too deep for Ray's sockets, whose path may have 103 bytes there: it is `/tmp`, as for Ray itself.

    Raises
    ------
    ClusterError
        It cannot be made, or is not this user's alone.
    """
    base = os.environ.get("RAY_TMPDIR") or ("/tmp" if sys.platform == "darwin" else tempfile.gettempdir())
    folder = Path(base).resolve() / f"ray-{os.getuid()}"
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


def protect_token(make: bool) -> None:
    """See to it that nobody else can read `~/.ray/auth_token`; `make` it where there is none.

    Whoever names another place (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH) or mode (RAY_AUTH_MODE) looks after it.

    Raises
    ------
    ClusterError
        It can be read by others, and that cannot be changed, or it cannot be made.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token" or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        if make and not path.exists():
            _write_token(path)
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise ClusterError(
            f"the token of Ray in {path} must be yours alone: {error.strerror}; chmod 600 it, or name another with "
            "RAY_AUTH_TOKEN_PATH"
        ) from None


def _write_token(path: Path) -> None:
    """Whole or not at all, and not over that of a command which was started at the same time."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(generate_new_authentication_token())
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
