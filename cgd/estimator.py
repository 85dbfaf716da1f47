"""The front door: `CausalGeD(config).fit(adata_st, adata_sc)`, `.predict(genes)`, `.save(dir)`, `.load(dir)`."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from cgd.calibration import LEVEL, Calibration, SpreadTrend
from cgd.config import CAUSALGED, Config, RuntimeConfig
from cgd.data.pair import make_pair
from cgd.data.preprocess import prepare
from cgd.data.protocol import FloatArray, HiddenGenes, VisiblePair, hide
from cgd.data.split import split_train_val
from cgd.errors import ConfigError, DataError, NotFittedError, closest
from cgd.metrics.draws import link_neighbours, score_crps
from cgd.model.counts import (
    SPREADS,
    CountNoise,
    choose_genes,
    choose_spots,
    fit_count_noise,
    fit_neighbours,
    is_better,
    normalise_counts,
)
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
        reference = self.fit_visible(hidden.visible, hidden.val, hidden.measured, on_epoch)
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
        measured: VisiblePair,
        on_epoch: EpochReport | None = None,
        checkpoints: CheckpointFolder | None = None,
        parallel: Parallel = ALONE,
    ) -> Reference:
        """Train on a visible pair; `val` scores validation genes after each epoch and calibrates counts and intervals.
        Predictions are from all genes `measured`, validation genes among them. Several processes that train together
        then predict together, too: what one of them is asked, all must be.

        Returns
        -------
        Reference
            Of the genes measured.
        """
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
        validation = _Validation(network, reference, visible, val, parallel)
        trainer = Trainer(network, reference, validation.run, on_epoch, checkpoints, parallel)
        needs_network = config.sampling.estimate != "center" or config.sampling.n_samples
        self.progress = trainer.fit() if needs_network else trainer.initialise()
        network.eval()
        share, noise = validation.choose_share(), validation.calibrate_noise()
        trend, center = SpreadTrend.fit(visible.x_st), validation.predict_mean(share, noise)
        calibration = Calibration(val.conformity(center, trend(center)), trend)
        reference = Reference.build(measured, config)
        self._fitted = self._collect(network, reference, visible, measured, calibration, noise, share)
        self.parallel = parallel
        return reference

    @torch.no_grad()
    def _collect(
        self,
        network: Network,
        reference: Reference,
        visible: VisiblePair,
        measured: VisiblePair,
        calibration: Calibration,
        noise: CountNoise | None,
        share: float,
    ) -> Fitted:
        table, cell_features = self._tabulate(network, reference, visible.genes, visible.sc_rows)
        return Fitted(
            network=network,
            context=reference.context_table(network),
            train_genes=visible.train_genes,
            measured_genes=measured.train_genes,
            genes=visible.genes,
            table=table,
            cell_features=cell_features,
            ridge_lambda=reference.ridge_lambda,
            refined=reference.refined,
            calibration=calibration,
            noise=noise,
            share=share,
            exposure=measured.measure_exposure(),
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
    def share(self) -> float:
        """How much of what the network adds to its centre the best guess takes."""
        return self._state().share

    @share.setter
    def share(self, share: float) -> None:
        self._state().share = share

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self._state().network.parameters())

    def predict(self, genes: str | Iterable[str], with_draws: bool = False) -> ad.AnnData:
        """Predict the spatial expression of genes of the scRNA-seq.

        Parameters
        ----------
        genes
            Names as in the scRNA-seq.
        with_draws
            Whether to add the draws themselves.

        Returns
        -------
        AnnData
            (n_spots, n_genes): X the estimate `sampling.estimate` names, log-normalised expression as in Eq. 4;
            `layers["low"]` and `layers["high"]` the interval of 90 % (see `predict_interval`; `uns` says what it may
            claim); `layers["std"]` the spread of `sampling.n_samples` draws where there are at least two; with draws
            `layers["draw_0"]` and so on, each a whole tissue: the genes of one draw belong together;
            `obsm["spatial"]` the coordinates; `uns["causalged"]` provenance as a JSON string.

        Raises
        ------
        DataError
            A gene is not in the scRNA-seq (the closest name is suggested), or is asked for twice.
        ConfigError
            Draws are asked for, and `sampling.n_samples` is 0.
        """
        if with_draws and not self.config.sampling.n_samples:
            raise ConfigError("draws are asked for, and sampling.n_samples is 0: fit with at least 1")
        state, names = self._state(), [genes] if isinstance(genes, str) else list(genes)
        draws = self.predict_draws(names) if self.config.sampling.n_samples else None
        mean = self.predict_mean(names, draws)
        var = pd.DataFrame({"measured_in_st": pd.Index(names).isin(state.measured_genes)}, index=pd.Index(names))
        predicted = ad.AnnData(mean.T.copy(), obs=pd.DataFrame(index=pd.Index(state.spot_names)), var=var)
        low, high = state.calibration.interval(mean)
        predicted.layers["low"], predicted.layers["high"] = low.T.copy(), high.T.copy()
        if draws is not None and len(draws) > 1:
            predicted.layers["std"] = draws.std(axis=0, ddof=1).T.copy()
        if with_draws and draws is not None:
            predicted.layers.update({f"draw_{i}": draw.T.copy() for i, draw in enumerate(draws)})
        predicted.obsm["spatial"] = state.coordinates
        provenance = {**state.provenance, "config": self.config.model_dump(mode="json")}
        provenance["interval"] = {"level": LEVEL, "note": state.calibration.note()}
        predicted.uns["causalged"] = json.dumps(provenance)
        return predicted

    def predict_mean(self, genes: Sequence[str], draws: FloatArray | None = None) -> FloatArray:
        """(n_genes, n_spots) estimate that `sampling.estimate` names; given `draws`, nothing is drawn again."""
        state = self._state()
        if self.config.sampling.estimate == "draws":
            return (self.predict_draws(genes) if draws is None else draws).mean(axis=0)
        targets, about = self._look_up(genes)
        return _estimate(state.network, state.context, targets, state.ridge_lambda, about, self.parallel, state.share)

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

    def predict_draws(self, genes: Sequence[str]) -> FloatArray:
        """(n_samples, n_genes, n_spots) draws, log-normalised as in Eq. 4.

        The genes of one draw belong together, one tissue that may be. Under a count likelihood these are counts at the
        spots' depth, normalised, and so never negative; under a Gaussian one they are what the decoder says.
        """
        fields = self._draw_fields(genes)
        if self._state().noise is None:
            return fields
        return normalise_counts(self._draw_counts(fields), self._state().exposure)

    def predict_counts(self, genes: Sequence[str]) -> npt.NDArray[np.int32]:
        """(n_samples, n_genes, n_spots) counts behind `predict_draws`.

        Raises
        ------
        ConfigError
            `model.likelihood` is gaussian, which has no counts.
        """
        if self._state().noise is None:
            raise ConfigError(
                "there are no counts: model.likelihood is gaussian, or the model was fitted without draws or by a "
                "version that drew none; fit with model.likelihood = negative_binomial and sampling.n_samples above 0"
            )
        return self._draw_counts(self._draw_fields(genes))

    def _draw_fields(self, genes: Sequence[str]) -> FloatArray:
        """(n_samples, n_genes, n_spots) draws of the expression behind the counts."""
        state, n = self._state(), self.config.sampling.n_samples
        targets, about = self._look_up(genes)
        fields, center = _draw_fields(
            state.network, state.context, targets, state.ridge_lambda, about, self.config.seed, n, self.parallel
        )
        return fields if state.noise is None else state.noise.widen(fields, center)

    def _draw_counts(self, fields: FloatArray) -> npt.NDArray[np.int32]:
        state = self._state()
        assert state.noise is not None
        graph = link_neighbours(state.coordinates, fields.shape[-1]) if state.noise.neighbours else None
        return draw_members(state.noise, fields, state.exposure, graph, self.config.seed)

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


_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of what the network adds to its centre
STOPPING_DRAWS = 8  # of validation genes after each epoch, from the same noise each time
CALIBRATION_DRAWS = 32
MOST_GENES = 100  # of the validation genes: what is looked at after each epoch, and to calibrate draws
_MORAN_GENES, _MORAN_DRAWS = 60, 2


class _Validation:
    """What validation genes say of a network: whether to stop, and how its draws are calibrated."""

    def __init__(
        self, network: Network, reference: Reference, visible: VisiblePair, val: HiddenGenes, parallel: Parallel
    ) -> None:
        self.network, self.reference, self.val, self.parallel = network, reference, val, parallel
        self.config, self.coordinates = network.config, visible.coordinates
        device = self.config.runtime.device
        self.targets = torch.from_numpy(visible.sc_rows(val.genes)).to(device)
        self.features = reference.kernel.embed(self.targets)
        self.order = reference.score_order(val.genes, self.features)
        self.about = None
        if reference.refined is not None:
            self.about = reference.refined.predict(self.features, reference.compute_cell_features(self.targets))
        self.exposure = visible.measure_exposure()
        self.genes, self.spots = val.pick_scored(MOST_GENES), choose_spots(len(self.exposure))
        self.draws_counts = self.config.model.likelihood != "gaussian"
        # of an untrained centre and training genes alone: what a network draws must not decide how it is judged
        self.noise: CountNoise | None = None
        if self.draws_counts and self.config.sampling.n_samples:
            self.noise = fit_training_noise(reference.left_out.cpu().numpy(), visible, self.config.model.likelihood)

    @property
    def can_score_draws(self) -> bool:
        return self.config.sampling.n_samples > 1 and len(self.genes) > 0

    def run(self) -> dict[str, float]:
        """Scores after an epoch; NaN on all ranks but the first."""
        estimated = self.estimate()
        draws = self._draw(STOPPING_DRAWS)[0][:, :, self.spots] if self.can_score_draws else None
        if not self.parallel.is_main:
            return {"val_pcc": math.nan}
        scores = self.val.score_heldout(estimated)["pcc"]
        found = {"val_pcc": float(scores.mean()) if scores.notna().any() else 0.0}
        if draws is not None:
            if self.noise is not None:
                exposure = self.exposure[self.spots]
                counts = draw_members(replace(self.noise, neighbours=0.0), draws, exposure, None, self.config.seed)
                draws = normalise_counts(counts, exposure)
            found["val_crps"] = self.val.measure_crps(draws, self.genes, self.spots)
        return found

    def estimate(self, share: float = 1.0) -> FloatArray:
        """(n_val, n_spots) best guess."""
        return _estimate(
            self.network, self._context(), self._table(), self.reference.ridge_lambda, self.about, self.parallel, share
        )

    def choose_share(self) -> float:
        """How much of what the network adds to its centre helps validation genes; 1 where there is no centre."""
        if self.config.model.center == "none" or self.config.sampling.estimate != "posterior_mean":
            return 1.0
        center, whole = self.estimate(0.0), self.estimate(1.0)
        scores = [self.val.score_heldout(center + share * (whole - center))["pcc"].mean() for share in _SHARES]
        return 1.0 if np.isnan(scores).all() else _SHARES[int(np.nanargmax(scores))]

    def calibrate_noise(self) -> CountNoise | None:
        """The noise that makes the network's draws score best; None where there is none."""
        if self.noise is None or not self.can_score_draws:
            return self.noise
        draws, center = self._draw(min(CALIBRATION_DRAWS, 2 * self.config.sampling.n_samples))
        return calibrate_noise(self.noise, draws, self.val, self.genes, self.exposure, self.coordinates, center)

    def predict_mean(self, share: float, noise: CountNoise | None) -> FloatArray:
        """(n_val, n_spots) best guess as the fitted model makes it."""
        if self.config.sampling.estimate != "draws":
            return self.estimate(share)
        fields, center = self._draw(self.config.sampling.n_samples, np.arange(len(self.val.genes)))
        if noise is None:
            return fields.mean(axis=0)
        graph = link_neighbours(self.coordinates, len(self.exposure)) if noise.neighbours else None
        counts = draw_members(noise, noise.widen(fields, center), self.exposure, graph, self.config.seed)
        return normalise_counts(counts, self.exposure).mean(axis=0)

    def _draw(self, n: int, genes: npt.NDArray[np.intp] | None = None) -> tuple[FloatArray, FloatArray]:
        """(n, G, S) draws of the expression behind the counts, of the genes looked at or at some places, and their
        centre."""
        index = torch.from_numpy(self.genes if genes is None else genes).to(self.targets.device)
        about = None if self.about is None else self.about[index]
        targets, ridge_lambda = self._table().select(index), self.reference.ridge_lambda
        seed = derive_seed(self.config.seed, "validation")
        return _draw_fields(self.network, self._context(), targets, ridge_lambda, about, seed, n, self.parallel)

    @torch.no_grad()
    def _table(self) -> GeneTable:
        return GeneTable(self.network.encode_code(self.targets), self.features, self.order)

    def _context(self) -> TrainingTable:
        return self.reference.context_table(self.network)


