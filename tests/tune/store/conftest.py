"""What is read is a store as a study leaves it."""

from study_store import heldout, published, store

__all__ = ["heldout", "published", "store"]
