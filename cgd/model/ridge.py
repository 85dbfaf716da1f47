"""Kernel ridge regression over genes, as the centre of the diffusion.

Linear kernel of scRNA-seq features, no intercept: features and latents are centred on the training genes. Seen as a
Gaussian process, the noise variance does not depend on how many genes are observed, so one lambda serves every context.

Shapes: B batch, L genes in AR order, N context genes, M targets, r features, K latent.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_ridge(features: Tensor, latents: Tensor, step: Tensor, ridge_lambda: float) -> Tensor:
    """(B, L, K) prediction of each gene from the genes of earlier AR steps alone; 0 in the first step.

    One Cholesky factor serves every step: for C = F F^T + lambda I = A A^T and w = A^-1 Z, the conditional mean of
    gene i given the first n genes is sum_{j < n} A_ij w_j.

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
    return ((factor * earlier) @ whitened).to(latents.dtype)


def ridge_predict(context: Tensor, latents: Tensor, targets: Tensor, ridge_lambda: float) -> Tensor:
    """(B, M, K) prediction of `targets` (M, r) from `context` (N, r) with latents (B, N, K)."""
    kernel = (context @ context.T).double()
    kernel = kernel + ridge_lambda * torch.eye(len(context), dtype=kernel.dtype, device=kernel.device)
    weights = torch.linalg.solve(kernel, (context @ targets.T).double())  # (N, M)
    return torch.einsum("nm,bnk->bmk", weights.to(latents.dtype), latents)


def leave_one_out_operator(features: Tensor, ridge_lambda: float) -> Tensor:
    """(N, N) matrix whose product with the latents (N, K) predicts each gene from all the others."""
    kernel = (features @ features.T).double()
    inverse = torch.linalg.inv(kernel + ridge_lambda * torch.eye(len(features), dtype=torch.float64, device=kernel.device))
    operator = torch.eye(len(features), dtype=torch.float64, device=kernel.device) - inverse / inverse.diagonal()[:, None]
    return operator.fill_diagonal_(0.0).to(features.dtype)
