"""Kernel ridge regression over genes, as the centre of the diffusion.

Linear kernel of scRNA-seq features, no intercept: features and latents are centred on the training genes. Seen as a
Gaussian process, the noise variance does not depend on how many genes are observed, so one lambda serves every context.

Shapes: B batch, L genes in AR order, N context genes, M targets, r features, K latent.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_ridge(features: Tensor, latents: Tensor, step: Tensor, ridge_lambda: float) -> tuple[Tensor, Tensor]:
    """(B, L, K) prediction of each gene from the genes of earlier AR steps alone, 0 in the first step, and the
    (B, L, 1) variance of its error, in units of the prior's.

    One Cholesky factor serves every step: for C = F F^T + lambda I = A A^T and w = A^-1 Z, the conditional mean of
    gene i given the first n genes is sum_{j < n} A_ij w_j, its variance sum_{j >= n} A_ij^2.

    Parameters
    ----------
    features, latents
        (B, L, r) and (B, L, K).
    step
        (B, L) AR step, non-decreasing along the sequence.
    """
    kernel = (features @ features.transpose(1, 2)).double()
    kernel = kernel + ridge_lambda * torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    factor = torch.linalg.cholesky(kernel)
    whitened = torch.linalg.solve_triangular(factor, latents.double(), upper=False)
    earlier = step[:, None, :] < step[:, :, None]
    variance = (factor * ~earlier).square().sum(-1, keepdim=True) / (1 + ridge_lambda)
    return ((factor * earlier) @ whitened).to(latents.dtype), variance.to(latents.dtype)


def other_steps_ridge(features: Tensor, latents: Tensor, step: Tensor, ridge_lambda: float) -> tuple[Tensor, Tensor]:
    """`causal_ridge` with the genes of all other AR steps as context, earlier and later.

    With P = (F F^T + lambda I)^-1 and B its blocks within a step, the error of predicting a step from the others is
    B^-1 P Z and the covariance of that error B^-1.
    """
    kernel = (features @ features.transpose(1, 2)).double()
    kernel = kernel + ridge_lambda * torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    precision = torch.linalg.inv(kernel)
    covariance = torch.linalg.inv(precision * (step[:, None, :] == step[:, :, None]))
    error = covariance @ (precision @ latents.double())
    variance = covariance.diagonal(dim1=1, dim2=2)[..., None] / (1 + ridge_lambda)
    return (latents.double() - error).to(latents.dtype), variance.to(latents.dtype)


def ridge_predict(context: Tensor, latents: Tensor, targets: Tensor, ridge_lambda: float) -> tuple[Tensor, Tensor]:
    """(B, M, K) prediction of `targets` (M, r) from `context` (N, r) with latents (B, N, K), and the (M, 1) variance
    of its error, in units of the prior's."""
    kernel = (context @ context.T).double()
    kernel = kernel + ridge_lambda * torch.eye(len(context), dtype=kernel.dtype, device=kernel.device)
    cross = (context @ targets.T).double()
    weights = torch.linalg.solve(kernel, cross)  # (N, M)
    variance = targets.square().sum(1).double() + ridge_lambda - (cross * weights).sum(0)
    variance = variance / (1 + ridge_lambda)
    prediction = torch.einsum("nm,bnk->bmk", weights.to(latents.dtype), latents)
    return prediction, variance[:, None].to(latents.dtype)


def standardised_residual(features: Tensor, latents: Tensor, ridge_lambda: float) -> Tensor:
    """(N, K) errors of predicting each gene from all the others, over the square root of `ridge_predict`'s variance."""
    kernel = (features @ features.T).double()
    inverse = torch.linalg.inv(kernel + ridge_lambda * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device))
    scale = ((1 + ridge_lambda) / inverse.diagonal()).sqrt()
    return (scale[:, None] * (inverse @ (latents - latents.mean(0)).double())).to(latents.dtype)


def leave_one_out_operator(features: Tensor, ridge_lambda: float) -> Tensor:
    """(N, N) matrix whose product with the latents (N, K) predicts each gene from all the others."""
    kernel = (features @ features.T).double()
    inverse = torch.linalg.inv(
        kernel + ridge_lambda * torch.eye(len(features), dtype=torch.float64, device=kernel.device)
    )
    operator = (
        torch.eye(len(features), dtype=torch.float64, device=kernel.device) - inverse / inverse.diagonal()[:, None]
    )
    return operator.fill_diagonal_(0.0).to(features.dtype)