def fit_training_noise(left_out: FloatArray, visible: VisiblePair, kind: str) -> CountNoise:
    """The count noise of training genes about predictions (n, S) of each from the others."""
    genes, spots = choose_genes(len(left_out)), choose_spots(left_out.shape[1])
    truth, exposure = visible.x_st[np.ix_(genes, spots)], visible.measure_exposure()[spots]
    return fit_count_noise(
        left_out[np.ix_(genes, spots)][None],
        exposure,
        lambda draws: float(score_crps(draws, truth).mean()),
        "poisson" if kind == "poisson" else "negative_binomial",
    )[0]


def calibrate_noise(
    noise: CountNoise,
    fields: FloatArray,
    val: HiddenGenes,
    genes: npt.NDArray[np.intp],
    exposure: FloatArray,
    coordinates: FloatArray,
    center: FloatArray | None = None,
) -> CountNoise:
    """`noise` with the level, the dispersion and what neighbours share that suit draws of validation genes, and how
    far apart the draws are to lie.

    Parameters
    ----------
    fields
        (n, len(genes), S) draws of the expression behind the counts of the validation genes at the places `genes`.
    center
        (len(genes), S) that they are draws about; without one their spread is left as it is.
    """
    spots = choose_spots(len(exposure))

    def fit(start: CountNoise) -> tuple[CountNoise, float]:
        widened = fields if center is None else start.widen(fields, center)
        return fit_count_noise(
            widened[:, :, spots],
            exposure[spots],
            lambda draws: val.measure_crps(draws, genes, spots),
            start=start,
            free=("level", "dispersion"),
        )

    best, least = fit(noise)
    for spread in () if center is None else SPREADS:
        other, found = fit(replace(noise, spread=spread))
        if is_better(found, least, len(genes)):
            best, least = other, found
    noise = best
    if center is not None:
        fields = noise.widen(fields, center)
    graph, some = link_neighbours(coordinates, len(exposure)), slice(_MORAN_GENES)
    return fit_neighbours(
        noise,
        np.broadcast_to(fields, (max(len(fields), _MORAN_DRAWS), *fields.shape[1:]))[:_MORAN_DRAWS, some],
        exposure,
        graph,
        lambda draws: val.measure_moran_excess(draws, genes[some], graph),
    )


