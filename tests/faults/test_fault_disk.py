"""The disk is full while a trial saves its checkpoints."""

import resource
import subprocess
from contextlib import contextmanager, suppress

import pytest
from intact import largest

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
        with suppress(OSError), filler.open("wb", buffering=0) as file:  # the error says that it is full
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
        first = running.wait_for_epoch(2)
        worker = running.worker()
        cpu = sum(worker.cpu_times()[:2])
        second = running.wait_for_epoch(first.epoch + 3)
        cpu_per_epoch = (sum(worker.cpu_times()[:2]) - cpu) / (second.epoch - first.epoch)
        with full(running.output / "checkpoints", worker, is_small):
            enough = sum(worker.cpu_times()[:2]) + 3 * cpu_per_epoch
            running.wait_for(lambda: sum(worker.cpu_times()[:2]) > enough)
            last = running.newest()
        after = running.wait_for(lambda: _newer(running, last))
        assert after.epoch > last.epoch + 1, "no epoch went by while the disk was full"
        assert after.history[: last.epoch] == last.history  # training never went back
        strike = running.strike(after.epoch, running.kill)
        code = running.finish()
    row.running = f"trained on, epochs {last.epoch + 1} to {after.epoch - 1} not saved; restarted by Tune, same run"
    row.ending = f"exit {code}"
    assert code == 0, running.said
    assert largest(running, "cgd.unsaved_checkpoints") == after.epoch - 1 - last.epoch
    row.resumed(strike)
    row.intact(running, reference)


def _newer(study, saved):
    newest = study.newest()
    return newest if newest and newest.epoch > saved.epoch else None
