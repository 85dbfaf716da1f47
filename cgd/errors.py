"""Errors a user can mend. Each message says what was expected, what was found and how to mend it."""

import difflib
from collections.abc import Iterable


class CGDError(Exception):
    """Base of every error the platform raises on purpose; a command prints it without a traceback and exits with 2."""


class ConfigError(CGDError):
    """A configuration has an unknown field, a value out of range or fields that contradict each other."""


class DataError(CGDError):
    """A data set is missing, has the wrong layout or cannot be used for what was asked."""


class StudyError(CGDError):
    """A study definition is missing, malformed or changes more than it declares."""


class CheckpointError(CGDError):
    """A saved model or checkpoint is missing, incomplete or belongs to another configuration."""


class DiskError(CGDError):
    """A file cannot be written: the disk is full, fails or does not allow it."""


class NotFittedError(CGDError):
    """Something was asked of a method or model before it was fitted or loaded."""


class TrainingDiverged(CGDError):
    """The training loss stopped being finite."""


class TrackingError(CGDError):
    """The tracking store cannot be reached, written or understood.

    Attributes
    ----------
    reason, advice
        What is wrong and how to mend it; the message has both.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason, advice)
        self.reason, self.advice = reason, advice

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason


def closest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'? Valid: ...` for a wrong name, to be appended to an error message.

    A long list is not printed: then the closest few names stand for it.
    """
    names = sorted(valid)
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean '{matches[0]}'? " if matches else ""
    if len(names) <= 12:
        return f"{hint}Valid: {', '.join(names)}"
    return hint + (f"Close: {', '.join(matches)}" if len(matches) > 1 else f"There are {len(names)} valid names")
