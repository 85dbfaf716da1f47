"""What a running search shows: a line per finished sample with its value, the best so far and the time left."""

from __future__ import annotations

from tune.terminal.progress import Progress

_WHOLE = 100  # a sample's work, in per cent
_WHERE = "validation"


class SearchProgress:
    """Progress over the samples of a search, or over the runs of its confirmation.

    Parameters
    ----------
    progress
        The terminal; a sample counts there as a hundred epochs.
    best
        Value and name of the best so far, from an earlier command.
    is_ranked
        Whether there is a best: the runs of a confirmation do not compare one by one.
    """

    def __init__(self, progress: Progress, best: tuple[float, str] | None = None, is_ranked: bool = True) -> None:
        self.progress, self.best, self.is_ranked = progress, best, is_ranked
        if best is not None:
            progress.mark_best(_WHERE, *best)

    def start(self, name: str) -> None:
        self.progress.start(name, _WHOLE)

    def percent(self, name: str, percent: int, value: float) -> None:
        self.progress.epoch(name, percent, {"val_pcc": value})

    def finish(self, name: str, value: float, seconds: float, eligible: bool = True) -> None:
        """A sample ran to its end; `eligible` says that it stayed within the memory asked for."""
        text = f"validation PCC {value:.4f} in {seconds:.0f} s"
        if not eligible:
            text += ", over the memory asked for"
        elif not self.is_ranked:
            pass
        elif self.best is None or value > self.best[0]:
            self.best = (value, name)
            self.progress.mark_best(_WHERE, value, name)
            text += ", the best so far"
        else:
            text += f" (best {self.best[0]:.4f}, {self.best[1]})"
        self.progress.finish(name, text)

    def stop(self, name: str, value: float, percent: int) -> None:
        """A sample was stopped early."""
        self.progress.finish(name, f"stopped at {percent} % with validation PCC {value:.4f}")

    def fail(self, name: str, reason: str) -> None:
        self.progress.finish(name, f"FAILED: {reason}", failed=True)
