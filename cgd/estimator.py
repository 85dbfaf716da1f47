"""The front door: `CausalGeD(config).fit(adata_st, adata_sc)`, `.predict(genes)`, `.save(dir)`, `.load(dir)`."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cgd.calibration import LEVEL, Calibration, SpreadTrend
from cgd.config import CAUSALGED, Config, RuntimeConfig
from cgd.data.pair import make_pair
from cgd.data.preprocess import PreparedPair, prepare
from cgd.data.protocol import FloatArray, HiddenGenes, VisiblePair, hide
from cgd.data.split import split_train_val
from cgd.errors import CheckpointError, ConfigError, DataError, NotFittedError, closest
from cgd.model.generation import generate
from cgd.model.network import Network
from cgd.model.reference import Reference, refines
from cgd.model.refinement import RefinedCentre
from cgd.model.tokens import GeneTable
from cgd.parallel import ALONE, Parallel
from cgd.random import derive_seed
from cgd.regression.conditional import predict_from_context
from cgd.training.checkpoint import read_folder, write_folder
from cgd.training.trainer import Checkpoints, EpochReport, Progress, Trainer
from cgd.version import environment

_FORMAT = 4  # of a saved model
_CHUNK = 2048  # scRNA-seq genes encoded at once, so that they are never all dense


@dataclass
class _Fitted:
    network: Network
    context: GeneTable
    train_genes: tuple[str, ...]
    measured_genes: tuple[str, ...]
    genes: tuple[str, ...]
    code: Tensor
    features: Tensor
    cell_features: Tensor | None
    order: Tensor | None
    ridge_lambda: float
    calibration: Calibration
    refined: RefinedCentre | None
    coordinates: np.ndarray
    spot_names: list[str]
    provenance: dict[str, Any]


class CausalGeD:
    """Predicts the spatial expression of genes that were not measured in the ST, from the scRNA-seq.

    Source: Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751. `predict` has no argument, and the fitted state no
    field, that could carry ST values of the genes asked for.

    Parameters
    ----------
    config
        Hyper-parameters; the defaults when omitted.

    Examples
    --------
    >>> model = CausalGeD().fit(adata_st, adata_sc)  # doctest: +SKIP
    >>> predicted = model.predict(["Gad1", "Slc17a7"])  # doctest: +SKIP
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        if self.config.method != CAUSALGED:
            raise ConfigError(f"method = {self.config.method} is another method; `cgd.evaluate` runs it")
        self.progress: Progress | None = None
        self.parallel = ALONE  # the processes it was fitted by, which also share out its draws
        self._fitted: _Fitted | None = None

    # ---- fitting ----------------------------------------------------------------------------------------------------

    def fit(self, adata_st: ad.AnnData, adata_sc: ad.AnnData, on_epoch: EpochReport | None = None) -> CausalGeD:
        """Train on the genes measured in both; a `split.val_fraction` of them decides when to stop.

        Parameters
        ----------
        adata_st
            (n_spots, n_genes) raw counts with coordinates in `obsm["spatial"]`.
        adata_sc
            (n_cells, n_genes) raw counts. Every gene detected in it can be predicted.
        on_epoch
            Called with the metrics of each epoch.

        Raises
        ------
        DataError
            The counts cannot be used, no gene is shared, or too few are.
        TrainingDiverged
            The loss stopped being finite.
        """
        pair = make_pair(adata_st, adata_sc)
        prepared = prepare(pair, self.config.data)
        split = split_train_val(prepared.panel, self.config.split)
        hidden = hide(prepared, split, self.config)
        _, reference = self.fit_visible(hidden.visible, hidden.val, on_epoch)
        assert self._fitted is not None
        self._encode_all(self._fitted, reference, prepared)
        self._fitted.measured_genes = pair.genes
        self._fitted.provenance |= {"data_sha256": pair.sha256, "notes": [*prepared.notes, *hidden.notes]}
        return self

    def fit_visible(
        self,
        visible: VisiblePair,
        val: HiddenGenes,
        on_epoch: EpochReport | None = None,
        checkpoints: Checkpoints | None = None,
        parallel: Parallel = ALONE,
    ) -> tuple[Network, Reference]:
        """Train on a visible pair; `val` scores validation genes after each epoch and calibrates the intervals, and is
        used for nothing else. Several processes that train together then predict together, too: what one of them is
        asked, all must be."""
        config = self.config
        _check_machine(config.runtime)
        torch.set_num_threads(config.runtime.n_threads)
        reference = Reference.build(visible, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "init"))
            network = Network(config, visible.x_st.shape[1], visible.x_sc.shape[1])
        network.to(config.runtime.device)
        if config.runtime.compile:
            network.cat.compile_blocks()
        targets = torch.from_numpy(visible.sc_rows(val.genes)).to(config.runtime.device)
        target_features = reference.features_of(targets)
        target_order = reference.order_of(val.genes, target_features)
        about = None
        if reference.refined is not None:
            about = reference.refined.predict(target_features, reference.cell_features_of(targets))

        def estimate() -> FloatArray:
            code = network.encode_code(targets)
            table = GeneTable(code, code, target_features, code, target_order)
            context = reference.context_table(network)
            return _estimate(network, context, table, reference.ridge_lambda, about, parallel)

        def validate() -> float:
            estimated = estimate()
            if not parallel.is_main:
                return math.nan
            scores = val.score_heldout(estimated)["pcc"]
            return float(scores.mean()) if scores.notna().any() else 0.0

        trainer = Trainer(network, reference, validate, on_epoch, checkpoints, parallel)
        self.progress = trainer.fit()
        network.eval()
        trend, center = SpreadTrend.fit(visible.x_st), estimate()
        calibration = Calibration(val.conformity(center, trend(center)), trend)
        self._fitted = self._collect(network, reference, visible, calibration)
        self.parallel = parallel
        return network, reference

    @torch.no_grad()
    def _collect(
        self, network: Network, reference: Reference, visible: VisiblePair, calibration: Calibration
    ) -> _Fitted:
        x_sc = torch.from_numpy(visible.x_sc).to(self.config.runtime.device)
        features = reference.features_of(x_sc)
        return _Fitted(
            network=network,
            context=reference.context_table(network),
            train_genes=visible.train_genes,
            measured_genes=visible.train_genes,
            genes=visible.genes,
            code=network.encode_code(x_sc),
            features=features,
            cell_features=reference.cell_features_of(x_sc),
            order=reference.order_of(visible.genes, features),
            ridge_lambda=reference.ridge_lambda,
            refined=reference.refined,
            calibration=calibration,
            coordinates=visible.coordinates,
            spot_names=list(visible.spot_names),
            provenance={"data_set": visible.name, "versions": environment()},
        )

    @torch.no_grad()
    def _encode_all(self, state: _Fitted, reference: Reference, prepared: PreparedPair) -> None:
        """Let every gene of the scRNA-seq be asked for, not the panel's alone."""
        codes, features, cell_features = [], [], []
        for start in range(0, len(prepared.sc_genes), _CHUNK):
            rows = torch.from_numpy(prepared.sc_dense(prepared.sc_genes[start : start + _CHUNK]))
            rows = rows.to(self.config.runtime.device)
            codes.append(state.network.encode_code(rows))
            features.append(reference.features_of(rows))
            if (mapped := reference.cell_features_of(rows)) is not None:
                cell_features.append(mapped)
        state.genes, state.code, state.features = prepared.sc_genes, torch.cat(codes), torch.cat(features)
        state.cell_features = torch.cat(cell_features) if cell_features else None
        state.order = reference.order_of(prepared.sc_genes, state.features)

    # ---- predicting -------------------------------------------------------------------------------------------------

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes that can be predicted: those of the scRNA-seq."""
        return self._state().genes

    @property
    def measured_genes(self) -> tuple[str, ...]:
        """Those of `genes` whose ST values the model was given."""
        return self._state().measured_genes

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self._state().network.parameters())

    def predict(self, genes: str | Iterable[str]) -> ad.AnnData:
        """Predict the spatial expression of genes of the scRNA-seq.

        Parameters
        ----------
        genes
            Names as in the scRNA-seq.

        Returns
        -------
        AnnData
            (n_spots, n_genes): X the estimate `sampling.estimate` names, log-normalised expression as in Eq. 4;
            `layers["low"]` and `layers["high"]` the interval of 90 % (see `predict_interval`; `uns` says what it may
            claim); `layers["std"]` the spread of `sampling.n_samples` draws where there are at least two;
            `obsm["spatial"]` the coordinates; `uns["causalged"]` provenance as a JSON string.

        Raises
        ------
        DataError
            A gene is not in the scRNA-seq (the closest name is suggested), or is asked for twice.
        """
        state, names = self._state(), [genes] if isinstance(genes, str) else list(genes)
        draws = self.predict_draws(names) if self.config.sampling.n_samples else None
        mean = self.predict_mean(names, draws)
        var = pd.DataFrame({"measured_in_st": pd.Index(names).isin(state.measured_genes)}, index=pd.Index(names))
        predicted = ad.AnnData(mean.T.copy(), obs=pd.DataFrame(index=pd.Index(state.spot_names)), var=var)
        low, high = state.calibration.interval(mean)
        predicted.layers["low"], predicted.layers["high"] = low.T.copy(), high.T.copy()
        if draws is not None and len(draws) > 1:
            predicted.layers["std"] = draws.std(axis=0, ddof=1).T.copy()
        predicted.obsm["spatial"] = state.coordinates
        provenance = {**state.provenance, "config": self.config.model_dump(mode="json")}
        provenance["interval"] = {"level": LEVEL, "note": state.calibration.note()}
        predicted.uns["causalged"] = json.dumps(provenance)
        return predicted

    def predict_mean(self, genes: Sequence[str], draws: FloatArray | None = None) -> FloatArray:
        """(n_genes, n_spots) estimate that `sampling.estimate` names; given `draws`, nothing is drawn again."""
        state = self._state()
        if self.config.sampling.estimate == "draws" and draws is not None:
            return draws.mean(axis=0)
        targets, about = self._targets(genes), self._about(genes)
        return _estimate(state.network, state.context, targets, state.ridge_lambda, about, self.parallel)

    def predict_interval(self, genes: str | Iterable[str], level: float = LEVEL) -> tuple[FloatArray, FloatArray]:
        """Intervals about the estimate that hold a share `level` of a gene's values, on average over genes.

        Split-conformal: the width comes from how far the estimate was off for the validation genes. See
        `cgd.calibration` for what is guaranteed, and `calibration.note(level)` for whether it is with so few genes.

        Parameters
        ----------
        genes
            Names as in the scRNA-seq.
        level
            Between 0 and 1.

        Returns
        -------
        low, high
            (n_genes, n_spots) log-normalised expression, never below 0; with fewer than two validation genes that can
            be scored `high` is infinite.

        Raises
        ------
        DataError
            As `predict`.
        ConfigError
            `level` is not between 0 and 1.
        """
        names = [genes] if isinstance(genes, str) else list(genes)
        return self.calibration.interval(self.predict_mean(names), level)

    @property
    def calibration(self) -> Calibration:
        """What the intervals rest on."""
        return self._state().calibration

    @torch.no_grad()
    def predict_draws(self, genes: Sequence[str]) -> FloatArray:
        """(n_samples, n_genes, n_spots) independent draws of the reverse process."""
        state, n = self._state(), self.config.sampling.n_samples
        seed, targets, about = self.config.seed, self._targets(genes), self._about(genes)
        z = generate(state.network, state.context, targets, state.ridge_lambda, seed, n, True, self.parallel)
        values = state.network.decode(z)
        if about is not None:
            values = values - _center(state.network, state.context, targets, state.ridge_lambda) + about
        return values.cpu().numpy()

    def _targets(self, genes: Sequence[str]) -> GeneTable:
        state, index = self._state(), self._index(genes)
        code = state.code[index]
        return GeneTable(code, code, state.features[index], code, None if state.order is None else state.order[index])

    def _about(self, genes: Sequence[str]) -> Tensor | None:
        """(n_genes, n_spots) what a prediction is about; None for the ridge in the latent."""
        state, index = self._state(), self._index(genes)
        if state.refined is None:
            return None
        cell_features = None if state.cell_features is None else state.cell_features[index]
        return state.refined.predict(state.features[index], cell_features)

    def _index(self, genes: Sequence[str]) -> Tensor:
        state = self._state()
        position = {gene: i for i, gene in enumerate(state.genes)}
        for gene in genes:
            if gene not in position:
                raise DataError(f"gene '{gene}' is not in the scRNA-seq; {closest(gene, state.genes)}")
        if len(set(genes)) < len(genes) or not genes:
            raise DataError("expected a list of distinct genes, found " + ("a repeated name" if genes else "none"))
        return torch.tensor([position[gene] for gene in genes], device=state.code.device)

    def _state(self) -> _Fitted:
        if self._fitted is None:
            raise NotFittedError("this CausalGeD is not fitted; call fit(adata_st, adata_sc) or load(folder) first")
        return self._fitted

    # ---- saving -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the model as safetensors and JSON; a folder of that name is replaced when the new one is whole."""
        state = self._state()
        tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
        tensors |= {f"context.{key}": getattr(state.context, key) for key in ("z", "code", "features", "center")}
        tensors |= {"code": state.code, "features": state.features, "coordinates": torch.from_numpy(state.coordinates)}
        if state.order is not None and state.context.order is not None:
            tensors |= {"order": state.order, "context.order": state.context.order}
        if state.refined is not None:
            tensors |= {"refined.pattern": state.refined.pattern, "refined.level": state.refined.level}
            if state.refined.cell_patterns is not None and state.cell_features is not None:
                tensors |= {"refined.cell_patterns": state.refined.cell_patterns, "cell_features": state.cell_features}
        tensors["calibration.scores"] = torch.from_numpy(state.calibration.scores)
        values = {
            "format": _FORMAT,
            "config": self.config.model_dump(mode="json"),
            "genes": state.genes,
            "train_genes": state.train_genes,
            "measured_genes": state.measured_genes,
            "ridge_lambda": state.ridge_lambda,
            "cell_share": state.refined.cell_share if state.refined else 0.0,
            "spread_trend": asdict(state.calibration.trend),
            "spot_names": state.spot_names,
            "provenance": state.provenance,
        }
        write_folder(Path(folder), tensors, values)

    @classmethod
    def load(cls, folder: str | Path) -> CausalGeD:
        """Read a saved model. Raises CheckpointError if it is missing, damaged or of another format."""
        tensors, values = read_folder(Path(folder))
        if values.get("format") != _FORMAT or "genes" not in values:
            raise CheckpointError(
                f"{folder} is not a saved CausalGeD model of format {_FORMAT}; save it again with `save`"
            )
        try:
            return cls._restore(tensors, values, source=f"{folder}/state.json")
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{folder} is not a whole CausalGeD model: {error!r}") from None

    @classmethod
    def _restore(cls, tensors: dict[str, Tensor], values: dict[str, Any], source: str) -> CausalGeD:
        model = cls(Config.from_dict(values["config"], source=source))
        n_spots, n_cells = (len(tensors[f"network.autoencoder.{key}_mean"]) for key in ("st", "sc"))
        network = Network(model.config, n_spots, n_cells)
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
        network.eval()
        refined = None
        if refines(model.config):
            refined = RefinedCentre(tensors["refined.pattern"], tensors["refined.level"])
        cell_features = None
        if refined is not None and values["cell_share"]:
            refined = refined.blend(tensors["refined.cell_patterns"], values["cell_share"])
            cell_features = tensors["cell_features"]
        context = {key: tensors[f"context.{key}"] for key in ("z", "code", "features", "center")}
        model._fitted = _Fitted(
            network=network,
            context=GeneTable(**context, order=tensors.get("context.order")),
            train_genes=tuple(values["train_genes"]),
            measured_genes=tuple(values["measured_genes"]),
            genes=tuple(values["genes"]),
            code=tensors["code"],
            features=tensors["features"],
            cell_features=cell_features,
            order=tensors.get("order"),
            ridge_lambda=values["ridge_lambda"],
            refined=refined,
            calibration=Calibration(tensors["calibration.scores"].numpy(), SpreadTrend(**values["spread_trend"])),
            coordinates=tensors["coordinates"].numpy(),
            spot_names=values["spot_names"],
            provenance=values["provenance"],
        )
        return model


