"""Random state is an argument: every purpose has its own generator, spawned from one root seed."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. `derive_seed(0, "noise")`; different purposes never share a stream."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def make_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose. Random numbers are drawn on the CPU so that devices agree."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
