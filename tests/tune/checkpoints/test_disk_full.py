"""A full disk ends a command with what to do, wherever it shows; a log that is cut short is said to be."""

import errno
import os

import pytest

from cgd.files import find_disk_error, free_space, readable_size, write_atomically
from tune.commands.ending import EXIT_USAGE, Ending, run_command
from tune.terminal.logs import CommandLog


def write_to_a_full_device():
    with open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")


def raised_by(work):
    try:
        work()
    except Exception as error:
        return error
    return None


def wrapped():
    """As Tune does: another error, of which the disk is the cause."""
    try:
        write_to_a_full_device()
    except OSError as error:
        raise RuntimeError("the trial runner failed") from error


@pytest.mark.parametrize("work", [write_to_a_full_device, wrapped])
def test_a_command_says_what_is_full_and_what_to_do(tmp_path, capsys, work):
    def body(log):
        log.open(tmp_path)
        work()

    assert run_command("test", body, tmp_path, verbose=False) == EXIT_USAGE
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"error: cannot write {tmp_path}: No space left on device; ")
    assert said[-1].endswith(" free there. Free some space or choose another folder")
    (log,) = (tmp_path / "logs").iterdir()
    assert "Traceback" in log.read_text()


def test_a_file_that_does_not_fit_is_named(tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    body = lambda log: write_atomically(tmp_path / "search" / "best.yaml", "x")  # noqa: E731
    assert run_command("test", body, tmp_path, verbose=False) == EXIT_USAGE
    assert f"error: cannot write {tmp_path / 'search' / 'best.yaml'}: No space left" in capsys.readouterr().err
    assert not list((tmp_path / "search").iterdir())


def test_a_full_log_stops_nothing_and_is_said(tmp_path, capsys):
    def body(log):
        path = log.open(tmp_path)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, log._sink)
        os.close(full)
        log.write("lost")
        return Ending(0 if path.is_file() else 1)

    assert run_command("test", body, tmp_path, verbose=False) == 0
    (log,) = (tmp_path / "logs").iterdir()
    assert capsys.readouterr().err.splitlines() == [f"the log {log} is not complete: No space left on device"]


def test_a_disk_error_is_found_behind_other_errors_only_if_there():
    assert find_disk_error(raised_by(wrapped)).errno == errno.ENOSPC
    assert find_disk_error(raised_by(lambda: os.open("/nowhere/x", os.O_RDONLY))) is None
    looped = ValueError()
    looped.__context__ = RuntimeError()
    looped.__context__.__context__ = looped
    assert find_disk_error(looped) is None


def test_sizes_are_readable(tmp_path):
    shown = [readable_size(n) for n in (0, 999, 1000, 12_345, 999_600, 999.6e6, 20e9, 5e15)]
    assert shown == ["0 bytes", "999 bytes", "1 kB", "12.3 kB", "1 MB", "1 GB", "20 GB", "5000 TB"]
    assert free_space(tmp_path / "not" / "there").split()[1] in ("kB", "MB", "GB", "TB")


def test_the_log_is_whole_otherwise(tmp_path):
    log = CommandLog("test")
    with log:
        log.open(tmp_path)
        log.write("kept")
    assert log.lost is None
    assert "kept" in log.path.read_text()
