"""What can go wrong with a tracking store. No import here is slow: every command needs these."""

from __future__ import annotations

import re

from cgd.errors import TrackingError

_NAMED = re.compile(r"([?&;][^=&;#]*(?:pass|pwd|secret|token|key)[^=&;#]*=)[^&;#\s]*", re.IGNORECASE)


class StoreAwayError(TrackingError):
    """The tracking store cannot take this now; the same request may succeed later."""


class TooLargeError(TrackingError):
    """The tracking store, or a proxy before it, takes nothing of that size."""


class UndeliveredError(TrackingError):
    """The tracking store is away, and what trials reported waits in the output folder."""


def hide_password(url: str) -> str:
    """An address as it may be shown and kept, without what follows the user's name or a parameter such as `password=`.

    Anything else as it is. A password may hold a slash where its owner did not quote it.
    """
    return _NAMED.sub(r"\1***", re.sub(r"(://[^/@:\s]*):(?!\d+/)[^\s'\"]*@", r"\1:***@", url))
