"""Writing a fitted model to MLflow: a script and safetensors, no pickle, linked to the run it comes from."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

NAME = "model"  # runs:/RUN_ID/model
_SCRIPT = Path(__file__).with_name("served_model.py")
_PACKAGES = ["mlflow", "torch", "numpy", "scipy", "pandas", "anndata", "scanpy", "pydantic", "pyyaml", "safetensors"]
_PACKAGES += ["diffusers"]

# the column has no name, so that a bare path, a list and a table with a column `path` are all taken
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string")]),
    params=ParamSchema([ParamSpec("genes", "string", [], shape=(-1,)), ParamSpec("statistic", "string", "mean")]),
)


@lru_cache(maxsize=1)
def _requirements() -> list[str]:
    """The versions in use here; working them out from the code takes MLflow many seconds, for each model again."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in _PACKAGES]


def write_model(client: MlflowClient, experiment_id: str, run_id: str, folder: Path, tags: Mapping[str, str]) -> str:
    """Log the model saved in `folder` as the LoggedModel of a run; returns its id.

    A run has one forever, READY when it is whole: the next attempt writes into what a killed driver left.
    """
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'", max_results=1)
    model_id = found[0].model_id if found else None
    if model_id is None:
        model_id = client.create_logged_model(experiment_id, NAME, run_id, dict(tags), model_type="CausalGeD").model_id
    with tempfile.TemporaryDirectory(prefix="cgd-model-") as scratch:
        target = Path(scratch) / NAME
        _save(target, folder, Model(artifact_path=NAME, run_id=run_id, model_id=model_id))
        client.log_model_artifacts(model_id, str(target))
    client.finalize_logged_model(model_id, "READY")
    outputs = client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return model_id


def _save(target: Path, folder: Path, description: Model) -> None:
    with warnings.catch_warnings(record=True):  # it asks for an input example, for every model
        pyfunc.save_model(
            target,
            python_model=str(_SCRIPT),
            artifacts={"causalged": str(folder)},
            signature=_SIGNATURE,
            pip_requirements=_requirements(),
            mlflow_model=description,
        )
