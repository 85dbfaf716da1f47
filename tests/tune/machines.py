"""Several machines on one: a network, processes, host name and home folder of its own for each, and sshd on it.

All live below one process in namespaces of its own; when it ends, nothing of them is left. Takes root.

Run as a script, it says why they cannot be made here and ends with 1, or says nothing and ends with 0.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

NEEDED = ("sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "nsenter", "curl", "ps")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc")
_QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_SSHD_USER = "sshd:x:65532:65534::/run/sshd:/usr/sbin/nologin\n"
_BRIDGE = "10.77.0.254"
_FREE = "mount -t tmpfs tmpfs /run && mkdir -p /run/sshd /tmp/ray && mount -t tmpfs tmpfs /tmp/ray"


def missing() -> str:
    """Why machines cannot be made here; empty where they can."""
    absent = [name for name in NEEDED if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid() != 0:
        return "network namespaces take root"
    command = ["unshare", *_NAMESPACES, "ip", "link", "add", "br0", "type", "bridge"]
    tried = subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


class Machines:
    """A client and machines named in `names`, at 10.77.0.1 and so on.

    Attributes
    ----------
    homes
        Home folder of each by name, that of the client among them.
    key
        Private key with which the client reaches the others as root.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.key = folder, folder / "key"
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        self.homes = {name: folder / f"home-{name}" for name in ("client", *names)}
        for name, home in self.homes.items():
            home.mkdir()
            (folder / f"passwd-{name}").write_text(f"root:x:0:0:root:{home}:/bin/bash\n{_SSHD_USER}")
        for key in (self.key, folder / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        network = f"ip link set lo up && ip link add br0 type bridge && ip addr add {_BRIDGE}/24 dev br0"
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._outer = self._start([], f"{network} && ip link set br0 up && {_FREE}", "client", "exec sleep infinity")
        self._wait(lambda: self._succeeds("nsenter", "--target", self._pid, "--net", "ip", "addr", "show", "br0"))
        for name in names:
            self._add(name)

    @property
    def _pid(self) -> str:
        return _child_of(self._outer)

    def _start(self, prefix: Sequence[str], before: str, name: str, last: str) -> subprocess.Popen[bytes]:
        # ssh asks the user database, not HOME, where ~ is
        before = f"mount --bind {self.folder}/passwd-{name} /etc/passwd && {before}"
        script = f"{before} && echo {name} > /proc/sys/kernel/hostname && {last}"
        return subprocess.Popen(
            [*prefix, "unshare", *_NAMESPACES, "sh", "-c", script], env=self._environment(name), **_QUIET
        )

    def _environment(self, name: str) -> dict[str, str]:
        return {"PATH": _PATH, "HOME": str(self.homes[name]), "LANG": "C.UTF-8"}

    def _add(self, name: str) -> None:
        config = self.folder / f"sshd-{name}"
        config.write_text(
            f"ListenAddress {self.addresses[name]}:22\nHostKey {self.folder}/host_key\nPermitRootLogin yes\n"
            f"AuthorizedKeysFile {self.key}.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "PidFile none\n"
        )
        inside = ("nsenter", "--target", self._pid, "--mount", "--pid", "--net", "--uts")
        waiting = "until ip addr show eth0 2>/dev/null | grep -q 10.77; do sleep 0.1; done"
        node = self._start(inside, f"{_FREE} && {waiting}", name, f"exec $(command -v sshd) -D -e -f {config}")
        self._nodes.append(node)
        self._wait(lambda: _child_of(node) and self._has_network_of_its_own(_child_of(node)))
        pid, wire = _child_of(node), f"w-{name}"[:15]
        outside, within = ("nsenter", "--target", self._pid, "--net"), ("nsenter", "--target", pid, "--net")
        self._do(*outside, "ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._do(*outside, "ip", "link", "set", wire, "master", "br0", "up")
        self._do(*within, "ip", "link", "set", "lo", "up")
        self._do(*within, "ip", "link", "set", "eth0", "up")
        self._do(*within, "ip", "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        self._do(*within, "ip", "route", "add", "default", "via", _BRIDGE)  # without one Ray takes 127.0.0.1 for it
        self._wait(lambda: self.run(["ssh-keyscan", "-T", "2", self.addresses[name]]).stdout)

    def _has_network_of_its_own(self, pid: str) -> bool:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink(f"/proc/{self._pid}/ns/net")

    def run(
        self, command: Sequence[str], seconds: float = 300, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A command on the client, to its end."""
        into = ["nsenter", "--target", self._pid, "--mount", "--pid", "--net", "--uts", f"--wd={cwd or self.folder}"]
        environment = {**self._environment("client"), **variables}
        return subprocess.run(
            [*into, *map(str, command)], env=environment, capture_output=True, text=True, timeout=seconds
        )

    def processes(self, word: str) -> list[str]:
        """Command lines on the machines and the client that hold `word`."""
        lines = self.run(["ps", "-e", "-ww", "-o", "args="]).stdout.splitlines()
        return [line for line in lines if word in line and "ps -e" not in line]

    def close(self) -> None:
        """End them all: with the first process of the outermost namespace dies what is in it and in those below."""
        self._outer.kill()
        for process in (self._outer, *self._nodes):
            process.wait(60)

    def _do(self, *command: str) -> None:
        done = subprocess.run(command, env=self._environment("client"), capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def _succeeds(self, *command: str) -> bool:
        return subprocess.run(command, env=self._environment("client"), capture_output=True).returncode == 0

    def _wait(self, condition: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "a machine did not come up"
            time.sleep(0.1)


def _child_of(process: subprocess.Popen[bytes]) -> str:
    """The one process that `unshare --fork` started, which is the first in the new namespaces; empty before."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return found[0] if found else ""


if __name__ == "__main__":
    sys.exit(missing() or 0)
