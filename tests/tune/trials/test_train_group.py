"""A trial's workers: what they report and return, an error of theirs, and their death."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tune.cluster.resources import Request
from tune.trials import train_group
from tune.trials.failure import Failure, WorkerError, describe, is_lost_peer
from tune.trials.train_group import Group, GroupDied

NCCL_OUT_OF_MEMORY = dist.DistBackendError(
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error. Last error: Cuda failure 2 'out of memory'"
)


def group(folder):
    return Group("trial", Request(2, 1), "cpu", folder)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of the groups of `groups_in_ray.py`, by name."""
    script, folder = Path(__file__).parents[1] / "groups_in_ray.py", tmp_path_factory.mktemp("groups")
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=900)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr
    return {outcome["name"]: outcome for outcome in found}


@pytest.mark.slow
def test_reports_arrive_during_the_work_and_the_result_after(outcomes):
    assert outcomes["sum"]["result"] == 3.0
    assert outcomes["sum"]["seen"] == [0, 1, 2]


@pytest.mark.slow
def test_an_error_of_one_worker_ends_the_trial_without_retry(outcomes):
    found = outcomes["error"]
    assert (found["kind"], found["memory"], found["starts"]) == ("OutOfMemoryError", True, 1)
    assert "fail_on_one" in found["traceback"]


@pytest.mark.slow
def test_a_dead_worker_is_replaced_and_nothing_reported_twice(outcomes):
    found = outcomes["death"]
    assert (found["result"], found["seen"], found["starts"]) == ("whole", [0, 1, 2], 2)


@pytest.mark.slow
def test_a_trial_that_is_stopped_early_ends_its_workers(outcomes):
    assert outcomes["stopped"]["stopped"]


@pytest.mark.slow
def test_no_group_leaves_a_placement_group_cpu_or_file_behind(outcomes):
    assert [outcome["nothing_left"] for outcome in outcomes.values()] == [True] * 4


class Stub:
    """Attempts that end as told: with a result, or dead after so many reports."""

    def __init__(self, ends):
        self.ends, self.known = list(ends), []

    def __call__(self, group, work, n_known):
        self.known.append(n_known)
        self.n_reports, self.result = self.ends.pop(0)
        self.error = RuntimeError("connection lost\n")
        return self

    def follow(self, report):
        return self.result


def test_a_group_that_gets_no_further_is_given_up(tmp_path, monkeypatch):
    stub = Stub([(2, None), (2, None), (2, None), (3, ("late",))])
    monkeypatch.setattr(train_group, "_Attempt", stub)
    with pytest.raises(GroupDied, match="died or did not start 3 times without getting further; the last time: conn"):
        group(tmp_path).run(lambda report, parallel: None, print)


def test_a_group_is_restarted_for_as_long_as_it_gets_further(tmp_path, monkeypatch):
    stub = Stub([(2, None), (4, None), (4, None), (5, None), (5, None), (9, ("whole",))])
    monkeypatch.setattr(train_group, "_Attempt", stub)
    assert group(tmp_path).run(lambda report, parallel: None, print) == "whole"
    assert stub.known == [0, 2, 4, 4, 5, 5]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4"), True),
        (dist.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (NCCL_OUT_OF_MEMORY, False),
    ],
)
def test_the_death_of_another_worker_is_told_from_an_error(error, lost):
    assert is_lost_peer(error) == lost


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (NCCL_OUT_OF_MEMORY, True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (dist.DistBackendError("NCCL communicator was aborted"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_gpu_memory_that_ran_out_is_known_to_whoever_asked(error, ran_out):
    assert describe(error).is_out_of_memory == ran_out


def test_an_error_of_a_worker_keeps_its_kind_and_traceback():
    failure = Failure("TrainingDiverged", "diverged in epoch 3", "Traceback ...")
    assert describe(WorkerError(failure)) is failure