def draw_members(
    noise: CountNoise, fields: FloatArray, exposure: FloatArray, graph: sp.csr_matrix | None, seed: int
) -> npt.NDArray[np.int32]:
    """(n, G, S) counts about fields (n, G, S). Each draw has its own stream: the first are the same however many."""
    counts = [
        noise.draw(field[None], exposure, np.random.default_rng(derive_seed(seed, "counts", i)), graph)[0]
        for i, field in enumerate(fields)
    ]
    return np.stack(counts)


@torch.no_grad()
def _draw_fields(
    network: Network,
    context: TrainingTable,
    targets: GeneTable,
    ridge_lambda: float,
    about: Tensor | None,
    seed: int,
    n: int,
    parallel: Parallel,
) -> tuple[FloatArray, FloatArray]:
    """(n, n_genes, n_spots) draws of the reverse process, decoded, about `about` where that takes the place of the
    diffusion's own centre; and (n_genes, n_spots) what they are about."""
    values = network.decode(generate(network, context, targets, ridge_lambda, seed, n, True, parallel))
    if network.config.model.center == "none":
        return values.cpu().numpy(), values.mean(0).cpu().numpy()
    center = _decode_center(network, context, targets, ridge_lambda)
    about = center if about is None else about
    return (values - center + about).cpu().numpy(), about.cpu().numpy()


