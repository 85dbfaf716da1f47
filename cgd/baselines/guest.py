"""Running a package's own code inside a process that other trials share, leaving the process as it was."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from cgd.random import derive_seed


@contextmanager
def guest_code(loggers: Sequence[str] = ()) -> Iterator[None]:
    """Import or run a package's code; put back afterwards what it changed of the process.

    That is the global random state of Python, NumPy and torch (CPU), the warning filters, the level and handlers of
    the root logger, the environment variables, the flags of cuDNN and the start method of multiprocessing, which asking
    for it chooses. Inside, no warning is shown. Ctrl-C stays a KeyboardInterrupt where the package makes an exit of it
    and ignores the next.

    Parameters
    ----------
    loggers
        Loggers that say nothing below an error inside.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(_restore_environment, dict(os.environ))
        stack.callback(_restore_root_logger, logging.root.level, list(logging.root.handlers))
        stack.callback(_restore_cudnn, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
        stack.callback(multiprocessing.set_start_method, multiprocessing.get_start_method(allow_none=True), force=True)
        if threading.current_thread() is threading.main_thread():  # no other thread may set one
            stack.callback(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        for name in loggers:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        try:
            yield
        except SystemExit as ended:
            if isinstance(ended.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise


def package_seed(seed: int, method: str) -> int:
    """A seed in 1 .. 2**32 - 1 for a package that takes no larger one, or ignores 0."""
    return 1 + derive_seed(seed, method) % (2**32 - 1)


def _restore_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _restore_root_logger(level: int, handlers: list[logging.Handler]) -> None:
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


def _restore_cudnn(benchmark: bool, deterministic: bool) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
