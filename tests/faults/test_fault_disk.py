"""The disk is full while a trial saves its checkpoints."""

import resource
import subprocess
from contextlib import contextmanager

import pytest
from mlflow_store import Store

pytestmark = pytest.mark.slow
_FULL = 4096  # bytes: less than any checkpoint has


@contextmanager
def small_disk(folder):
    """A file system of a few MB at `folder`; yields False where this machine does not allow one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    is_there = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield is_there
    finally:
        if is_there:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder, worker, is_small):
    """Fill the small disk to the last byte; elsewhere no file of the worker may grow."""
    filler = folder / "filler"
    if is_small:
        with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * _FULL)
    else:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (_FULL, resource.RLIM_INFINITY))
    yield
    if is_small:
        filler.unlink()
    else:
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_full_disk_while_checkpoints_are_written(study, reference, outcome):
    running = study()
    with small_disk(running.output / "checkpoints") as is_small:
        how = "a small file system filled to the last byte" if is_small else "the worker's limit on file sizes lowered"
        row = outcome("disk full under the checkpoints", f"{how} for some epochs, then the worker killed")
        running.start()
        saved = running.wait_for_epoch(3)
        with full(running.output / "checkpoints", running.worker(), is_small):
            gap = running.wait_for(lambda: _epochs_beyond(running, saved.epoch + 2))
            last = running.newest()
        after = running.wait_for(lambda: _newer(running, last))
        assert after.epoch > last.epoch + 1, "no epoch went by while the disk was full"
        assert after.history[: last.epoch] == last.history  # training never went back
        strike = running.strike(after.epoch, running.kill)
        code = running.finish()
    row.running = f"trained on to epoch {gap} without a checkpoint since {last.epoch}; then restarted by Tune, same run"
    row.ending = f"exit {code}"
    assert code == 0, running.said
    row.resumed(strike)
    row.intact(running, reference)


def _epochs_beyond(study, epoch):
    """The last epoch of the running trial in the store, once it is beyond `epoch`."""
    store = Store(study.output)
    steps = [step for run in store.runs("trial") for step, _ in store.history(run, "train_loss")]
    return max(steps) if steps and max(steps) > epoch else None


def _newer(study, saved):
    newest = study.newest()
    return newest if newest and newest.epoch > saved.epoch else None
