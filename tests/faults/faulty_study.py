"""A real study as a process of its own, to be struck in mid-training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tune" / "run_ablation.py"
EPOCHS = 20
T = TypeVar("T")
PATIENCE_SECONDS = 400.0  # for anything to happen on a busy machine

# two trials of a few seconds, whose epochs are long enough to strike within
CONFIG = f"""
data: {{min_genes_per_spot: 1}}
model: {{width: 16, depth: 1, latent_dim: 8, hidden_dim: 16, n_heads: 2}}
diffusion: {{n_timesteps: 50}}
sampling: {{n_samples: 1, n_steps: 3, n_ensemble: 1}}
train: {{epochs: {EPOCHS}, patience: {EPOCHS}, steps_per_epoch: 24, batch_size: 8, panel_size: 16, pretrain_epochs: 2}}
"""
STUDY = """
name: faults
question: Does a study survive what happens to it?
hypothesis: It does.
factor: {path: ar.decay, name: decay}
levels: [{value: 0.8, label: "0.8"}, {value: 0.9, label: "0.9"}]
default: 0.8
"""


@dataclass(frozen=True)
class Saved:
    """The newest checkpoint of a trial: when it was written (ns), its epoch, its history (a dictionary per epoch)."""

    written: int
    folder: Path
    epoch: int
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Strike:
    """The newest checkpoint at a fault, the first one after it, and the seconds between the two."""

    before: Saved
    after: Saved
    seconds: float


class FaultyStudy:
    """A study of two trials, one at a time.

    Parameters
    ----------
    folder
        Gets the configuration, the output folder `out` and one log per attempt.
    arguments
        More of the command line.
    environment
        More of the environment.
    """

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.folder, self.output = folder, folder / "out"
        (folder / "tiny.yaml").write_text(CONFIG)
        (folder / "faults.yaml").write_text(STUDY)
        self.arguments = [
            *("--study", str(folder / "faults.yaml"), "--config", str(folder / "tiny.yaml")),
            *("--max-concurrent", "1", "--output", str(self.output), *arguments),
        ]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.n_attempts = 0

    # ---- the command ------------------------------------------------------------------------------------------------

    def start(self, *arguments: str) -> FaultyStudy:
        """Give the command, with more arguments; it runs in a process group of its own."""
        self.n_attempts += 1
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *self.arguments, *arguments],
                cwd=self.folder, env=self.environment, stdout=log, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        return self

    @property
    def log(self) -> Path:
        return self.folder / f"attempt-{self.n_attempts}.txt"

    @property
    def said(self) -> str:
        """What the command printed so far."""
        return self.log.read_text(errors="replace")

    def finish(self) -> int:
        """Wait for the end; the exit code."""
        assert self.process is not None
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def kill_driver(self) -> None:
        """SIGKILL the command, and wait until the trials it ran have followed it."""
        assert self.process is not None
        workers = trial_workers(self.process.pid)
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, f"{len(alive)} workers outlive the driver"

    def stop(self) -> None:
        """End whatever of it still runs."""
        if self.process is None or self.process.poll() is not None:
            return
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    # ---- its trials -------------------------------------------------------------------------------------------------

    def newest(self) -> Saved | None:
        """What the running trial wrote last; the checkpoints of finished trials are gone."""
        found = []
        for file in self.output.glob("checkpoints/*/epoch-*/state.json"):
            with suppress(OSError, ValueError):  # removed meanwhile by the retention rule, or damaged by a test
                state = json.loads(file.read_text())
                found.append(Saved(file.stat().st_mtime_ns, file.parent, state["epoch"], state["history"]))
        return max(found, key=lambda saved: saved.written, default=None)

    def wait_for_epoch(self, epoch: int) -> Saved:
        """The newest checkpoint once it is of that epoch or a later one."""

        def reached() -> Saved | None:
            saved = self.newest()
            return saved if saved and saved.epoch >= epoch else None

        return self.wait_for(reached)

    def strike(self, epoch: int, hit: Callable[[psutil.Process], Saved], *roots: int) -> Strike:
        """Strike the trial that runs, within the epoch after `epoch` or a later one, and wait for its next checkpoint.

        Parameters
        ----------
        epoch
            Epoch that must have been saved.
        hit
            Called with the worker; ends it and returns its newest checkpoint.
        roots
            Processes below which the worker is looked for; the command itself when omitted.
        """
        self.wait_for_epoch(epoch)
        worker = self.worker(*roots)
        began = time.monotonic()
        before = hit(worker)
        after = self.wait_for(lambda: self._newer_than(before))
        return Strike(before, after, time.monotonic() - began)

    def kill(self, worker: psutil.Process) -> Saved:
        """SIGKILL a worker; its newest checkpoint."""
        worker.kill()
        psutil.wait_procs([worker], timeout=60)
        return self.wait_for(self.newest)

    def _newer_than(self, before: Saved) -> Saved | None:
        saved = self.newest()
        return saved if saved and saved.written > before.written else None

    def worker(self, *roots: int) -> psutil.Process:
        """The process that trains, below the command or below the processes given."""
        assert self.process is not None
        starts = roots or (self.process.pid,)
        return self.wait_for(lambda: next((p for pid in starts for p in trial_workers(pid)), None))

    def wait_for(self, look: Callable[[], T | None]) -> T:
        """What `look` finds, once it finds something."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := look()):
            assert self.process.poll() is None, f"the command ended early:\n{self.said}"
            assert time.monotonic() < deadline, f"it took too long:\n{self.said}"
            time.sleep(0.02)
        return found


def trial_workers(root: int, title: str = "ray::ImplicitFunc") -> list[psutil.Process]:
    """Processes below `root` that run a trial."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
    return found
