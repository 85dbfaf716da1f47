"""What a method may see, as files: for predictions that are made elsewhere, without the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cgd.config import Config
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import VisiblePair, hide
from cgd.data.split import GeneSplit, make_splits
from cgd.errors import DataError
from tune.trials.plan import Planner

_README = """\
# What a method may see

A folder per data set, which holds

- `sc.h5ad`: cells x genes of the scRNA-seq, raw counts of all genes detected, also of those the spatial data lack; a
  shared gene bears the name it has there; `obs["total_counts"]` counts all genes of a cell;

and a folder per fold of the genes:

- `st_train.h5ad`: spots x training genes, raw counts, coordinates in `obsm["spatial"]`;
- `genes_to_predict.txt`: the test genes of the fold, one a line.

No spatial value of a test gene, nor of a validation gene, is in these files.

A prediction is spots x genes in log-normalised expression, log1p(median total * counts / total of the spot) over the
genes of `st_train.h5ad`: an `.h5ad` with `obs_names` (the spots of `st_train.h5ad`) and `var_names`, or a `.csv` whose
first column names the spots and whose header names the genes. Give one file for all folds of a data set, each gene
predicted in the fold that tests it, or one a fold:

    python tune/run_comparison.py --dataset NAME --methods floors --predictions "Mine=predictions/{dataset}_{fold}.h5ad"

These splits are those of: %s
"""


def export_splits(planner: Planner, folder: Path) -> Iterator[str]:
    """Write the visible part of every data set and fold of the planner into `folder`; a line for each as it is written.

    Raises
    ------
    DataError
        The folder cannot be written.
    """
    config = planner.plan.base
    try:
        folder.mkdir(parents=True, exist_ok=True)
        values = {**config.split.model_dump(mode="json"), **config.data.model_dump(mode="json")}
        said = ", ".join(f"{name} = {value}" for name, value in values.items())
        (folder / "README.md").write_text(_README % said, encoding="utf-8")
        for name, key in planner.prepare_under_base().items():
            prepared = planner.plan.datasets[key]
            (folder / name).mkdir(parents=True, exist_ok=True)
            _make_sc(prepared).write_h5ad(folder / name / "sc.h5ad")
            for split in make_splits(prepared.panel, config.split):
                where = folder / name / f"fold{split.fold}"
                where.mkdir(exist_ok=True)
                yield f"{where}: {_write(where, prepared, split, config)}"
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; give another folder") from None


def _write(where: Path, prepared: PreparedPair, split: GeneSplit, config: Config) -> str:
    """The two files of a fold, made of what a method would get and of nothing else; what they hold."""
    visible = hide(prepared, split, config).visible
    _make_st(visible).write_h5ad(where / "st_train.h5ad")
    (where / "genes_to_predict.txt").write_text("\n".join(split.test) + "\n", encoding="utf-8")
    shape = f"{len(visible.spot_names)} spots x {len(visible.train_genes)} training genes"
    return f"{shape}, {len(split.test)} genes to predict"


def _make_st(visible: VisiblePair) -> ad.AnnData:
    spots = pd.DataFrame(index=pd.Index(visible.spot_names))
    counts = sp.csr_matrix(np.rint(visible.st_counts().T).astype(np.float32))  # exact: float32 is finer than a count
    adata = ad.AnnData(counts, spots, pd.DataFrame(index=pd.Index(visible.train_genes)))
    adata.obsm["spatial"] = visible.coordinates
    return adata


def _make_sc(prepared: PreparedPair) -> ad.AnnData:
    """All of the scRNA-seq that is left after the filter of cells: nothing of it is hidden from a method."""
    totals = prepared.sc_totals
    cells = pd.DataFrame({"total_counts": totals}, index=pd.Index([f"cell{i}" for i in range(len(totals))]))
    counts = sp.coo_matrix(prepared.sc_expression, dtype=np.float64)
    counts.data = np.rint(np.expm1(counts.data) * (totals / np.median(totals))[counts.row])
    return ad.AnnData(counts.tocsr().astype(np.float32), cells, pd.DataFrame(index=pd.Index(prepared.sc_genes)))
