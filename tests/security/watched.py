"""Running a command as a user does, with every process watched."""

import ast
import contextlib
import ipaddress
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TINY = """
data: {min_genes_per_spot: 1}
model: {width: 16, depth: 1, latent_dim: 8, hidden_dim: 16, n_heads: 2}
diffusion: {n_timesteps: 50}
sampling: {n_samples: 1, n_steps: 3, n_ensemble: 1}
train: {epochs: 1, steps_per_epoch: 1, batch_size: 4, panel_size: 16, pretrain_epochs: 1, patience: 10}
"""
STUDY = """
name: two_decays
question: Does the decay matter?
hypothesis: It does not.
factor: {path: ar.decay, name: AR decay}
levels: [{value: 0.8, label: "0.8"}, {value: 1.0, label: "1.0"}]
default: 0.8
"""
# of what the tests are run in, what a command may know: nothing that switches telemetry off, CI among it
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


def is_local(host):
    """Whether a name or an address is this machine's own, as seen from itself alone."""
    if host in (None, "", "localhost", socket.gethostname(), socket.getfqdn()):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@dataclass
class Watched:
    """What was seen of a command and its descendants.

    Attributes
    ----------
    notes
        (process id, event, where) of every Python process.
    sessions
        RAY_TMPDIR of the command.
    listening, remote
        (name of the process, address) of every process, native ones too: where it listens, whom it is connected to.
    """

    output: Path
    home: Path
    sessions: Path = None
    process: subprocess.CompletedProcess = None
    notes: list = field(default_factory=list)
    listening: set = field(default_factory=set)
    remote: set = field(default_factory=set)

    def places(self, without=None):
        """Hosts looked up, connected or sent to, or listened at; but for those of one process."""
        asked = [(pid, where) for pid, event, where in self.notes if event.startswith("socket.")]
        found = [where for pid, where in asked if pid != without]
        return {where[0] if isinstance(where, tuple) else where for where in found if not _is_path(where)}


def _is_path(where):
    """Of a Unix socket."""
    return isinstance(where, bytes) or (isinstance(where, str) and ("/" in where or where.startswith("\0")))


def user_environment(home, **more):
    """What a user's shell has set, with another home folder."""
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def watch(command, folder, umask=-1, **variables):
    """Run a command to its end, its home folder and its working folder in `folder`."""
    home, notes = folder / "home", folder / "notes"
    home.mkdir()
    seen = Watched(folder / "out", home)
    variables |= {"PYTHONPATH": str(Path(__file__).parent), "CGD_WATCH": str(notes)}
    with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
        env = user_environment(home, **variables)
        process = subprocess.Popen(command, cwd=home, env=env, stdout=out, stderr=err, umask=umask)
        try:
            _look_until_it_ends(process, seen)
        finally:
            if process.poll() is None:
                process.kill()
        texts = [(folder / name).read_text() for name in ("stdout", "stderr")]
    seen.process = subprocess.CompletedProcess(command, process.returncode, *texts)
    lines = notes.read_text().splitlines() if notes.exists() else []
    seen.notes = [(int(pid), event, ast.literal_eval(where)) for pid, event, where in (x.split("\t") for x in lines)]
    return seen


def _look_until_it_ends(process, seen):
    deadline = time.monotonic() + 400
    root = psutil.Process(process.pid)
    while process.poll() is None:
        assert time.monotonic() < deadline, "the command did not end"
        with contextlib.suppress(psutil.Error):
            for one in [root, *root.children(recursive=True)]:
                _look_at(one, seen)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)


def _look_at(process, seen):
    with contextlib.suppress(psutil.Error):
        name = process.name()
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN or not connection.raddr:
                seen.listening.add((name, connection.laddr.ip))
            else:
                seen.remote.add((name, connection.raddr.ip))
