"""What a fitted model predicts from, and how it is saved: tensors in safetensors, all else in JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cgd.calibration import Calibration, SpreadTrend
from cgd.config import Config
from cgd.errors import CheckpointError
from cgd.model.counts import CountNoise
from cgd.model.network import Network
from cgd.model.reference import refines
from cgd.model.refinement import RefinedCentre
from cgd.model.tokens import GeneTable, TrainingTable
from cgd.training.checkpoint import read_folder, write_folder

_FORMAT = 6
_READABLE = (4, 5, 6)  # formats 4 and 5 know of no counts, and 4 also holds a centre that no prediction reads


@dataclass
class Fitted:
    """A trained network and what it predicts from."""

    network: Network
    context: TrainingTable  # the training genes
    train_genes: tuple[str, ...]
    measured_genes: tuple[str, ...]  # in the ST
    genes: tuple[str, ...]  # that can be predicted: rows of the next two
    table: GeneTable
    cell_features: Tensor | None  # (n_genes, k) in the cell map, None without one
    ridge_lambda: float
    calibration: Calibration
    noise: CountNoise | None  # of draws; None where they are what the decoder says
    share: float  # of what the network adds to its centre that a best guess adds to it
    exposure: np.ndarray  # (n_spots,) totals of the spots over their median
    refined: RefinedCentre | None  # what predictions are about instead of the ridge in the latent
    coordinates: np.ndarray  # (n_spots, 2)
    spot_names: list[str]
    provenance: dict[str, Any]


def save_fitted(folder: Path, config: Config, fitted: Fitted) -> None:
    """Write a model; a folder of that name is replaced when the new one is whole."""
    context, table, refined = fitted.context, fitted.table, fitted.refined
    tensors = {f"network.{name}": tensor for name, tensor in fitted.network.state_dict().items()}
    tensors |= {"context.z": context.z, "context.code": context.code, "context.features": context.features}
    tensors |= {"code": table.code, "features": table.features, "coordinates": torch.from_numpy(fitted.coordinates)}
    if table.order is not None and context.order is not None:
        tensors |= {"order": table.order, "context.order": context.order}
    if refined is not None:
        tensors |= {"refined.pattern": refined.pattern, "refined.level": refined.level}
        if refined.cell_patterns is not None and fitted.cell_features is not None:
            tensors |= {"refined.cell_patterns": refined.cell_patterns, "cell_features": fitted.cell_features}
    tensors["exposure"] = torch.from_numpy(fitted.exposure)
    tensors["calibration.scores"] = torch.from_numpy(fitted.calibration.scores)
    values = {
        "format": _FORMAT,
        "config": config.model_dump(mode="json"),
        "genes": fitted.genes,
        "train_genes": fitted.train_genes,
        "measured_genes": fitted.measured_genes,
        "ridge_lambda": fitted.ridge_lambda,
        "cell_share": refined.cell_share if refined else 0.0,
        "spread_trend": asdict(fitted.calibration.trend),
        "share": fitted.share,
        "count_noise": None if fitted.noise is None else asdict(fitted.noise),
        "spot_names": fitted.spot_names,
        "provenance": fitted.provenance,
    }
    write_folder(folder, tensors, values)


def load_fitted(folder: Path) -> tuple[Config, Fitted]:
    """Read a saved model. Raises CheckpointError if it is missing, damaged or of another format."""
    tensors, values = read_folder(folder)
    if values.get("format") not in _READABLE or "genes" not in values:
        raise CheckpointError(
            f"{folder} is not a saved CausalGeD model of format {' or '.join(map(str, _READABLE))}; "
            "save it again with `save`"
        )
    try:
        config = Config.from_dict(values["config"], source=f"{folder}/state.json")
        if values["format"] < _FORMAT:
            config = config.with_values({"model.likelihood": "gaussian"})
        return config, _restore(config, tensors, values)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{folder} is not a whole CausalGeD model: {error!r}") from None


def _restore(config: Config, tensors: dict[str, Tensor], values: dict[str, Any]) -> Fitted:
    n_spots, n_cells = (len(tensors[f"network.autoencoder.{key}_mean"]) for key in ("st", "sc"))
    network = Network(config, n_spots, n_cells)
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    refined, cell_features = None, None
    if refines(config):
        refined = RefinedCentre(tensors["refined.pattern"], tensors["refined.level"])
        if values["cell_share"]:
            refined = refined.blend(tensors["refined.cell_patterns"], values["cell_share"])
            cell_features = tensors["cell_features"]
    noise = values.get("count_noise")
    return Fitted(
        network=network.eval(),
        context=TrainingTable(
            code=tensors["context.code"],
            features=tensors["context.features"],
            order=tensors.get("context.order"),
            z=tensors["context.z"],
        ),
        train_genes=tuple(values["train_genes"]),
        measured_genes=tuple(values["measured_genes"]),
        genes=tuple(values["genes"]),
        table=GeneTable(tensors["code"], tensors["features"], tensors.get("order")),
        cell_features=cell_features,
        ridge_lambda=values["ridge_lambda"],
        refined=refined,
        calibration=Calibration(tensors["calibration.scores"].numpy(), SpreadTrend(**values["spread_trend"])),
        noise=None if noise is None else CountNoise(**noise),
        share=values.get("share", 1.0),
        exposure=tensors["exposure"].numpy() if "exposure" in tensors else np.ones(n_spots, dtype=np.float32),
        coordinates=tensors["coordinates"].numpy(),
        spot_names=values["spot_names"],
        provenance=values["provenance"],
    )
