"""The front door: `CausalGeD(config).fit(adata_st, adata_sc)`, `.predict(genes)`, `.save(dir)`, `.load(dir)`."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cgd.calibration import LEVEL, Calibration, SpreadTrend
from cgd.config import CAUSALGED, Config, RuntimeConfig
from cgd.data.pair import make_pair
from cgd.data.preprocess import prepare
from cgd.data.protocol import FloatArray, HiddenGenes, VisiblePair, hide
from cgd.data.split import split_train_val
from cgd.errors import ConfigError, DataError, NotFittedError, closest
from cgd.model.generation import generate
from cgd.model.network import Network
from cgd.model.reference import Reference
from cgd.model.tokens import GeneTable, TrainingTable
from cgd.parallel import ALONE, Parallel
from cgd.random import derive_seed
from cgd.regression.conditional import predict_from_context
from cgd.saved_model import Fitted, load_fitted, save_fitted
from cgd.training.checkpoint import CheckpointFolder
from cgd.training.trainer import EpochReport, Progress, Trainer
from cgd.version import environment

_ReadRows = Callable[[tuple[str, ...]], np.ndarray]  # names of genes -> their scRNA-seq, (n_genes, n_cells)
_CHUNK = 2048  # scRNA-seq genes encoded at once, so that they are never all dense


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
        self._fitted: Fitted | None = None

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
        fitted, genes = self._fitted, prepared.sc_genes
        # every gene of the scRNA-seq may be asked for, not the panel's alone
        fitted.table, fitted.cell_features = self._tabulate(fitted.network, reference, genes, prepared.sc_dense)
        fitted.genes, fitted.measured_genes = genes, pair.genes
        fitted.provenance |= {"data_sha256": pair.sha256, "notes": [*prepared.notes, *hidden.notes]}
        return self

    def fit_visible(
        self,
        visible: VisiblePair,
        val: HiddenGenes,
        on_epoch: EpochReport | None = None,
        checkpoints: CheckpointFolder | None = None,
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
        target_features = reference.kernel.embed(targets)
        target_order = reference.score_order(val.genes, target_features)
        about = None
        if reference.refined is not None:
            about = reference.refined.predict(target_features, reference.compute_cell_features(targets))

        def estimate() -> FloatArray:
            table = GeneTable(network.encode_code(targets), target_features, target_order)
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
    ) -> Fitted:
        table, cell_features = self._tabulate(network, reference, visible.genes, visible.sc_rows)
        return Fitted(
            network=network,
            context=reference.context_table(network),
            train_genes=visible.train_genes,
            measured_genes=visible.train_genes,
            genes=visible.genes,
            table=table,
            cell_features=cell_features,
            ridge_lambda=reference.ridge_lambda,
            refined=reference.refined,
            calibration=calibration,
            coordinates=visible.coordinates,
            spot_names=list(visible.spot_names),
            provenance={"data_set": visible.name, "versions": environment()},
        )

    @torch.no_grad()
    def _tabulate(
        self, network: Network, reference: Reference, genes: tuple[str, ...], read: _ReadRows
    ) -> tuple[GeneTable, Tensor | None]:
        """What the scRNA-seq, as `read`, says of `genes`, and their features in the cell map, None without one."""
        codes, features, cell_features = [], [], []
        for start in range(0, len(genes), _CHUNK):
            rows = torch.from_numpy(read(genes[start : start + _CHUNK])).to(self.config.runtime.device)
            codes.append(network.encode_code(rows))
            features.append(reference.kernel.embed(rows))
            if (mapped := reference.compute_cell_features(rows)) is not None:
                cell_features.append(mapped)
        every = torch.cat(features)
        table = GeneTable(torch.cat(codes), every, reference.score_order(genes, every))
        return table, torch.cat(cell_features) if cell_features else None

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
        targets, about = self._look_up(genes)
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
        targets, about = self._look_up(genes)
        seed = self.config.seed
        z = generate(state.network, state.context, targets, state.ridge_lambda, seed, n, True, self.parallel)
        values = state.network.decode(z)
        if about is not None:
            values = values - _decode_center(state.network, state.context, targets, state.ridge_lambda) + about
        return values.cpu().numpy()

    def _look_up(self, genes: Sequence[str]) -> tuple[GeneTable, Tensor | None]:
        """The genes asked for, and what their predictions are about, (n_genes, n_spots): None for the ridge in the
        latent."""
        state = self._state()
        position = {gene: i for i, gene in enumerate(state.genes)}
        for gene in genes:
            if gene not in position:
                raise DataError(f"gene '{gene}' is not in the scRNA-seq; {closest(gene, state.genes)}")
        if len(set(genes)) < len(genes) or not genes:
            raise DataError("expected a list of distinct genes, found " + ("a repeated name" if genes else "none"))
        index = torch.tensor([position[gene] for gene in genes], device=state.table.code.device)
        targets = state.table.select(index)
        if state.refined is None:
            return targets, None
        cell_features = None if state.cell_features is None else state.cell_features[index]
        return targets, state.refined.predict(targets.features, cell_features)

    def _state(self) -> Fitted:
        if self._fitted is None:
            raise NotFittedError("this CausalGeD is not fitted; call fit(adata_st, adata_sc) or load(folder) first")
        return self._fitted

    def save(self, folder: str | Path) -> None:
        """Write the model as safetensors and JSON; a folder of that name is replaced when the new one is whole."""
        save_fitted(Path(folder), self.config, self._state())

    @classmethod
    def load(cls, folder: str | Path) -> CausalGeD:
        """Read a saved model. Raises CheckpointError if it is missing, damaged or of another format."""
        config, fitted = load_fitted(Path(folder))
        model = cls(config)
        model._fitted = fitted
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
    context: TrainingTable,
    targets: GeneTable,
    ridge_lambda: float,
    about: Tensor | None,
    parallel: Parallel,
) -> FloatArray:
    """(n_genes, n_spots) estimate that `sampling.estimate` names: mean over the ensemble, or over draws.

    `about` (n_genes, n_spots), if any, takes the place of the diffusion's own centre, the ridge in the latent.
    """
    sampling = network.config.sampling
    center = _decode_center(network, context, targets, ridge_lambda)
    about = center if about is None else about
    if sampling.estimate == "center":
        return about.cpu().numpy()
    draw = sampling.estimate == "draws"
    n = sampling.n_samples if draw else sampling.n_ensemble
    z = generate(network, context, targets, ridge_lambda, network.config.seed, n, draw, parallel)
    # what the diffusion adds to its own centre is added to the one that takes its place
    return (network.decode(z.mean(0)) - center + about).cpu().numpy()


def _decode_center(network: Network, context: TrainingTable, targets: GeneTable, ridge_lambda: float) -> Tensor:
    """(n_genes, n_spots) expression at the ridge prediction in the latent."""
    z, _ = predict_from_context(context.features, context.z[None], targets.features, ridge_lambda)
    return network.decode(z[0])
