"""What goes wrong with a tracking store, in words, and told apart: a store that is away, and one that refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from requests.exceptions import HTTPError
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ablations.store_uri import without_password
from cgd.errors import TrackingError

_REFUSED = range(400, 500)
_LATER = {408, 425, 429}  # of those, what asks to come again
_BUSY = "QueuePool limit"  # a server whose connections to its database are all in use answers 400


class StoreAwayError(TrackingError):
    """The tracking store cannot take this now; the same request may succeed later."""


@contextmanager
def readable_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn the errors of MLflow, its database and its artifacts into ours.

    Raises
    ------
    StoreAwayError
        The store could not be reached, failed inside, or has no room.
    TrackingError
        It refused the request: repeating it is of no use.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = StoreAwayError if is_away(error) else TrackingError
        raise kind(
            f"cannot {doing} in the tracking store {without_password(uri)}: {without_password(reason)}. Give a "
            "database such as sqlite:///PATH/mlflow.db or the address of an MLflow server with --tracking-uri or "
            "MLFLOW_TRACKING_URI"
        ) from None


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
