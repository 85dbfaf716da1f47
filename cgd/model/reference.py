"""What training and prediction need besides the network: the visible expression, the kernel features of the
scRNA-seq, the ridge penalty, the centre of a prediction and the order of the genes. Made once per trial from a
`VisiblePair`.

Shapes: n training genes, G genes, S spots, C cells, r features, K latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cgd.config import Config
from cgd.data.graph import Edges, causal_depth
from cgd.data.protocol import VisiblePair
from cgd.errors import DataError
from cgd.model.autoencoder import Misfit
from cgd.model.cell_map import CellMap
from cgd.model.kernel import GeneKernel
from cgd.model.network import Network
from cgd.model.refinement import RefinedCentre
from cgd.model.tokens import TrainingTable
from cgd.regression.conditional import predict_from_context
from cgd.regression.ridge import fit_ridge_lambda, leave_one_out_operator, standardise_residuals


def granger_f(expression: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(n_genes, n_genes) F statistics of the lag-1 Granger test, [i, j]: does gene i help to predict gene j.

    The spots are taken in the order they are given, as a series; each F compares y_t ~ y_{t-1} with
    y_t ~ y_{t-1} + x_{t-1} (1 and n_spots - 4 degrees of freedom), computed for all pairs at once from partial
    correlations. A gene that does not vary, and a gene against itself, score 0.

    Parameters
    ----------
    expression
        (n_genes, n_spots) visible ST expression.

    Raises
    ------
    ValueError
        Fewer than 6 spots.
    """
    n_spots = expression.shape[1]
    if n_spots < 6:
        raise ValueError(f"the lag-1 Granger test needs at least 6 spots, got {n_spots}")
    now, past = _standardise(expression[:, 1:]), _standardise(expression[:, :-1])
    n = n_spots - 1
    cause_effect = past @ now.T / n  # corr(x_{t-1}, y_t)
    own = (past * now).sum(1) / n  # corr(y_{t-1}, y_t)
    lagged = past @ past.T / n  # corr(x_{t-1}, y_{t-1})
    spread = (1 - own**2)[None, :] * (1 - lagged**2)
    # F of one regressor added to another is a function of their partial correlation alone: no regression is solved
    numerator = (cause_effect - lagged * own[None, :]) ** 2
    partial = np.divide(numerator, spread, out=np.zeros_like(spread), where=spread > 1e-10).clip(0, 1 - 1e-12)
    f = partial * (n - 3) / (1 - partial)
    np.fill_diagonal(f, 0.0)
    return f


