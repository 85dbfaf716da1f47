"""What every baseline refuses, said once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from cgd.errors import DataError, NotFittedError, closest

if TYPE_CHECKING:
    from cgd.data.protocol import FloatArray, VisiblePair

State = TypeVar("State")


def check_enough_genes(title: str, visible: VisiblePair, needed: int = 2) -> None:
    """A method that relates genes needs some. Raises DataError below `needed` training genes."""
    found = len(visible.train_genes)
    if found < needed:
        raise DataError(
            f"{title} needs at least {needed} training genes, found {found} in {visible.name}; "
            "give a pair that shares more genes, or lower split.val_fraction and split.test_fraction"
        )


def check_fitted(title: str, state: State | None) -> State:
    """The fitted state. Raises NotFittedError while it is None."""
    if state is None:
        raise NotFittedError(f"{title} is not fitted; call fit(visible, seed) before predict(genes)")
    return state


def check_known(title: str, visible: VisiblePair, genes: Sequence[str]) -> list[str]:
    """The genes asked for, as a list. Raises DataError for a gene that the scRNA-seq does not have."""
    known = set(visible.genes)
    missing = [gene for gene in genes if gene not in known]
    if missing:
        raise DataError(
            f"{title}: {len(missing)} of {len(genes)} genes to predict are not in the scRNA-seq of {visible.name}, "
            f"e.g. '{missing[0]}'; {closest(missing[0], visible.genes)}"
        )
    return list(genes)


def select_rows(title: str, visible: VisiblePair | None, genes: Sequence[str]) -> FloatArray:
    """(len(genes), n_cells) scRNA-seq expression of the genes asked for: where most predictions start.

    Raises
    ------
    NotFittedError
        `visible` is None: the method has not been fitted.
    DataError
        A gene that the scRNA-seq does not have.
    """
    fitted = check_fitted(title, visible)
    return fitted.sc_rows(check_known(title, fitted, genes))
