"""A trial's workers: what they report and return, an error of theirs, and their death."""

import os
import time
from functools import partial

import pytest
import ray
import torch
import torch.distributed as dist

from tune import train_group
from tune.cluster import connected
from tune.failure import Failure, WorkerError, describe, is_lost_peer
from tune.resources import Request
from tune.train_group import Group, GroupDied


def group(folder):
    return Group("trial", Request(2, 1), "cpu", folder)


# ---- in the workers: sent to them by name, with this file as it is there --------------------------------------------


def add_up(folder, report, parallel):
    """Report three times and return the sum of the ranks + 1; rank 0 does not go on until it is told to."""
    total = torch.ones(1) * (parallel.rank + 1)
    dist.all_reduce(total)
    for epoch in range(3):
        if parallel.is_main:
            report(epoch)
            while not (folder / f"seen-{epoch}").exists():
                time.sleep(0.05)
    return total.item() if parallel.is_main else None


def fail_on_one(report, parallel):
    """Raise on rank 1 while rank 0 waits for it."""
    if parallel.rank == 1:
        raise torch.OutOfMemoryError("no memory on rank 1")
    dist.barrier()


def die_once(folder, report, parallel):
    """Lose a worker in the second epoch of the first attempt."""
    for epoch in range(3):
        if parallel.is_main:
            report(epoch)
        if epoch == 1 and parallel.rank == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), 9)
        dist.barrier()
    return "whole"


def stop(report, parallel):
    report("first")
    dist.barrier()
    time.sleep(3600)


# ---- here -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_cpus():
    import cloudpickle

    from tune.environment import prepare_environment

    before = dict(os.environ)
    prepare_environment()
    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["_"]))  # workers do not see the tests
    with connected("local", n_cpus=2, groups=True):
        yield
    os.environ.clear()
    os.environ.update(before)


def nothing_left(folder):
    """Every placement group removed, every CPU free again, and no file of Train's."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        states = {entry["state"] for entry in ray.util.placement_group_table().values()}
        if states <= {"REMOVED"} and ray.available_resources().get("CPU") == 2:
            return not [path for path in folder.iterdir() if path.name.startswith("train-")]
        time.sleep(0.5)
    return False


@pytest.mark.slow
def test_reports_arrive_while_the_workers_go_on_and_the_result_comes_back(two_cpus, tmp_path):
    seen = []

    def report(epoch):
        seen.append(epoch)
        (tmp_path / f"seen-{epoch}").touch()  # the worker waits for this before its next report

    assert group(tmp_path).run(partial(add_up, tmp_path), report) == 3.0
    assert seen == [0, 1, 2]
    assert nothing_left(tmp_path)


@pytest.mark.slow
def test_an_error_of_one_worker_ends_the_trial_at_once(two_cpus, tmp_path, monkeypatch):
    starts = []
    trainer = train_group._trainer
    monkeypatch.setattr(train_group, "_trainer", lambda *a: starts.append(1) or trainer(*a))
    with pytest.raises(WorkerError, match="no memory on rank 1") as caught:
        group(tmp_path).run(fail_on_one, print)
    assert len(starts) == 1
    assert describe(caught.value).kind == "OutOfMemoryError"
    assert describe(caught.value).is_out_of_memory
    assert "fail_on_one" in describe(caught.value).traceback
    assert nothing_left(tmp_path)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_nothing_is_reported_twice(two_cpus, tmp_path):
    seen = []
    assert group(tmp_path).run(partial(die_once, tmp_path), seen.append) == "whole"
    assert seen == [0, 1, 2]
    assert nothing_left(tmp_path)


@pytest.mark.slow
def test_a_trial_that_tune_stops_leaves_no_worker_behind(two_cpus, tmp_path):
    def report(message):
        raise SystemExit(0)  # what Tune's own report does then

    with pytest.raises(SystemExit):
        group(tmp_path).run(stop, report)
    assert nothing_left(tmp_path)


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


def test_a_group_that_gets_further_is_started_again_for_as_long_as_it_does(tmp_path, monkeypatch):
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
    ],
)
def test_the_death_of_another_worker_is_told_from_an_error(error, lost):
    assert is_lost_peer(error) == lost


def test_an_error_of_a_worker_keeps_its_kind_and_traceback():
    failure = Failure("TrainingDiverged", "diverged in epoch 3", "Traceback ...")
    assert describe(WorkerError(failure)) is failure
