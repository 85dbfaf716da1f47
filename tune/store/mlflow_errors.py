"""What goes wrong with a tracking store, in words, and told apart: a store that is away, and one that refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from requests.exceptions import HTTPError
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cgd.errors import TrackingError
from tune.store.errors import StoreAwayError, TooLargeError, hide_password

_ADVICE = (
    "give a database such as sqlite:///PATH/mlflow.db or the address of an MLflow server with --tracking-uri or "
    "MLFLOW_TRACKING_URI"
)
_REFUSED = range(400, 500)
_LATER = {408, 425, 429, 401, 403}  # of those, what asks to come again, and what a person mends with a new password
_TOO_LARGE = 413
_BUSY = "QueuePool limit"  # a server whose connections to its database are all in use answers 400


@contextmanager
def translate_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn the errors of MLflow, its database and its artifacts into ours.

    Raises
    ------
    StoreAwayError
        The store could not be reached, failed inside, has no room, or wants another password.
    TooLargeError
        It takes nothing of that size.
    TrackingError
        It refused the request: repeating it is of no use.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:  # a driver may not be installed
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shown = f"{hide_password(uri)}: {hide_password(reason)}"
        raise _choose_kind(error)(f"cannot {doing} in the tracking store {shown}", _ADVICE) from None


def _choose_kind(error: Exception) -> type[TrackingError]:
    if is_too_large(error):
        return TooLargeError
    return StoreAwayError if is_away(error) else TrackingError


def is_too_large(error: Exception) -> bool:
    """Whether a request was refused for its size; MLflow's own errors have the number in their text alone."""
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code == _TOO_LARGE
    return isinstance(error, MlflowException) and f"error code {_TOO_LARGE}" in str(error)


def is_away(error: Exception) -> bool:
    """Whether the store may take the same request later."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status not in _REFUSED or status in _LATER or _BUSY in str(error)
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code not in _REFUSED or error.response.status_code in _LATER
    if isinstance(error, SQLAlchemyError):
        return isinstance(error, OperationalError | PoolTimeout)
    return isinstance(error, OSError)
