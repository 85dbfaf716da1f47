"""The regulatory graph that a data set may carry, and how far down it a gene stands."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import anndata as ad
import pandas as pd

from cgd.errors import DataError

GRAPH_KEY = "regulatory_graph"
Edges = tuple[tuple[str, str], ...]


def read_graph(adata: ad.AnnData, what: str) -> Edges | None:
    """(regulator, target) of every edge in `uns["regulatory_graph"]`, a table with these columns; None without one.

    Raises
    ------
    DataError
        The entry is something else.
    """
    if GRAPH_KEY not in adata.uns:
        return None
    table = adata.uns[GRAPH_KEY]
    if not isinstance(table, pd.DataFrame) or not {"regulator", "target"} <= set(table.columns):
        found = (
            f"columns {', '.join(map(str, table.columns))}" if isinstance(table, pd.DataFrame) else type(table).__name__
        )
        raise DataError(
            f"{what}: expected a table with the columns regulator and target in uns['{GRAPH_KEY}'], found {found}; "
            "mend it or delete the entry"
        )
    return tuple(zip(table["regulator"].astype(str), table["target"].astype(str), strict=True))


def causal_depth(edges: Edges, genes: Iterable[str]) -> dict[str, int]:
    """Gene -> length of the longest chain of regulators above it; 0 for a gene that nothing is known to regulate.

    Ascending depth is a topological order: a gene stands below everything that regulates it, also where regulators
    between them are not among `genes`.

    Raises
    ------
    DataError
        The graph has a cycle, so that no order puts every cause before its effects.
    """
    regulators: dict[str, set[str]] = {}
    for regulator, target in edges:
        regulators.setdefault(target, set()).add(regulator)
    try:
        order = list(TopologicalSorter(regulators).static_order())
    except CycleError as error:
        raise DataError(
            f"the regulatory graph has a cycle, which no order can follow: {' -> '.join(error.args[1])}; "
            "use another ar.token_order, or take an edge of it out of the table"
        ) from None
    depth: dict[str, int] = {}
    for gene in order:
        depth[gene] = max((depth[above] + 1 for above in regulators.get(gene, ())), default=0)
    return {gene: depth.get(gene, 0) for gene in genes}
