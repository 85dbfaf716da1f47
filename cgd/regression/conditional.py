"""Kernel ridge of some genes given others, with the variance of its error: the centre of the diffusion.

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
    kernel = (features @ features.transpose(1, 2)).double()  # (B, L, L)
    factor = torch.linalg.cholesky(_penalise(kernel, ridge_lambda))  # (B, L, L), in AR order: row i needs j <= i alone
    whitened = torch.linalg.solve_triangular(factor, latents.double(), upper=False)  # (B, L, K)
    earlier = step[:, None, :] < step[:, :, None]  # (B, L, L)
    variance = (factor * ~earlier).square().sum(-1, keepdim=True) / (1 + ridge_lambda)  # (B, L, 1)
    return ((factor * earlier) @ whitened).to(latents.dtype), variance.to(latents.dtype)


def other_steps_ridge(features: Tensor, latents: Tensor, step: Tensor, ridge_lambda: float) -> tuple[Tensor, Tensor]:
    """`causal_ridge` with the genes of all other AR steps as context, earlier and later.

    With P = (F F^T + lambda I)^-1 and B its blocks within a step, the error of predicting a step from the others is
    B^-1 P Z and the covariance of that error B^-1.
    """
    kernel = (features @ features.transpose(1, 2)).double()  # (B, L, L)
    precision = torch.linalg.inv(_penalise(kernel, ridge_lambda))  # (B, L, L)
    covariance = torch.linalg.inv(precision * (step[:, None, :] == step[:, :, None]))  # (B, L, L), step by step
    error = covariance @ (precision @ latents.double())  # (B, L, K)
    variance = covariance.diagonal(dim1=1, dim2=2)[..., None] / (1 + ridge_lambda)  # (B, L, 1)
    return (latents.double() - error).to(latents.dtype), variance.to(latents.dtype)


def predict_from_context(
    context: Tensor, latents: Tensor, targets: Tensor, ridge_lambda: float
) -> tuple[Tensor, Tensor]:
    """(B, M, K) prediction of `targets` (M, r) from `context` (N, r) with latents (B, N, K), and the (M, 1) variance
    of its error, in units of the prior's."""
    weights, variance = find_weights(context, targets, ridge_lambda)
    return torch.einsum("nm,bnk->bmk", weights.to(latents.dtype), latents), variance.to(latents.dtype)


def find_weights(context: Tensor, targets: Tensor, ridge_lambda: float) -> tuple[Tensor, Tensor]:
    """(N, M) weights with which latents of `context` (N, r) predict those of `targets` (M, r), and the (M, 1) variance
    of the error, in units of the prior's: both double."""
    known, asked = context.double(), targets.double()
    if len(known) <= known.shape[1]:
        cross = known @ asked.T  # (N, M)
        weights = torch.linalg.solve(_penalise(known @ known.T, ridge_lambda), cross)  # (N, M)
        variance = asked.square().sum(1) + ridge_lambda - (cross * weights).sum(0)  # (M,)
    else:  # the same through the features, of which there are fewer
        solved = torch.linalg.solve(_penalise(known.T @ known, ridge_lambda), asked.T)  # (r, M)
        weights = known @ solved  # (N, M)
        variance = ridge_lambda * (1 + (asked.T * solved).sum(0))  # (M,), the same as above by Woodbury's identity
    return weights, variance[:, None] / (1 + ridge_lambda)


def _penalise(gram: Tensor, ridge_lambda: float) -> Tensor:
    return gram + ridge_lambda * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
