"""The address of a tracking store as it may be shown."""

from __future__ import annotations

import re

_NAMED = re.compile(r"([?&;][^=&;#]*(?:pass|pwd|secret|token|key)[^=&;#]*=)[^&;#\s]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """An address as it may be shown and kept, without what follows the user's name or a parameter such as `password=`.

    Anything else as it is. A password may hold a slash where its owner did not quote it.
    """
    return _NAMED.sub(r"\1***", re.sub(r"(://[^/@:\s]*):(?!\d+/)[^\s'\"]*@", r"\1:***@", url))
