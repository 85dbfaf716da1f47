"""What the methods built on optimal transport share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from cgd.baselines.neighbours import Matrix
from cgd.data.protocol import FloatArray
from cgd.errors import DataError


@contextmanager
def refuse_vanished_kernel(title: str) -> Iterator[None]:
    """POT warns where its kernel vanished and returns the plan of the step before, which means nothing: DataError."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        warnings.filterwarnings("error", message="Numerical errors")
        try:
            yield
        except UserWarning as error:
            raise DataError(
                f"{title}: the transport plan is beyond the precision of the machine ({error}); raise epsilon"
            ) from None


def to_columns(plan: Matrix) -> FloatArray:
    """(n_cells, n_spots) plan with columns scaled to sum 1, so that a prediction is a mean over cells. A spot that
    received no mass gets the plain mean."""
    mass = plan.sum(axis=0)
    if not (mass > 0).all():
        plan = np.where(mass > 0, plan, 1.0)
        mass = plan.sum(axis=0)
    return (plan / mass).astype(np.float32)
