"""A logged model, as MLflow loads and serves it: the path of an AnnData file in, predicted expression out.

MLflow runs this file wherever a model is loaded (`mlflow.pyfunc.load_model("runs:/RUN_ID/model")`); a copy of it lies
beside the tensors of every logged model, so nothing is unpickled. It needs the package `cgd` and nothing of `tune`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from cgd.data.pair import match_genes
from cgd.errors import DataError
from cgd.estimator import CausalGeD

STATISTICS = ("mean", "std", "low", "high")

# MLflow would like type hints it can make a schema of; there is none for "a path, or a table with one". It overrides
# filters of warnings, so they are recorded and dropped
with warnings.catch_warnings(record=True):

    class ServedModel(PythonModel):
        """Predicts for the ST spots the model was trained on.

        `predict` takes the path of an h5ad file, or a table with one row and a column `path`, and `params`:
        `genes` (names; none: every gene the model was not given or the file does not measure) and `statistic`
        (`mean`, `low` or `high` for a bound of the interval of 90 %, or `std` for the spread of the draws).
        """

        def load_context(self, context: PythonModelContext) -> None:
            self.model = CausalGeD.load(context.artifacts["causalged"])

        def predict(
            self, context: PythonModelContext, model_input: Any, params: dict[str, Any] | None = None
        ) -> pd.DataFrame:
            """(n_spots, n_genes) DataFrame, spots in the order of the file.

            Raises
            ------
            DataError
                The file is missing or holds other spots than those trained on, a gene is unknown, or there is no
                spread.
            """
            values = params or {}
            spots = _read_spots(_read_path(model_input))
            genes = list(values.get("genes", ())) or _find_unmeasured(self.model, spots)
            return _put_in_order(_predict(self.model, genes, values.get("statistic", "mean")), spots)


def _read_path(model_input: Any) -> Path:
    """The path in what MLflow passes on: a table, whatever the caller gave."""
    table = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame([model_input], columns=["path"])
    column = "path" if "path" in table.columns else table.columns[0]
    if len(table) != 1:
        raise DataError(f"expected the path of one AnnData file, found {len(table)} rows")
    value = table[column].iloc[0]
    if isinstance(value, list) and len(value) == 1:  # {"path": ["file.h5ad"]} reaches us as a list in a cell
        value = value[0]
    if not isinstance(value, str):
        raise DataError(f"expected the path of an AnnData file, found {type(value).__name__}")
    return Path(value).expanduser()


def _read_spots(path: Path) -> ad.AnnData:
    """Names of spots and genes and the coordinates of a file; its counts are not read."""
    if not path.is_file():
        raise DataError(f"no file at {path}; expected an h5ad file with the ST spots the model was trained on")
    try:
        found = ad.read_h5ad(path, backed="r")
    except Exception as error:  # anndata's own error class for a foreign layout is private; it derives from Exception
        raise DataError(f"{path} is not a readable h5ad file: {error}") from None
    try:
        if "spatial" not in found.obsm:
            raise DataError(f"{path}: expected coordinates in obsm['spatial'], found {', '.join(found.obsm) or 'none'}")
        spots = ad.AnnData(obs=pd.DataFrame(index=found.obs_names.astype(str)))
        spots.obsm["spatial"] = np.asarray(found.obsm["spatial"])
        spots.uns["genes"] = [str(gene) for gene in found.var_names]
    finally:
        found.file.close()
    if not spots.obs_names.is_unique:
        raise DataError(f"{path}: some spots share a name; the model finds its spots by obs_names")
    return spots


def _find_unmeasured(model: CausalGeD, spots: ad.AnnData) -> list[str]:
    """Genes whose ST values were hidden from the model (a trial's test genes) or are not in the file."""
    known = set(match_genes(spots.uns["genes"], list(model.genes)).values()) & set(model.measured_genes)
    genes = [gene for gene in model.genes if gene not in known]
    if not genes:
        raise DataError(
            f"the model was trained on all {len(model.genes)} genes it can predict, and the file measures them all; "
            'name those you want with params={"genes": [...]}'
        )
    return genes


def _predict(model: CausalGeD, genes: list[str], statistic: str) -> ad.AnnData:
    if statistic not in STATISTICS:
        raise DataError(f"statistic '{statistic}' is not known; expected one of {', '.join(STATISTICS)}")
    predicted = model.predict(genes)
    if statistic == "mean":
        return predicted
    if statistic not in predicted.layers:
        raise DataError(
            f"the model was trained with sampling.n_samples = {model.config.sampling.n_samples}, and a spread needs "
            "at least 2 draws; ask for the mean"
        )
    return ad.AnnData(predicted.layers[statistic], predicted.obs, predicted.var, obsm=predicted.obsm)


def _put_in_order(predicted: ad.AnnData, spots: ad.AnnData) -> pd.DataFrame:
    """Rows as in the file; spots it has but the model dropped in training are left out."""
    position = spots.obs_names.get_indexer(predicted.obs_names)
    n_missing = int((position < 0).sum())
    if n_missing:
        example = predicted.obs_names[position < 0][0]
        raise DataError(
            f"the file lacks {n_missing} of the {predicted.n_obs} spots the model was trained on, such as '{example}' "
            f"(it has {spots.n_obs}, such as '{spots.obs_names[0]}'); give the ST file of the training"
        )
    there, here = spots.obsm["spatial"][position], predicted.obsm["spatial"]
    # barcodes repeat from one slide to another, coordinates do not
    if there.shape != here.shape or not np.allclose(there, here, rtol=1e-5, atol=1e-6):
        raise DataError(
            "the spots have the names of those the model was trained on but other coordinates in obsm['spatial']; "
            "give the ST file of the training"
        )
    table = pd.DataFrame(predicted.X, index=predicted.obs_names.rename("spot"), columns=list(predicted.var_names))
    return table.iloc[np.argsort(position)]


set_model(ServedModel())
