"""What a trial's process and its machine are doing, under the names MLflow's own monitor gives them.

Sampled in the trial, which does not import MLflow (that takes seconds), and written by the driver with the epochs.
"""

from __future__ import annotations

import time

import psutil
import torch

MEGABYTE = 1e6  # as MLflow counts


class SystemMonitor:
    """Samples at most once in `interval` seconds; the first sample is given whenever it is asked for."""

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self._last = float("-inf")
        self._process = psutil.Process()
        psutil.cpu_percent()  # both count from the call before
        self._process.cpu_percent()

    def sample(self) -> dict[str, float]:
        """`system/...` metrics; CPU use is the mean since the sample before. Empty where it is too soon."""
        now = time.monotonic()
        if now - self._last < self.interval:
            return {}
        self._last = now
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_megabytes": self._process.memory_info().rss / MEGABYTE,
        }
        return {f"system/{name}": round(value, 1) for name, value in (values | _measure_gpu_memory()).items()}


def _measure_gpu_memory() -> dict[str, float]:
    """Memory in use on the GPU this process computes on, numbered as it is seen here; none where it uses none."""
    if not torch.cuda.is_initialized():  # asking would set up a context of hundreds of megabytes
        return {}
    index = torch.cuda.current_device()  # a worker of a group sees the others' GPUs too: asking would use them
    free, total = torch.cuda.mem_get_info(index)
    return {
        f"gpu_{index}_memory_usage_megabytes": (total - free) / MEGABYTE,
        f"gpu_{index}_memory_usage_percentage": 100 * (total - free) / total,
    }
