"""Libraries write to the log, we write to the terminal."""

import logging
import os
import sys
import warnings

import pytest

from tune.terminal.logs import KEPT_LOGS, CommandLog, is_verbose


def make_noise():
    logging.getLogger("some.library").warning("a warning of a library")
    logging.getLogger("another").info("a migration")
    logging.getLogger("quiet").debug("a detail")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # pytest replaced what the context had installed: install it again
        logging.captureWarnings(True)
        warnings.warn(NOISE[2], UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    print("written to stderr", file=sys.stderr)
    os.write(2, b"native code\n")
    print("our own line")


NOISE = ("a warning of a library", "a migration", "a warning of scanpy", "written to stderr", "native code")


def test_noise_goes_to_the_file_and_our_lines_to_the_terminal(tmp_path, capfd):
    with CommandLog("run_test") as log:
        os.write(2, b"before it was opened\n")
        path = log.open(tmp_path)
        assert log.open(tmp_path) == path
        make_noise()
    text = path.read_text()
    assert path.parent == tmp_path / "logs"
    assert path.name.endswith("-run_test.log")
    assert all(text.count(noise) == 1 for noise in (*NOISE, "before it was opened"))
    assert "a detail" not in text
    assert "WARNING  some.library: a warning of a library" in text
    assert "INFO     another: a migration" in text
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("our own line\n", "")
    print("after", file=sys.stderr)
    os.write(2, b"native again\n")
    assert capfd.readouterr().err == "after\nnative again\n"


def test_verbose_shows_it_too(tmp_path, capfd):
    with CommandLog("run_test", verbose=True) as log:
        assert is_verbose()
        path = log.open(tmp_path)
        make_noise()
    assert not is_verbose()
    shown, text = capfd.readouterr().err, path.read_text()
    assert all(noise in shown for noise in NOISE)
    assert all(noise in text for noise in NOISE if noise != "native code")


def test_a_command_that_never_opens_its_log_leaves_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with CommandLog("run_test"):
        make_noise()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_logging_is_as_before_afterwards(tmp_path):
    root = logging.getLogger()
    before = (root.level, list(root.handlers), sys.stderr)
    with pytest.raises(ZeroDivisionError), CommandLog("run_test"):
        raise ZeroDivisionError
    assert (root.level, list(root.handlers), sys.stderr) == before


def test_a_handler_a_library_keeps_still_works_afterwards(tmp_path, capsys):
    with CommandLog("run_test") as log:
        log.open(tmp_path)
        handler = logging.StreamHandler()  # of the standard error stream of now
    logger = logging.getLogger("kept")
    logger.addHandler(handler)
    logger.warning("too late for the log")
    logger.removeHandler(handler)
    assert capsys.readouterr().err == "too late for the log\n"


def test_the_newest_logs_are_kept(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    for i in range(30):
        (folder / f"20200101-0000{i:02d}-run_test.log").write_text(str(i))
    (folder / "notes.txt").write_text("not ours")
    with CommandLog("run_test") as log:
        path = log.open(tmp_path)
    logs = sorted(file.name for file in folder.glob("*.log"))
    assert len(logs) == KEPT_LOGS == 20
    assert logs[0] == "20200101-000011-run_test.log"
    assert logs[-1] == path.name
    assert (folder / "notes.txt").exists()


def test_two_commands_in_one_second_have_two_logs(tmp_path):
    paths = []
    for _ in range(2):
        with CommandLog("run_test") as log:
            paths.append(log.open(tmp_path))
            log.write("mine")
    assert len(set(paths)) == 2
    assert all(path.read_text() == "mine" for path in paths)
