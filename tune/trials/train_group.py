"""A trial of several workers: a Ray Train group around the same computation that one worker runs in-process.

Train places the workers, makes their process group and notices their death. The rest is ours: what workers report and
return travels through a queue, so that nothing waits for Train's polling, and checkpoints lie in the trial's folder,
from which a group that is started again goes on. An error that a worker reports is the trial's outcome and is raised
here; a worker that dies without a word is lost, and the group is started again.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import ray
from ray.exceptions import RayError
from ray.util.queue import Empty, Queue

from cgd.errors import CGDError
from cgd.parallel import Parallel
from tune.cluster.environment import GROUP_DEFAULTS
from tune.cluster.resources import Request
from tune.trials.failure import RETRIES, Failure, WorkerError, describe, is_lost_peer

Report: TypeAlias = Callable[[Any], None]
Work: TypeAlias = Callable[[Report, Parallel], Any]
_WORKER, _REPORT, _RESULT, _ERROR = "worker", "report", "result", "error"
_POLL_SECONDS = 0.5  # how soon the end of a group is seen; messages arrive at once


class GroupDied(CGDError):
    """The workers of a trial died, or could not be started, more often than it is started again."""


@dataclass(frozen=True)
class Group:
    """How the workers of a trial are started."""

    name: str  # of the trial; what Train calls the group is unique beside it
    request: Request  # number of workers and what each takes
    device: str  # `cuda` for NCCL, `cpu` for gloo
    scratch: Path  # folder all nodes see, in which Train keeps a file of its own while the group runs

    def run(self, work: Work, report: Report) -> Any:
        """Call `work` in every worker; returns what it returns on rank 0.

        Parameters
        ----------
        work
            Called with a function that reports and with its place among the workers. It is sent to them, and so is
            what it is bound to.
        report
            Called here with what rank 0 reports, as it arrives, once: a group that is started again reports from
            the beginning.

        Raises
        ------
        WorkerError
            A worker raised.
        GroupDied
            Workers died, or did not start, again and again.
        """
        n_reported = n_lost = 0
        while n_lost <= RETRIES:
            attempt = _Attempt(self, work, n_reported)
            found = attempt.follow(report)
            if found is not None:
                return found[0]
            # a group that got further than ever before has all its restarts again
            n_lost = 1 if attempt.n_reports > n_reported else n_lost + 1
            n_reported = max(n_reported, attempt.n_reports)
        raise GroupDied(
            f"the {self.request.n_workers} workers of the trial died or did not start {n_lost} times without getting "
            f"further; the last time: {_find_last_line(attempt.error)}"
        )


class _Attempt:
    """One start of a group; the first `n_known` of its reports are those of an earlier one again."""

    def __init__(self, group: Group, work: Work, n_known: int) -> None:
        self.group, self.work, self.n_known = group, work, n_known
        self.n_reports = 0
        self.error: BaseException | None = None
        self.storage = group.scratch / f"train-{uuid4().hex[:12]}"
        self.workers: list[Any] = []
        self.mailbox = Queue(actor_options={"num_cpus": 0})

    def follow(self, report: Report) -> tuple[Any] | None:
        """Pass on what is reported; what rank 0 returned, or None if the group died. Raises WorkerError."""
        running = threading.Thread(target=self._fit, daemon=True)
        running.start()
        result: tuple[Any] | None = None
        failures: list[Failure] = []
        try:
            for kind, content in self._receive(running):
                if kind == _WORKER:
                    self.workers.append(content)
                elif kind == _REPORT:
                    self.n_reports += 1
                    if self.n_reports > self.n_known:
                        report(content)  # raises where Tune has stopped the trial
                elif kind == _RESULT:
                    result = (content,)
                else:
                    failures.append(content)
        finally:
            self._end(running)
        if result is None and failures:
            raise WorkerError(failures[0])
        return result

    def _fit(self) -> None:
        try:
            _make_trainer(self.group, self.work, self.mailbox, self.storage).fit()
        except Exception as error:  # of any kind: a worker's own came through the mailbox, anything else is a death
            self.error = error

    def _receive(self, running: threading.Thread) -> Iterator[tuple[str, Any]]:
        """Messages until the group has ended and all are read."""
        while True:
            over = not running.is_alive()
            try:
                yield self.mailbox.get(timeout=None if over else _POLL_SECONDS, block=not over)
            except Empty:
                if over:
                    return

    def _end(self, running: threading.Thread) -> None:
        """Leave nothing behind; a group that still runs is stopped by the death of its workers."""
        if running.is_alive():
            for worker in self.workers:
                ray.kill(worker)
        running.join()
        self.mailbox.shutdown(force=True)
        shutil.rmtree(self.storage, ignore_errors=True)


def _make_trainer(group: Group, work: Work, mailbox: Queue, storage: Path) -> Any:
    """The Train run: no checkpoints, no restarts of its own, and silent."""
    _prepare_environment()
    from ray.train.torch import TorchConfig

    # by their place: for type checkers those of ray.train are the classes of its first version
    from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    on_gpu = group.device == "cuda"
    return TorchTrainer(
        _run_worker,
        train_loop_config={"work": work, "mailbox": mailbox, "on_gpu": on_gpu},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=group.request.n_workers, use_gpu=on_gpu, resources_per_worker=group.request.worker
        ),
        run_config=RunConfig(
            name=f"{group.name}-{storage.name}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=2),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _prepare_environment() -> None:
    """Train's settings, in the Tune function's process: on another node the command's environment is not there."""
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    for key, value in GROUP_DEFAULTS.items():
        os.environ.setdefault(key, value)
    # Train's cleaner asks by the State API whether the controller lives, and else removes what the workers run in.
    # Where several Rays run on a machine it would ask the youngest of them, which knows no such controller.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")


def _run_worker(settings: dict[str, Any]) -> None:
    """What each worker runs, inside its process group."""
    mailbox: Queue = settings["mailbox"]
    mailbox.put((_WORKER, ray.get_runtime_context().current_actor))
    parallel = Parallel.from_process_group()
    try:
        if settings["on_gpu"]:  # `cuda` is the GPU that Train gave to this worker: those of one node see each other's
            import torch
            from ray.train.torch import get_device

            torch.cuda.set_device(get_device())
        value = settings["work"](lambda message: mailbox.put((_REPORT, message)), parallel)
        if parallel.is_main:
            mailbox.put((_RESULT, value))
    except Exception as error:
        if not is_lost_peer(error) and not isinstance(error, RayError):
            mailbox.put((_ERROR, describe(error)))
        raise  # Train then ends the others, which may be waiting for this one


def _find_last_line(error: BaseException | None) -> str:
    text = str(error).strip() if error else "it ended without a result"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
