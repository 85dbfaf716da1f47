"""How every command ends: one message, one exit code, and a log with the rest."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cgd.errors import CGDError
from cgd.files import disk_message, find_disk_error
from tune.store.errors import UndeliveredError
from tune.terminal.logs import CommandLog
from tune.terminal.text import join_lines, make_streams_safe

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNDELIVERED, EXIT_STOPPED = 0, 1, 2, 3, 130

EXIT_CODES = """\
exit codes:
  0    every trial finished, or was finished already
  1    some trials failed (the others went on), or the command crashed: the log has the traceback
  2    wrong arguments, configuration, study, data or tracking store: one message says what to mend
  3    the tracking store went away: what it could not be told is kept in OUTPUT/outbox; the same command delivers it
  130  stopped with Ctrl-C; the same command with --resume continues"""


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit code, and lines for the standard error stream."""

    code: int = EXIT_OK
    errors: tuple[str, ...] = ()


def run_command(name: str, body: Callable[[CommandLog], Ending], output: Path, verbose: bool) -> int:
    """Run the body of a command with its log; returns the exit code.

    Parameters
    ----------
    name
        Name of the command, for the log.
    body
        Does the work. It prints to standard output, and opens the log once it may write to the output folder.
    output
        Where a crash before that is logged.
    verbose
        Show on the terminal what else goes to the log.
    """
    make_streams_safe()
    log = CommandLog(name, verbose)
    try:
        with log:
            ending = _run_body(body, log, output)
    except UndeliveredError as error:
        ending = Ending(EXIT_UNDELIVERED, (f"error: {error}",))
    except CGDError as error:
        ending = Ending(EXIT_USAGE, (f"error: {error}",))
    except KeyboardInterrupt:
        print(file=sys.stderr)  # ends the line on which the terminal shows ^C
        ending = Ending(EXIT_STOPPED, ("stopped; the same command with --resume continues",))
    if log.lost:
        print(f"the log {log.path or output / 'logs'} is not complete: {log.lost}", file=sys.stderr)
    if ending.code != EXIT_OK and log.path:
        print(f"log: {log.path}", file=sys.stderr)
    for line in ending.errors:
        print(line, file=sys.stderr)
    return ending.code


def _run_body(body: Callable[[CommandLog], Ending], log: CommandLog, output: Path) -> Ending:
    try:
        return body(log)
    except (CGDError, KeyboardInterrupt):
        raise
    except Exception as error:  # the outermost boundary: a full disk, a defect, or something nobody foresaw
        if full := find_disk_error(error):
            log.write("".join(traceback.format_exception(error)))
            path = Path(full.filename) if isinstance(full.filename, str) else output
            return Ending(EXIT_USAGE, (f"error: {disk_message(path, full)}",))
        return _report_crash(error, log, output)


def _report_crash(error: Exception, log: CommandLog, output: Path) -> Ending:
    text = "".join(traceback.format_exception(error))
    line = f"crashed: {type(error).__name__}: {join_lines(str(error))[:300]}"
    try:
        path = log.open(output)
    except OSError:  # there is no log: the terminal shows everything
        return Ending(EXIT_FAILED, (text.rstrip(), line))
    log.write(text)
    shown = (text.rstrip(),) if log.verbose else ()
    return Ending(EXIT_FAILED, (*shown, f"{line}; the traceback is in {path}"))
