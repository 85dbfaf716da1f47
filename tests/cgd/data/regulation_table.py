"""What the true regulators of a gene tell about where it is expressed: a bound on what a causal order can buy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cgd.config import Config
from cgd.data.graph import Edges
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import hide
from cgd.data.split import make_splits
from cgd.errors import DataError
from cgd.metrics.floors import predict_floors

Matrix = npt.NDArray[np.float64]
_N_PARTS = 4  # of the spots, each predicted from a regression on the others
_AT_MOST = 3  # rows of each kind, which is as many regulators as a simulated gene has


def oracle_table(prepared: PreparedPair, config: Config, seed: int = 0) -> pd.DataFrame:
    """How well each test gene is predicted over the spots by a regression that was fitted to its own truth.

    A gene is regressed on its kernel-ridge prediction from the visible genes, and on that together with the true ST
    rows of its regulators, its effects, its siblings (which share a regulator with it) or random genes, at most three
    of each. The regressions are fitted on three quarters of the spots and scored on the last. No method can do this,
    as it has no truth to fit to: what the regulators add here is more than an order of the genes can make of them.

    Returns
    -------
    DataFrame
        A row per test gene: gene, fold, and the PCC with `ridge` alone and with `regulators`, `hidden_regulators`
        (those that are test genes too, which a model would have to generate first), `effects`, `siblings`, `random`;
        NaN where a gene has none.

    Raises
    ------
    DataError
        The data carry no regulatory graph.
    """
    if prepared.graph is None:
        raise DataError(f"{prepared.name}: no uns['regulatory_graph'] in the ST; simulated data have one")
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for split in make_splits(prepared.panel, config.split):
        hidden = hide(prepared, split, config)
        truth = {part: getattr(hidden, part).truth for part in ("val", "test")}
        expression = _rows(hidden.visible.train_genes, hidden.visible.x_st)
        expression |= _rows(split.val, truth["val"]) | _rows(split.test, truth["test"])
        floor = predict_floors(hidden.visible, split.test, config.split.seed)["kernel_ridge"]
        part = rng.permutation(floor.shape[1]) % _N_PARTS
        for gene, predicted in zip(split.test, floor.astype(np.float64), strict=True):
            helpers = _helpers(gene, prepared.graph, expression, split.test, rng)
            scores = {
                name: _score(expression, gene, predicted, given, part)
                for name, given in helpers.items()
                if given or name == "ridge"
            }
            rows.append({"gene": gene, "fold": split.fold, **scores})
    return pd.DataFrame(rows)


def _rows(genes: Sequence[str], matrix: npt.NDArray[np.float32]) -> dict[str, Matrix]:
    return dict(zip(genes, matrix.astype(np.float64), strict=True))


def _helpers(
    gene: str, graph: Edges, measured: dict[str, Matrix], test: Sequence[str], rng: np.random.Generator
) -> dict[str, list[str]]:
    """Which true rows stand beside the prediction, by column of the table."""
    known = [(above, below) for above, below in graph if above in measured and below in measured]
    regulators = {above for above, below in known if below == gene}
    effects = {below for above, below in known if above == gene}
    sets = {
        "ridge": set[str](),
        "regulators": regulators,
        "hidden_regulators": regulators & set(test),
        "effects": effects,
        "siblings": {below for above, below in known if above in regulators} - {gene} - regulators - effects,
        "random": set(measured) - {gene},
    }
    return {name: list(rng.permutation(sorted(genes))[:_AT_MOST]) for name, genes in sets.items()}


def _score(
    expression: dict[str, Matrix], gene: str, predicted: Matrix, given: list[str], part: npt.NDArray[np.int64]
) -> float:
    """PCC of a gene with its cross-validated regression."""
    truth = expression[gene]
    design = np.column_stack([np.ones_like(truth), predicted, *(expression[name] for name in given)])
    fitted = np.empty_like(truth)
    for i in range(_N_PARTS):
        weights = np.linalg.lstsq(design[part != i], truth[part != i], rcond=None)[0]
        fitted[part == i] = design[part == i] @ weights
    return float(np.corrcoef(fitted, truth)[0, 1]) if truth.std() > 0 else float("nan")