@torch.no_grad()
def _estimate(
    network: Network,
    context: TrainingTable,
    targets: GeneTable,
    ridge_lambda: float,
    about: Tensor | None,
    parallel: Parallel,
    share: float,
) -> FloatArray:
    """(n_genes, n_spots) estimate that `sampling.estimate` names: mean over the ensemble, or over draws.

    `about` (n_genes, n_spots), if any, takes the place of the diffusion's own centre, the ridge in the latent; a
    `share` of what the diffusion adds to it is added.
    """
    sampling = network.config.sampling
    center = _decode_center(network, context, targets, ridge_lambda)
    about = center if about is None else about
    if sampling.estimate == "center" or share == 0:
        return about.cpu().numpy()
    draw = sampling.estimate == "draws"
    n = sampling.n_samples if draw else sampling.n_ensemble
    z = generate(network, context, targets, ridge_lambda, network.config.seed, n, draw, parallel)
    # what the diffusion adds to its own centre is added to the one that takes its place
    return (share * (network.decode(z.mean(0)) - center) + about).cpu().numpy()


def _decode_center(network: Network, context: TrainingTable, targets: GeneTable, ridge_lambda: float) -> Tensor:
    """(n_genes, n_spots) expression at the ridge prediction in the latent."""
    z, _ = predict_from_context(context.features, context.z[None], targets.features, ridge_lambda)
    return network.decode(z[0])
