"""Peak memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path


def reset_peak_memory() -> None:
    """Start the peak again, where the system allows it: a process may run several trials in turn."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak is then that of the process so far


def peak_memory_mb() -> float:
    """Largest resident memory since the last reset."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # not Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
