"""A logged model loads by its run and by its id, and predicts what the fitted one does."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient, pyfunc

from cgd.errors import DataError
from tune.store.model import write_model

ROOT = Path(__file__).parents[3]
LOAD = """
import sys
from mlflow import pyfunc, set_tracking_uri
set_tracking_uri(sys.argv[1])
for uri, out in zip(sys.argv[3:5], sys.argv[5:]):
    pyfunc.load_model(uri).predict(sys.argv[2]).to_json(out, orient="split", double_precision=15)
assert "ray" not in sys.modules and "tune.store.tracking" not in sys.modules
"""


@pytest.fixture(scope="module")
def fitted(tiny):
    return tiny.evaluate().model


@pytest.fixture(scope="module")
def logged(fitted, tmp_path_factory):
    """(tracking URI, run id, model id) of a store with the model in it."""
    root = tmp_path_factory.mktemp("served")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("models", artifact_location=(root / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    fitted.save(root / "model")
    model_id = write_model(client, experiment, run_id, root / "model", {})
    assert write_model(client, experiment, run_id, root / "model", {}) == model_id  # as after a kill on the way
    return uri, run_id, model_id


@pytest.fixture(scope="module")
def served(logged):
    uri, _, model_id = logged
    folder = MlflowClient(uri).get_logged_model(model_id).artifact_location
    return pyfunc.load_model(folder)


@pytest.fixture
def st_file(tiny, tmp_path):
    """Writes the ST of the training, changed by a function, to a file."""

    def write(change=lambda adata: adata):
        path = tmp_path / "st.h5ad"
        change(tiny.pair.adata_st.copy()).write_h5ad(path)
        return str(path)

    return write


def expected(fitted, genes, spots):
    predicted = fitted.predict(genes)
    return pd.DataFrame(predicted.X, predicted.obs_names, predicted.var_names).loc[list(spots)]


def test_loads_by_run_and_by_id_where_only_mlflow_and_cgd_are(fitted, logged, st_file, tiny, tmp_path):
    uri, run_id, model_id = logged
    path, outputs = st_file(), [tmp_path / "run.json", tmp_path / "id.json"]
    uris = [f"runs:/{run_id}/model", f"models:/{model_id}"]
    environment = {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", LOAD, uri, path, *uris, *map(str, outputs)]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    hidden = [gene for gene in fitted.genes if gene not in fitted.measured_genes]
    assert set(tiny.split.test) <= set(hidden)
    for output in outputs:
        table = pd.read_json(output, orient="split", convert_axes=False)
        want = expected(fitted, hidden, tiny.pair.adata_st.obs_names)
        assert list(table.columns) == hidden
        np.testing.assert_allclose(table.to_numpy(), want.to_numpy(), rtol=1e-6)


def test_nothing_is_pickled_and_a_retried_run_has_one_model(logged):
    uri, run_id, model_id = logged
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    models = client.search_logged_models([run.info.experiment_id])
    assert [(m.model_id, str(m.status)) for m in models] == [(model_id, "READY")]
    assert [output.model_id for output in run.outputs.model_outputs] == [model_id]
    folder = Path(models[0].artifact_location.removeprefix("file://"))
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "__pycache__"]
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".py", ".yaml", ".txt", ""}


def test_rows_follow_the_file_and_a_table_with_a_path_is_taken(fitted, served, st_file, tiny):
    genes = list(tiny.split.test[:2])
    path = st_file(lambda adata: adata[::-1].copy())
    for given in (path, [path], pd.DataFrame({"path": [path]}), {"path": path}):
        table = served.predict(given, params={"genes": genes})
        assert list(table.index) == list(tiny.pair.adata_st.obs_names[::-1])
        pd.testing.assert_frame_equal(table, expected(fitted, genes, table.index), check_names=False)


def test_spread_is_that_of_draws_and_bounds_of_the_interval(fitted, served, st_file, tiny):
    genes = list(tiny.split.test[:2])
    table = served.predict(st_file(), params={"genes": genes, "statistic": "std"})
    np.testing.assert_array_equal(table.to_numpy(), fitted.predict(genes).layers["std"])
    for bound in ("low", "high"):
        table = served.predict(st_file(), params={"genes": genes, "statistic": bound})
        np.testing.assert_array_equal(table.to_numpy(), fitted.predict(genes).layers[bound])
    with pytest.raises(DataError, match="'median' is not known; expected one of mean, std, low, high"):
        served.predict(st_file(), params={"genes": genes, "statistic": "median"})


def test_spots_the_model_does_not_have_are_left_out(served, st_file, tiny):
    def grow(adata):
        extra = adata[:3].copy()
        extra.obs_names = ["extra 1", "extra 2", "extra 3"]
        return ad.concat([extra, adata])

    table = served.predict(st_file(grow), params={"genes": [tiny.split.test[0]]})
    assert list(table.index) == list(tiny.pair.adata_st.obs_names)


def _renamed(adata):
    adata.obs_names = [f"other {i}" for i in range(adata.n_obs)]
    return adata


def _moved(adata):
    adata.obsm["spatial"] = adata.obsm["spatial"] + 1
    return adata


def _without_coordinates(adata):
    del adata.obsm["spatial"]
    return adata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed, "lacks 60 of the 60 spots the model was trained on"),
        (lambda adata: adata[5:].copy(), "lacks 5 of the 60 spots"),
        (_moved, r"other coordinates in obsm\['spatial'\]"),
        (_without_coordinates, r"expected coordinates in obsm\['spatial'\], found none"),
    ],
)
def test_a_file_with_other_spots_is_refused(served, st_file, tiny, change, message):
    with pytest.raises(DataError, match=message):
        served.predict(st_file(change), params={"genes": [tiny.split.test[0]]})


def test_what_cannot_be_read_or_predicted_is_said(served, st_file, tmp_path):
    with pytest.raises(DataError, match="no file at /nowhere"):
        served.predict("/nowhere/st.h5ad")
    (tmp_path / "text.h5ad").write_text("not an h5ad file")
    with pytest.raises(DataError, match="not a readable h5ad file"):
        served.predict(str(tmp_path / "text.h5ad"))
    with pytest.raises(DataError, match="gene 'Gene' is not in the scRNA-seq"):
        served.predict(st_file(), params={"genes": ["Gene"]})
    with pytest.raises(DataError, match="one AnnData file, found 2 rows"):
        served.predict(["a.h5ad", "b.h5ad"])
