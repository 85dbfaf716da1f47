"""The address of a tracking store as it may be shown."""

from __future__ import annotations

import re


def without_password(url: str) -> str:
    """An address as it may be shown and kept; anything else as it is."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", url)
