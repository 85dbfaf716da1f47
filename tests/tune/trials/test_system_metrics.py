"""System metrics of a trial: MLflow's names, this process's memory, and not more often than asked."""

import numpy as np
import psutil
import pytest
import torch

from tune.trials.system_metrics import SystemMonitor


def test_names_are_those_of_mlflow_and_values_of_this_process():
    found = SystemMonitor().sample()
    assert {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/process_memory_megabytes",
    } <= found.keys()
    assert found["system/process_memory_megabytes"] == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.05)
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert any("gpu" in name for name in found) == torch.cuda.is_initialized()


def test_a_sample_too_soon_is_empty_and_the_next_sees_changes():
    monitor = SystemMonitor(interval=0.2)
    first = monitor.sample()
    assert first
    assert monitor.sample() == {}
    block = np.ones(40_000_000)  # 320 MB
    while not (second := monitor.sample()):
        block += 1
    assert second["system/process_memory_megabytes"] > first["system/process_memory_megabytes"] + 250
    assert second["system/process_cpu_utilization_percentage"] > 5  # the waiting above keeps a core busy


def test_gpu_memory_is_that_of_the_gpu_in_use_alone(monkeypatch):
    asked = []

    def mem_get_info(index):
        asked.append(index)
        return 3_000_000_000, 4_000_000_000

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    found = SystemMonitor().sample()
    assert asked == [2]
    assert found["system/gpu_2_memory_usage_megabytes"] == 1000
    assert found["system/gpu_2_memory_usage_percentage"] == 25
    assert sum("gpu" in name for name in found) == 2
