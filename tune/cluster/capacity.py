"""What a machine or a cluster has, and what it can grow to."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import yaml

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_mb(limits: tuple[str, ...] = _LIMITS) -> float:
    """Memory of the machine, or the container's limit where that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue  # not that kind of container, or 'max': no limit
    return min(sizes) / 1e6


def free_disk_mb(folder: Path) -> float:
    """Free space where `folder` is, or would be created."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free / 1e6


_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # where `ray up` leaves a head the description of its cluster
_NODE_GROUP = "ray.io/node-group"  # label of a node that an autoscaler has started


@dataclass(frozen=True)
class Node:
    """CPUs and GPUs of a node."""

    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{format_amount(self.cpus, 'CPU')} and {format_amount(self.gpus, 'GPU')}"


@dataclass(frozen=True)
class Capacity:
    """What trials can be placed on."""

    nodes: tuple[Node, ...]  # as they are now
    can_grow: bool = False  # whether an autoscaler adds nodes; False for one machine or a fixed cluster
    limit: Node | None = None  # CPUs and GPUs the cluster can grow to, where that is known
    types: tuple[tuple[int, Node], ...] = ()  # how many nodes of which size it can start; known where `limit` is

    @property
    def n_cpus(self) -> int:
        """CPUs there are now, at least 1."""
        return max(int(sum(node.cpus for node in self.nodes)), 1)

    def __str__(self) -> str:
        if len(self.nodes) == 1 and not self.can_grow:
            return f"there are {self.nodes[0]}"
        most = Node(max((n.cpus for n in self.nodes), default=0), max((n.gpus for n in self.nodes), default=0))
        total = Node(sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes))
        text = f"the cluster's {len(self.nodes)} nodes have {total}, one of them at most {most}"
        return f"{text}; it can grow to {self.limit}" if self.limit else text


def format_amount(amount: float, unit: str) -> str:
    """`1 CPU`, `0.5 CPUs`, `4 GPUs`."""
    return f"{amount:g} {unit}{'' if amount == 1 else 's'}"


def measure_machine() -> Capacity:
    """What a local Ray has: every CPU, and the GPUs this process may use."""
    return Capacity((Node(os.cpu_count() or 1, torch.cuda.device_count()),))


def measure_cluster() -> Capacity:
    """What the connected Ray has, and can grow to if Ray or the head's own `ray up` file tells."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = tuple(Node(n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0)) for n in alive)
    told = ray._private.state.state.get_max_resources_from_cluster_config()  # Ray has no public way to ask
    if told:
        groups = ray._private.state.state.get_cluster_config().node_group_configs
        return Capacity(nodes, True, Node(told.get("CPU", 0), told.get("GPU", 0)), _read_node_groups(groups))
    path = _BOOTSTRAP.expanduser()
    if path.is_file() and _is_head(alive):
        return _read_bootstrap(nodes, yaml.safe_load(path.read_text(encoding="utf-8")))
    return Capacity(nodes, any(_NODE_GROUP in node.get("Labels", {}) for node in alive))


def _is_head(alive: Sequence[dict[str, Any]]) -> bool:
    """Whether this process runs on the cluster's head node."""
    here = ray.get_runtime_context().get_node_id()
    return any(n["NodeID"] == here and "node:__internal_head__" in n["Resources"] for n in alive)


def _read_node_groups(groups: Iterable[Any]) -> tuple[tuple[int, Node], ...]:
    """Node groups as Ray's autoscaler reports them; a number below 0 says that there is no bound."""

    def number(value: int) -> int:
        return value if value >= 0 else sys.maxsize

    sizes = [(g.max_count, g.resources.get("CPU", 0), g.resources.get("GPU", 0)) for g in groups]
    return tuple((number(n), Node(number(cpus), number(gpus))) for n, cpus, gpus in sizes if n)


def _read_bootstrap(nodes: tuple[Node, ...], config: dict[str, Any]) -> Capacity:
    """Worker types of a cluster description; one that does not state its CPUs leaves the limit open."""
    types = config.get("available_node_types", {})
    workers = [kind for name, kind in types.items() if name != config.get("head_node_type")]
    found = [(int(kind.get("max_workers", 0)), kind.get("resources") or {}) for kind in workers]
    found = [(n, resources) for n, resources in found if n > 0]
    if not found or any("CPU" not in resources for _, resources in found):
        return Capacity(nodes, True)
    types = tuple((n, Node(float(r["CPU"]), float(r.get("GPU", 0)))) for n, r in found)
    limit = Node(sum(n * node.cpus for n, node in types), sum(n * node.gpus for n, node in types))
    return Capacity(nodes, True, limit, types)
