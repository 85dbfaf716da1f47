"""Groups of two workers on a real Ray, in a process of its own; prints what came of each as a line of JSON.

Run as a script with a folder of its own. Its functions are sent to the workers by value, as a script's are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from tune.cluster.environment import prepare_environment

prepare_environment()

import ray
import torch
import torch.distributed as dist

from tune.cluster.connection import connect
from tune.cluster.resources import Request
from tune.trials import train_group
from tune.trials.failure import WorkerError, describe
from tune.trials.train_group import Group


def add_up(folder, report, parallel):
    """Report three times and return the sum of the ranks + 1; rank 0 does not go on until its report was seen."""
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


def work_for_ever(report, parallel):
    if parallel.is_main:
        report("first")
    dist.barrier()
    time.sleep(3600)


def stop(message):
    """What Tune's own report does where the trial has been stopped."""
    raise SystemExit(0)


def nothing_left(folder):
    """Whether every placement group is removed, every CPU free again, and no file of Train's there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        states = {entry["state"] for entry in ray.util.placement_group_table().values()}
        if states <= {"REMOVED"} and ray.available_resources().get("CPU") == 2:
            return not [path for path in folder.iterdir() if path.name.startswith("train-")]
        time.sleep(0.5)
    return False


def run(name, folder, work, report=None):
    """Run a group; its result, reports, error and number of starts."""
    seen, starts = [], []
    trainer = train_group._make_trainer

    def counted(*arguments):
        starts.append(1)
        return trainer(*arguments)

    def noted(message):
        seen.append(message)
        (folder / f"seen-{message}").touch()

    found = {"name": name}
    train_group._make_trainer = counted
    try:
        found["result"] = Group(name, Request(2, 1), "cpu", folder).run(work, report or noted)
    except WorkerError as error:
        failure = describe(error)
        found |= {"kind": failure.kind, "memory": failure.is_out_of_memory, "traceback": failure.traceback}
    except SystemExit:
        found["stopped"] = True
    finally:
        train_group._make_trainer = trainer
    print(json.dumps({**found, "seen": seen, "starts": len(starts), "nothing_left": nothing_left(folder)}), flush=True)


if __name__ == "__main__":
    own = Path(sys.argv[1])
    with connect("local", n_cpus=2, groups=True):
        run("sum", own, partial(add_up, own))
        run("error", own, fail_on_one)
        run("death", own, partial(die_once, own))
        run("stopped", own, work_for_ever, stop)
