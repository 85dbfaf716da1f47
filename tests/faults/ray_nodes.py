"""A Ray cluster of several nodes on this machine, in a process of its own so that its nodes can be taken away.

Run as a script it obeys one command a line (`add CPUS`, `remove NAME`) and answers each with a line of JSON; it ends,
and the cluster with it, when its input does. `Nodes` is the other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress

import psutil

_STORE_BYTES = 100 * 2**20


class Nodes:
    """A cluster whose head runs no trials, and worker nodes by name.

    Parameters
    ----------
    cpus
        CPUs of each worker node it begins with.
    dashboard
        Whether the head has the dashboard, which trials of several workers need.
    """

    def __init__(self, *cpus: int, dashboard: bool = False) -> None:
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ADDRESS", None)
        self._process = subprocess.Popen(
            [sys.executable, __file__, "dashboard" if dashboard else "plain"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.raylets: dict[str, int] = {}
        self.address = self._answer()["address"]
        for n in cpus:
            self.add(n)

    def add(self, cpus: int) -> str:
        """Add a worker node; its name."""
        node = self._ask(f"add {cpus}")
        self.raylets[node["name"]] = node["raylet"]
        return node["name"]

    def node_of(self, worker: psutil.Process) -> str:
        """Name of the node that a worker process belongs to."""
        above = {parent.pid for parent in worker.parents()}
        return next(name for name, raylet in self.raylets.items() if raylet in above)

    def lose(self, name: str) -> None:
        """Take a node away as a machine that is switched off goes: with all its processes, without a word."""
        raylet = psutil.Process(self.raylets.pop(name))
        below = raylet.children(recursive=True)
        self._ask(f"remove {name}")
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def close(self) -> None:
        """End the cluster."""
        below = psutil.Process(self._process.pid).children(recursive=True)
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=60)
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.kill()

    def _ask(self, line: str) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("the cluster ended")


def _main(dashboard: bool) -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": dashboard}
    cluster, nodes = Cluster(initialize_head=True, head_node_args=head), {}
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        command, argument = line.split()
        if command == "add":
            name = f"node{len(nodes)}"
            nodes[name] = cluster.add_node(num_cpus=int(argument), object_store_memory=_STORE_BYTES)
            raylet = nodes[name].all_processes["raylet"][0].process.pid
            print(json.dumps({"name": name, "raylet": raylet}), flush=True)
        else:
            cluster.remove_node(nodes[argument], allow_graceful=False)
            print(json.dumps({"removed": argument}), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _main(sys.argv[1] == "dashboard")