def _check_machine(runtime: RuntimeConfig) -> None:
    """Raise ConfigError where this machine cannot do what is asked of it."""
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device = cuda, but torch sees no CUDA device; set runtime.device = cpu")
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
    if runtime.compile and not any(shutil.which(name) for name in compilers):
        raise ConfigError("runtime.compile = True needs a C++ compiler (g++ or clang++), and there is none on the path")


@torch.no_grad()
def _estimate(
    network: Network,
    context: GeneTable,
    targets: GeneTable,
    ridge_lambda: float,
    about: Tensor | None,
    parallel: Parallel,
) -> FloatArray:
    """(n_genes, n_spots) estimate that `sampling.estimate` names: mean over the ensemble, or over draws.

    `about` (n_genes, n_spots), if any, takes the place of the diffusion's own centre, the ridge in the latent.
    """
    sampling = network.config.sampling
    center = _center(network, context, targets, ridge_lambda)
    about = center if about is None else about
    if sampling.estimate == "center":
        return about.cpu().numpy()
    draw = sampling.estimate == "draws"
    n = sampling.n_samples if draw else sampling.n_ensemble
    z = generate(network, context, targets, ridge_lambda, network.config.seed, n, draw, parallel)
    # what the diffusion adds to its own centre is added to the one that takes its place
    return (network.decode(z.mean(0)) - center + about).cpu().numpy()


def _center(network: Network, context: GeneTable, targets: GeneTable, ridge_lambda: float) -> Tensor:
    """(n_genes, n_spots) expression at the ridge prediction in the latent."""
    z, _ = predict_from_context(context.features, context.z[None], targets.features, ridge_lambda)
    return network.decode(z[0])
