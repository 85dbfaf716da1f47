"""Floors of draws: what a model's draws must be better than, and the replicates of the truth above them.

Every floor gets the count noise of a model: fitted on training genes predicted from each other, its level, dispersion
and what neighbours share chosen again on validation genes (`cgd.model.counts`). Gaussian noise alone has a variance
instead, chosen on validation genes too. Like a model's, their predictions are from all genes measured.

Shapes: n draws, G genes, S spots, q components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from cgd.calibration import SpreadTrend
from cgd.config import CAUSALGED, Config
from cgd.data.pair import locate
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray, HiddenPair, VisiblePair
from cgd.data.split import GeneSplit
from cgd.estimator import CausalGeD, calibrate_noise, draw_members, fit_training_noise
from cgd.metrics.draws import link_neighbours
from cgd.metrics.floors import draw_replicates, gene_mean, kernel_ridge
from cgd.model.counts import normalise_counts
from cgd.model.reference import Reference
from cgd.random import derive_seed
from cgd.regression.svd import thin_svd

N_DRAWS = 16
_MOST_GENES = 100
_SPREADS = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)  # times the spread that the training genes have at a level
_SHUFFLES = 5
_MOST_COMPONENTS = 20

Predictor = Callable[[VisiblePair, Sequence[str]], FloatArray]  # (G, S) from what is seen


def draw_floors(hidden: HiddenPair, prepared: PreparedPair, split: GeneSplit, config: Config) -> dict[str, FloatArray]:
    """Draws (n, n_test, n_spots) of the test genes by every floor, and replicates of their truth.

    Parameters
    ----------
    hidden, prepared, split
        What is hidden of which data; the truth is read for the replicates alone.
    config
        Whose centre and whose untrained network.
    """
    floors = _Floors(hidden, split, config)
    found = {
        "gaussian_center": floors.draw_gaussian(),
        "counts_gene_mean": floors.draw_counts(gene_mean),
        "counts_ridge": floors.draw_counts(kernel_ridge),
        "counts_center": floors.draw_counts(floors.predict_center),
        "counts_structured": floors.draw_structured(),
        "counts_untrained": floors.draw_untrained(),
    }
    counts = prepared.st_counts[:, locate(split.test, prepared.panel)].toarray().T[:, hidden.spots]
    totals = prepared.st_totals
    scale = float(np.median(totals[totals > 0]))
    found["replicate"] = draw_replicates(
        counts, totals[hidden.spots], hidden.visible.coordinates, scale, N_DRAWS, config.split.seed
    )
    return found


class _Floors:
    """What the floors share."""

    def __init__(self, hidden: HiddenPair, split: GeneSplit, config: Config) -> None:
        self.hidden, self.config = hidden, config
        self.val, self.test = split.val, split.test
        self.looked_at = hidden.val.pick_scored(_MOST_GENES)
        self.exposure, self.later = hidden.visible.measure_exposure(), hidden.measured.measure_exposure()
        self.coordinates = hidden.visible.coordinates
        self.graph = link_neighbours(self.coordinates, len(self.exposure))
        self.references = {pair: Reference.build(pair_of, config) for pair, pair_of in self._pairs().items()}
        self.left_out = self.references["visible"].left_out.cpu().numpy()
        self.start = fit_training_noise(self.left_out, hidden.visible, "negative_binomial")

    def _pairs(self) -> dict[str, VisiblePair]:
        return {"visible": self.hidden.visible, "measured": self.hidden.measured}

    def predict_center(self, visible: VisiblePair, genes: Sequence[str]) -> FloatArray:
        """(G, S) the model's best guess without diffusion."""
        reference = self.references["visible" if visible is self.hidden.visible else "measured"]
        rows = torch.from_numpy(visible.sc_rows(list(genes))).to(reference.x_st.device)
        if reference.refined is None:
            return kernel_ridge(visible, genes)
        features = reference.kernel.embed(rows)
        return reference.refined.predict(features, reference.compute_cell_features(rows)).cpu().numpy()

    def _predict_both(self, predictor: Predictor) -> tuple[FloatArray, FloatArray]:
        """Predictions of the validation genes looked at, from the training genes, and of the test genes."""
        looked_at = [self.val[i] for i in self.looked_at]
        asked = predictor(self.hidden.visible, looked_at) if looked_at else np.zeros((0, len(self.exposure)))
        return np.asarray(asked, dtype=np.float32), predictor(self.hidden.measured, self.test)

    def draw_counts(self, predictor: Predictor) -> FloatArray:
        known, asked = self._predict_both(predictor)
        return self._measure(known[None], np.broadcast_to(asked, (N_DRAWS, *asked.shape)))

    def _measure(
        self,
        known: FloatArray,
        asked: FloatArray,
        known_center: FloatArray | None = None,
        asked_center: FloatArray | None = None,
    ) -> FloatArray:
        """Draws about fields (n, n_test, S), with noise calibrated on fields (m, genes looked at, S); about draws of
        fields, their spread too."""
        noise = self.start
        if len(self.looked_at):
            noise = calibrate_noise(
                noise, known, self.hidden.val, self.looked_at, self.exposure, self.coordinates, known_center
            )
        if asked_center is not None:
            asked = noise.widen(asked, asked_center)
        counts = draw_members(noise, asked, self.later, self.graph, self.config.seed)
        return normalise_counts(counts, self.later)

    def draw_gaussian(self) -> FloatArray:
        """Noise of the spread that training genes have at a level of expression; what lies below 0 stays there."""
        known, asked = self._predict_both(self.predict_center)
        trend = SpreadTrend.fit(self.hidden.visible.x_st)
        best = 1.0
        if len(self.looked_at):
            scored = []
            for spread in _SPREADS:
                draws = self._add_noise(known, spread * trend(known), 2 * N_DRAWS)
                scored.append((self.hidden.val.measure_crps(draws, self.looked_at), spread))
            best = min(scored)[1]
        return self._add_noise(asked, best * trend(asked), N_DRAWS)

    def _add_noise(self, center: FloatArray, spread: npt.NDArray[np.float64], n: int) -> FloatArray:
        rng = np.random.default_rng(derive_seed(self.config.seed, "gaussian"))
        return (center + spread * rng.standard_normal((n, *center.shape))).astype(np.float32)

    def draw_structured(self) -> FloatArray:
        """The centre and a Gaussian residual on the spatial components in which training genes miss more than by
        chance, as much of it as suits the validation genes."""
        known, asked = self._predict_both(self.predict_center)
        components = find_residual_components(self.hidden.visible.x_st - self.left_out, self.config.seed)
        rng = np.random.default_rng(derive_seed(self.config.seed, "structured"))
        residuals = [
            (rng.standard_normal((N_DRAWS, len(center), len(components))) @ components).astype(np.float32)
            for center in (known, asked)
        ]
        return self._measure(known + residuals[0], asked + residuals[1], known, asked)

    def draw_untrained(self) -> FloatArray:
        model = CausalGeD(
            self.config.with_values(
                {
                    "method": CAUSALGED,
                    "train.epochs": 0,
                    "sampling.n_samples": N_DRAWS,
                    "sampling.estimate": "posterior_mean" if self.config.model.center == "none" else "center",
                    "model.likelihood": "negative_binomial",
                    "diffusion.prediction_type": "x_start",
                }
            )
        )
        model.fit_visible(self.hidden.visible, self.hidden.val, self.hidden.measured)
        return model.predict_draws(self.test)


def find_residual_components(residuals: FloatArray, seed: int) -> npt.NDArray[np.float64]:
    """(q, S) principal components over genes of residuals (G, S), each as long as a gene's residual is along it,
    less what there is of it with the spots of each gene shuffled; those that do not stand above that are left out."""
    centred = torch.from_numpy(residuals.astype(np.float64))
    rng = np.random.default_rng(seed)
    chance = 0.0
    for _ in range(_SHUFFLES):
        shuffled = torch.from_numpy(rng.permuted(residuals.astype(np.float64), axis=1))
        chance = max(chance, float(thin_svd(shuffled, 1e-10, 1)[1][:1].sum()))
    _, singular, axes = thin_svd(centred, 1e-10, _MOST_COMPONENTS)
    kept = singular > chance
    length = (singular[kept].square() - chance**2).clamp_min(0.0).div(len(residuals)).sqrt()
    return (axes[:, kept] * length).T.numpy()
