"""Two-headed autoencoder (paper III-B a): one head per modality, a shared trunk, one decoder to the spots.

Shapes: G genes, S spots, C cells, D hidden width, K latent width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cgd.config import ModelConfig
from cgd.regression.svd import thin_svd


@dataclass(frozen=True)
class Misfit:
    """How far decoded expression is from what was measured, by the likelihood of the measurement.

    Half the deviance of the counts, or the squared error of a Gaussian.

    Attributes
    ----------
    likelihood
        Distribution of what is measured.
    exposure
        (S,) totals of the spots over their median.
    size
        Of the negative binomial: variance is mean + mean^2 / size.
    """

    likelihood: Literal["gaussian", "poisson", "negative_binomial"]
    exposure: Tensor
    size: float

    @classmethod
    def fit(
        cls, x_st: Tensor, exposure: Tensor, likelihood: Literal["gaussian", "poisson", "negative_binomial"]
    ) -> Misfit:
        """With the size that training genes (G, S) have about their mean patterns, the median over genes."""
        counts, rate = torch.expm1(x_st) * exposure, torch.expm1(x_st).mean(1, keepdim=True)
        mean = rate * exposure  # (G, S)
        excess = ((counts - mean).square() - mean).sum(1) / mean.square().sum(1).clamp_min(1e-9)
        return cls(likelihood, exposure, float(1 / excess.median().clamp(1e-3, 1e3)))

    def measure(self, decoded: Tensor, truth: Tensor) -> Tensor:
        """(G,) mean over the spots, of decoded and true log-normalised expression (G, S)."""
        if self.likelihood == "gaussian":
            return (decoded - truth).square().mean(1)
        # a rate is positive: below 0 the decoder approaches it, above it is what the decoder says
        log_rate = nn.functional.softplus(decoded, beta=_SHARPNESS).clamp_max(_LARGEST)
        mean = torch.expm1(log_rate) * self.exposure + 1e-6
        counts = torch.expm1(truth) * self.exposure
        gain = torch.xlogy(counts, counts) - counts * mean.log()
        if self.likelihood == "poisson":
            return (gain - (counts - mean)).mean(1)
        return (gain - (counts + self.size) * torch.log((counts + self.size) / (mean + self.size))).mean(1)


_SHARPNESS, _LARGEST = 8.0, 20.0


class TwoHeadedAutoencoder(nn.Module):
    """Encode genes of either modality to K values; decode K values to the spots.

    `z = 0` decodes to the mean spatial pattern of the training genes, which the ST head subtracts.

    Parameters
    ----------
    config
        Model section of the configuration.
    n_spots, n_cells
        S and C.
    """

    st_mean: Tensor
    sc_mean: Tensor

    def __init__(self, config: ModelConfig, n_spots: int, n_cells: int) -> None:
        super().__init__()
        hidden, latent = config.hidden_dim, config.latent_dim
        self.variational = config.encoder == "variational"
        self.head_st = nn.Linear(n_spots, hidden)
        self.head_sc = nn.Linear(n_cells, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.mean_residual = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Linear(latent, n_spots)
        self.register_buffer("st_mean", torch.zeros(n_spots))
        self.register_buffer("sc_mean", torch.zeros(n_cells))

    @torch.no_grad()
    def initialise(self, x_st: Tensor, x_sc: Tensor, from_svd: bool) -> None:
        """Set the mean patterns and start the posterior narrow; with `from_svd`, start as the truncated SVD.

        Parameters
        ----------
        x_st, x_sc
            (G, S) and (G, C) expression of the training genes.
        """
        self.st_mean.copy_(x_st.mean(0))
        self.sc_mean.copy_(x_sc.mean(0))
        nn.init.zeros_(self.mean_residual.weight)
        nn.init.zeros_(self.mean_residual.bias)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, -8.0)
        if not from_svd:
            return
        for head, x in ((self.head_st, x_st - self.st_mean), (self.head_sc, x_sc - self.sc_mean)):
            components, scale = principal_components(x, self.mean.in_features)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            head.weight[: len(components)] = components / scale  # scaled so that the first hidden value has size 1
            if head is self.head_st:
                latent = self.decoder.in_features
                nn.init.zeros_(self.decoder.weight)
                nn.init.zeros_(self.decoder.bias)
                n = min(latent, len(components))
                self.decoder.weight[:, :n] = components[:n].T * scale  # undoes the head: together a projection
        nn.init.zeros_(self.mean.bias)
        self.mean.weight.copy_(torch.eye(*self.mean.weight.shape))

    def encode_st(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(G, S) -> mean and log-variance, (G, K) each."""
        return self._trunk(self.head_st(x - self.st_mean))

    def encode_sc(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(G, C) -> mean and log-variance, (G, K) each."""
        return self._trunk(self.head_sc(x - self.sc_mean))

    def _trunk(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        # linear as the SVD it may start from, plus a non-linear part that starts at zero
        mean = self.mean(hidden) + self.mean_residual(nn.functional.gelu(hidden))  # (G, K)
        return mean, self.log_variance(hidden).clamp(-12.0, 4.0)  # (G, K) each; clamped before it is exponentiated

    def sample(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """z = mean + exp(log_variance / 2) * noise when variational, else the mean."""
        if not self.variational:
            return mean
        return mean + torch.exp(0.5 * log_variance) * noise.to(mean.device)

    def draw(self, n_genes: int, generator: torch.Generator) -> Tensor:
        """(n_genes, K) noise of `sample`; nothing is drawn for an encoder that is not variational."""
        if not self.variational:
            return torch.empty(n_genes, 0)
        return torch.randn(n_genes, self.mean.out_features, generator=generator)

    def decode(self, z: Tensor) -> Tensor:
        """(..., K) -> (..., S) expression."""
        return self.decoder(z) + self.st_mean  # (..., S)

    def loss(
        self,
        x_st: Tensor,
        x_sc: Tensor,
        kl_weight: float,
        noise: tuple[Tensor, ...],
        rows: slice,
        misfit: Misfit,
    ) -> Tensor:
        """Misfit of the ST reconstructed from both heads, relative to that of the mean pattern, plus KL.

        The reconstruction from the scRNA-seq head is what ties the two heads to one latent space. The losses of
        disjoint `rows` (genes) add up to that of all of them.

        Parameters
        ----------
        x_st, x_sc
            (G, S) and (G, C) expression of all training genes.
        noise
            (G, K) for each head, of `draw`.
        rows
            Genes whose part of the loss is computed.
        misfit
            By which likelihood.
        """
        variance = misfit.measure(self.st_mean.expand_as(x_st), x_st).mean().clamp_min(1e-8)
        truth, total = x_st[rows], x_st.new_zeros(())
        encoded = (self.encode_st(truth), self.encode_sc(x_sc[rows]))
        for (mean, log_variance), drawn in zip(encoded, noise, strict=True):
            error = misfit.measure(self.decode(self.sample(mean, log_variance, drawn[rows])), truth)  # (rows,)
            total = total + error.sum() / variance
            if self.variational:
                total = total + kl_weight * gaussian_kl(mean, log_variance).sum()
        return total / len(x_st)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(G,) KL divergence from N(0, 1), mean over the latent dimensions."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean(1)


def principal_components(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Leading right-singular vectors (r, dim) of x (G, dim), r <= min(n, rank), and the scale that makes the
    mean squared projection on the first one 1."""
    _, singular, right = thin_svd(x, 1e-6, n)
    scale = singular[0] / len(x) ** 0.5 if len(singular) else torch.ones((), dtype=torch.float64)
    return right.T.to(x.dtype).contiguous(), scale.to(x.dtype)