def regulator_scores(expression: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(n_genes,) mean F of a gene as cause less its mean F as effect: regulators come out high."""
    f = granger_f(expression)
    return f.mean(axis=1) - f.mean(axis=0)


def _standardise(x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64)
    spread = centred.std(axis=1, keepdims=True)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)


@dataclass(frozen=True)
class GraphOrder:
    """Causes first, by the regulatory graph that the data carry; `sign` -1 puts effects first instead."""

    edges: Edges
    sign: int

    @classmethod
    def build(cls, visible: VisiblePair, config: Config) -> GraphOrder | None:
        """None where another order is asked for. Raises DataError where the data carry no graph."""
        order = config.ar.token_order
        if order not in ("graph", "graph_reversed"):
            return None
        if visible.graph is None:
            raise DataError(
                f"{visible.name}: ar.token_order = {order} needs a known regulatory graph, and this data set has no "
                "uns['regulatory_graph'] in its ST; simulated data have one. Use another ar.token_order"
            )
        return cls(visible.graph, 1 if order == "graph" else -1)

    def score(self, genes: Sequence[str]) -> Tensor:
        """(len(genes),) scores, highest first in the sequence."""
        depth = causal_depth(self.edges, genes)
        return torch.tensor([-self.sign * depth[gene] for gene in genes], dtype=torch.float32)


def refines(config: Config) -> bool:
    """Whether predictions are about the refined centre, blended or not."""
    return config.model.center == "ridge" and config.sampling.center != "ridge"


def _fit_centre(
    features: Tensor, x_sc: Tensor, x_st: Tensor, ridge_lambda: float, config: Config
) -> tuple[RefinedCentre | None, CellMap | None, Tensor]:
    """What predictions are about instead of the ridge in the latent, the cell map that is part of it, if any, and
    the (n, S) predictions of the training genes from each other."""
    if not refines(config):
        mean = x_st.mean(0)
        return None, None, mean + leave_one_out_operator(features, ridge_lambda) @ (x_st - mean)
    refined, left_out = RefinedCentre.fit(features, x_st)
    cell_map = CellMap.fit(x_sc, x_st, left_out) if config.sampling.center == "blended" else None
    return refined if cell_map is None else refined.blend(cell_map.patterns, cell_map.share), cell_map, left_out


@dataclass
class Reference:
    """Training data on the device, and the kernel over genes.

    Attributes
    ----------
    x_st, x_sc_train
        (n, S) and (n, C) expression of the training genes.
    kernel
        Similarity of genes in the scRNA-seq.
    features
        (n, r) features of the training genes.
    ridge_lambda
        Chosen by leave-one-out error over the training genes.
    leave_one_out
        (n, n) operator giving each training gene's ridge prediction from the others; None where no sequence needs it
        (gene tokens are centred on the genes of their own panel).
    order
        (n,) score that orders gene tokens, or None.
    refined
        What predictions are about instead of the ridge in the latent, or None.
    cell_map
        The map from cells to spots that is part of it, or None.
    misfit
        What the autoencoder lowers.
    left_out
        (n, S) regression of each training gene on the others: how far off a prediction is, without a gene held out.
    graph_order
        Score of any gene by its name, where the order is that of the graph.
    """

    x_st: Tensor
    x_sc_train: Tensor
    kernel: GeneKernel
    features: Tensor
    ridge_lambda: float
    leave_one_out: Tensor | None
    order: Tensor | None
    refined: RefinedCentre | None
    cell_map: CellMap | None
    left_out: Tensor
    centred: bool
    misfit: Misfit
    graph_order: GraphOrder | None = None
    _frozen: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @classmethod
    def build(cls, visible: VisiblePair, config: Config) -> Reference:
        """Everything from the visible pair alone."""
        device = torch.device(config.runtime.device)
        graph_order = GraphOrder.build(visible, config)
        x_st = torch.from_numpy(visible.x_st).to(device)
        x_sc = torch.from_numpy(visible.sc_rows(visible.train_genes)).to(device)
        components = torch.from_numpy(visible.cell_components[:, : config.model.kernel_components]).to(device)
        kernel = GeneKernel.fit(x_sc, config.model.kernel_sharpness, components)
        features = kernel.embed(x_sc)
        ridge_lambda = fit_ridge_lambda(features.cpu(), x_st.cpu())
        refined, cell_map, left_out = _fit_centre(features, x_sc, x_st, ridge_lambda, config)
        centred_latents = config.model.tokens == "latent" and config.model.center == "ridge"
        return cls(
            x_st=x_st,
            x_sc_train=x_sc,
            kernel=kernel,
            features=features,
            ridge_lambda=ridge_lambda,
            leave_one_out=leave_one_out_operator(features, ridge_lambda) if centred_latents else None,
            refined=refined,
            cell_map=cell_map,
            left_out=left_out,
            order=_score_training_genes(visible, config)
            if graph_order is None
            else graph_order.score(visible.train_genes).to(device),
            centred=config.model.center == "ridge",
            misfit=Misfit.fit(x_st, torch.from_numpy(visible.measure_exposure()).to(device), config.model.likelihood),
            graph_order=graph_order,
        )

    def compute_cell_features(self, x_sc: Tensor) -> Tensor | None:
        """(G, k) features of scRNA profiles (G, C) in the cell map; None without one."""
        return self.cell_map.embed(x_sc) if self.cell_map else None

    def score_order(self, genes: Sequence[str], features: Tensor) -> Tensor | None:
        """(G,) scores of any genes: those of the graph, else predicted from the training genes' by the same ridge."""
        if self.order is None:
            return None
        if self.graph_order is not None:
            return self.graph_order.score(genes).to(self.order.device)
        shift = self.order.mean()
        centred = (self.order - shift)[None, :, None]
        return predict_from_context(self.features, centred, features, self.ridge_lambda)[0][0, :, 0] + shift

    def training_table(self, network: Network, generator: torch.Generator, with_gradient: bool) -> TrainingTable:
        """Standardised latents of the training genes, sampled when the encoder is variational."""
        with torch.set_grad_enabled(with_gradient):
            if with_gradient:
                mean, log_variance, code = self._encode(network)
            else:  # a frozen encoder gives the same latents at every step
                self._frozen = self._frozen or self._encode(network)
                mean, log_variance, code = self._frozen
            noise = network.autoencoder.draw(len(mean), generator)
            return self._make_table(network.standardise(network.autoencoder.sample(mean, log_variance, noise)), code)

    @torch.no_grad()
    def context_table(self, network: Network) -> TrainingTable:
        """Standardised mean latents of the training genes: the clean context of a prediction."""
        mean, _, code = self._encode(network)
        return self._make_table(network.standardise(mean), code)

    def residual(self, z: Tensor) -> Tensor | None:
        """(n, K) leave-one-out errors of the centre; None without one. Gene tokens are trained on errors over their
        expected size, so theirs are divided by it."""
        if not self.centred:
            return None
        if self.leave_one_out is not None:
            centred = z - z.mean(0)
            return centred - self.leave_one_out @ centred
        return standardise_residuals(self.features, z, self.ridge_lambda)

    def _encode(self, network: Network) -> tuple[Tensor, Tensor, Tensor]:
        return *network.autoencoder.encode_st(self.x_st), network.encode_code(self.x_sc_train)

    def _make_table(self, z: Tensor, code: Tensor) -> TrainingTable:
        center = None if self.leave_one_out is None else self.leave_one_out @ z
        return TrainingTable(code, self.features, self.order, z, center)


def _score_training_genes(visible: VisiblePair, config: Config) -> Tensor | None:
    """Scores of the training genes: spread over the cells, or Granger score over the spots."""
    if config.ar.token_order == "random" or config.model.tokens == "latent":
        return None
    if config.ar.token_order == "variance":
        scores = visible.sc_rows(visible.train_genes).var(axis=1)
    else:
        scores = regulator_scores(visible.x_st)
    return torch.from_numpy(np.asarray(scores, dtype=np.float32)).to(config.runtime.device)
