"""One message and one exit code, whatever happened."""

import logging

import pytest

from cgd.errors import CGDError
from tune.commands.ablation import build_parser
from tune.commands.ending import Ending, run_command


def crash(log):
    logging.getLogger("some.library").warning("a hint")
    return [][1]


def test_a_crash_is_one_line_and_its_traceback_is_in_the_log(tmp_path, capsys):
    assert run_command("run_test", crash, tmp_path, verbose=False) == 1
    lines = capsys.readouterr().err.splitlines()
    log = next((tmp_path / "logs").iterdir())
    assert lines[-1] == f"crashed: IndexError: list index out of range; the traceback is in {log}"
    assert not any("Traceback" in line for line in lines)
    text = log.read_text()
    assert "WARNING  some.library: a hint" in text
    assert "in crash" in text
    assert "IndexError: list index out of range" in text


def test_verbose_shows_the_traceback(tmp_path, capsys):
    assert run_command("run_test", crash, tmp_path, verbose=True) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("crashed: IndexError")


def test_a_crash_that_cannot_be_logged_is_shown_whole(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run_command("run_test", crash, tmp_path / "file", verbose=False) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1] == "crashed: IndexError: list index out of range"


def test_a_user_error_is_one_message(tmp_path, capsys):
    def body(log):
        raise CGDError("expected this, found that; do so")

    assert run_command("run_test", body, tmp_path, verbose=False) == 2
    assert capsys.readouterr().err == "error: expected this, found that; do so\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [(CGDError("the store failed"), 2, "error: the store failed"), (KeyboardInterrupt(), 130, "stopped; the same")],
)
def test_an_opened_log_is_named_before_the_last_line(error, code, last, tmp_path, capsys):
    def body(log):
        log.open(tmp_path)
        raise error

    assert run_command("run_test", body, tmp_path, verbose=False) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2] == f"log: {next((tmp_path / 'logs').iterdir())}"
    assert lines[-1].startswith(last)


def test_failed_trials_name_the_log_and_success_is_silent(tmp_path, capsys):
    def body(ending):
        return lambda log: log.open(tmp_path) and ending

    assert run_command("run_test", body(Ending(1, ("FAILED  a", "1 trial(s) failed"))), tmp_path, verbose=False) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("log: ")
    assert lines[1:] == ["FAILED  a", "1 trial(s) failed"]
    assert run_command("run_test", body(Ending()), tmp_path, verbose=False) == 0
    assert capsys.readouterr().err == ""


def test_help_documents_the_exit_codes():
    text = build_parser().format_help()
    for line in ("  0    every trial", "  1    some trials failed", "  2    wrong arguments", "  130  stopped"):
        assert line in text
