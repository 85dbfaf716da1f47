"""How much memory and disk this machine has, within the limits of its container."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
