"""The thin SVD, against numpy's."""

import numpy as np
import pytest
import torch

from cgd.regression.svd import thin_svd


def matrix(rows, columns):
    x = np.random.default_rng(0).normal(size=(rows, columns))
    return torch.from_numpy(x - x.mean(axis=0))


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_thin_svd_equals_that_of_numpy_up_to_signs(shape):
    x = matrix(*shape)
    left, singular, right = thin_svd(x, 1e-10)
    expected = np.linalg.svd(x.numpy(), full_matrices=False)[1]
    np.testing.assert_allclose(singular, expected[: len(singular)])
    torch.testing.assert_close((left * singular) @ right.T, x)
    for vectors in (left, right):
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(len(singular), dtype=torch.float64))


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_thin_svd_gives_the_leading_triples_alone(shape):
    whole, part = thin_svd(matrix(*shape), 1e-10), thin_svd(matrix(*shape), 1e-10, 3)
    for all_of_them, some in zip(whole, part, strict=True):
        torch.testing.assert_close(all_of_them[..., :3], some)


def test_thin_svd_leaves_out_what_is_rounding():
    x = matrix(12, 2) @ matrix(2, 9)
    assert [part.shape for part in thin_svd(x, 1e-10)] == [(12, 1), (1,), (9, 1)]  # two centred rows span one direction
    assert [part.shape for part in thin_svd(torch.zeros(4, 3), 1e-10)] == [(4, 0), (0,), (3, 0)]
    assert [part.shape for part in thin_svd(torch.zeros(5, 0), 1e-10)] == [(5, 0), (0,), (0, 0)]
