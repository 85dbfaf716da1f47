"""What every method of the registry must do, whatever it is: a new line of METHODS is tested by being there."""

import random
from dataclasses import dataclass, fields, replace
from importlib import import_module

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from cgd.audit import _add_noise, audit_leakage
from cgd.baselines import METHODS, GenerativeMethod
from cgd.baselines.trial import FEWER_DRAWS, N_DRAWS
from cgd.config import Config
from cgd.data.pair import make_pair
from cgd.data.preprocess import PreparedPair, prepare
from cgd.data.protocol import HiddenPair, hide
from cgd.data.simulate import simulate_pair
from cgd.data.split import GeneSplit, make_splits
from cgd.errors import CGDError, DataError, NotFittedError

# constructor arguments with which a method takes a second or less on 60 spots
SMALL = {
    "stplus": {"width": 16, "max_epochs": 8},
    "novosparc": {"max_cells": 40},
    "tangram": {"epochs": 20, "n_clusters": 5},
    "gimvi": {"max_epochs": 2},
    "stdiff": {"n_steps": 5, "width": 16, "depth": 1, "n_sampling_steps": 5},
    "spadit": {"n_steps": 5, "width": 16, "depth": 1},
    "spatialscope": {"n_steps": 5, "width": 16, "n_levels": 3, "n_replicates": 1},
}
GENERATIVE = ("spadit", "gimvi", "spatialscope", "stdiff")  # with draws of their own
DETERMINISTIC = ("spage", "spaotsc")  # no random number in them: one prediction whatever the seed
EPSILON = 1e-4  # float32 sums in another order


@dataclass(frozen=True)
class Small:
    """60 spots x 30 genes x 50 cells; the last test gene is zero in every cell."""

    prepared: PreparedPair
    split: GeneSplit
    hidden: HiddenPair

    @property
    def visible(self):
        return self.hidden.visible


@pytest.fixture(scope="module")
def small():
    simulation = simulate_pair(n_spots=60, n_cells=50, n_genes=30, n_regulators=6, n_cell_types=3)
    st, sc = simulation.adata_st, simulation.adata_sc
    st.X, sc.X = sp.csr_matrix(st.X), sp.csr_matrix(sc.X)
    config = Config()
    prepared = prepare(make_pair(st, sc, "small"), config.data)
    split = make_splits(prepared.panel, config.split)[0]
    return Small(prepared, split, hide(prepared, split, config))


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def method_of(name):
    """A small, unfitted method; skips where the package that the method needs is not installed."""
    entry = METHODS[name]
    module, _, cls = entry.home.partition(":")
    try:
        return getattr(import_module(module), cls)(**SMALL.get(name, {}))
    except ModuleNotFoundError as error:
        if entry.package is None or (error.name or "").startswith("cgd"):
            raise
        pytest.skip(f"{entry.title} needs {entry.package}, which is not installed ({error.name})")


def predict(name, visible, genes, seed=0):
    method = method_of(name)
    method.fit(visible, seed)
    return method.predict(genes)


_SEEN = {}


def reference(name, small):
    """The prediction of the test genes under seed 0, computed once per method."""
    if name not in _SEEN:
        method = method_of(name)
        method.fit(small.visible, 0)
        _SEEN[name] = method, method.predict(small.split.test)
    return _SEEN[name]


def test_a_prediction_is_finite_float32_per_gene_and_varies(name, small):
    _, prediction = reference(name, small)
    assert prediction.dtype == np.float32
    assert prediction.shape == (len(small.split.test), len(small.visible.spot_names))
    assert np.isfinite(prediction).all()
    assert prediction.std(axis=1).max() > 0


def test_the_input_is_sparse_and_is_not_changed(name, small):
    assert sp.issparse(small.prepared.st_counts)
    assert sp.issparse(small.prepared.sc_expression)
    arrays = {f.name: getattr(small.visible, f.name) for f in fields(small.visible)}
    copies = {key: value.copy() for key, value in arrays.items() if isinstance(value, np.ndarray)}
    for value in arrays.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)  # a method that writes is refused by numpy itself, and told where
    try:
        predict(name, small.visible, small.split.test)
    finally:
        for key in copies:
            arrays[key].setflags(write=True)
    for key, copy in copies.items():
        np.testing.assert_array_equal(arrays[key], copy, err_msg=key)


def test_it_cannot_see_the_hidden_values(name, small):
    hidden_genes = (*small.split.val, *small.split.test)
    noisy = hide(_add_noise(small.prepared, hidden_genes, seed=3), small.split, Config())
    assert noisy.test.truth.tobytes() != small.hidden.test.truth.tobytes()
    other = predict(name, noisy.visible, small.split.test)
    assert other.tobytes() == reference(name, small)[1].tobytes()


def test_a_seed_decides_everything_and_another_changes_something(name, small):
    """Global generators are left elsewhere between the fits: nothing may be drawn from them."""
    np.random.seed(1)
    torch.manual_seed(1)
    one = reference(name, small)[1]
    np.random.seed(2)
    torch.manual_seed(2)
    assert predict(name, small.visible, small.split.test).tobytes() == one.tobytes()
    other = predict(name, small.visible, small.split.test, seed=1)
    assert (other.tobytes() == one.tobytes()) == (name in DETERMINISTIC)


def test_global_random_state_and_threads_are_left_alone(name, small):
    method_of(name)  # importing may seed what it likes, once
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()
    predict(name, small.visible, small.split.test)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()
    assert before[0] == after[0]
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert torch.equal(before[2], after[2])
    assert before[3] == after[3]
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_the_order_of_the_genes_asked_for_does_not_matter(name, small):
    method, prediction = reference(name, small)
    backwards = method.predict(tuple(reversed(small.split.test)))
    np.testing.assert_allclose(backwards[::-1], prediction, atol=EPSILON)
    alone = method.predict([small.split.test[0]])
    np.testing.assert_allclose(alone, prediction[:1], atol=EPSILON)


def test_what_else_is_asked_for_does_not_matter(name, small):
    """Validation genes are, in the fit that predicts the test genes: what they calibrate is of the same model."""
    method, prediction = reference(name, small)
    n = len(small.split.val)
    together = method.predict((*small.split.val, *small.split.test))
    np.testing.assert_allclose(together[n:], prediction, atol=EPSILON)
    np.testing.assert_allclose(method.predict(small.split.val), together[:n], atol=EPSILON)
    assert method.predict(small.split.test).tobytes() == prediction.tobytes()


@pytest.mark.parametrize("generative", GENERATIVE)
def test_draws_are_finite_differ_and_leave_no_trace(generative, small):
    method, prediction = reference(generative, small)
    torch.manual_seed(7)
    np.random.seed(7)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    draws = method.draw(small.split.test, 3)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert draws.dtype == np.float32
    assert draws.shape == (3, *prediction.shape)
    assert np.isfinite(draws).all()
    assert draws.min() >= 0
    assert draws.std(axis=0).max() > 0
    assert method.predict(small.split.test).tobytes() == prediction.tobytes()


@pytest.mark.parametrize("generative", GENERATIVE)
def test_the_seed_decides_the_draws_however_many(generative, small):
    one = reference(generative, small)[0].draw(small.split.test, 3)
    for seed, n in ((0, 2), (1, 1)):
        method = method_of(generative)
        method.fit(small.visible, seed)
        assert (method.draw(small.split.test, n).tobytes() == one[:n].tobytes()) == (seed == 0)


def test_methods_with_draws_are_those_that_are_generative(name, small):
    assert isinstance(method_of(name), GenerativeMethod) == (name in GENERATIVE)


def test_a_gene_that_the_st_does_not_have_can_be_asked_for(name, small):
    """In the scRNA-seq alone: no training, validation or test gene."""
    visible = small.visible
    added = replace(
        visible, genes=(*visible.genes, "only in cells"), x_sc=np.concatenate([visible.x_sc, visible.x_sc[:1] * 0.5])
    )
    prediction = predict(name, added, ["only in cells"])
    assert prediction.shape == (1, len(visible.spot_names))
    assert np.isfinite(prediction).all()


def test_genes_that_no_cell_expresses_do_no_harm(name, small):
    """Asked for, and among the training genes."""
    visible, gene = small.visible, small.split.test[-1]
    x_sc = visible.x_sc.copy()
    for zero in (gene, visible.train_genes[0]):
        x_sc[visible.genes.index(zero)] = 0
    prediction = predict(name, replace(visible, x_sc=x_sc), small.split.test)
    assert prediction.shape == (len(small.split.test), len(visible.spot_names))
    assert np.isfinite(prediction).all()


def test_nonsense_is_refused(name, small):
    method, _ = reference(name, small)
    with pytest.raises(DataError, match=r"not in the scRNA-seq.*'no such gene'"):
        method.predict([small.split.test[0], "no such gene"])
    with pytest.raises(NotFittedError, match="not fitted; call fit"):
        method_of(name).predict(small.split.test)
    if name in GENERATIVE:
        with pytest.raises(NotFittedError, match="not fitted; call fit"):
            method_of(name).draw(small.split.test, 1)
        with pytest.raises(DataError, match=r"not in the scRNA-seq.*'no such gene'"):
            method.draw(["no such gene"], 1)
    visible = small.visible
    lonely = replace(visible, train_genes=visible.train_genes[:1], x_st=visible.x_st[:1])
    with pytest.raises(CGDError, match="at least 2 training genes, found 1"):
        method_of(name).fit(lonely, 0)


def test_the_audit_passes(name, small, monkeypatch):
    monkeypatch.setattr("cgd.baselines.Entry.make", lambda entry: method_of(name))
    config = Config().with_values({"method": name})
    audit = audit_leakage(config, small.prepared, small.split)
    assert audit.identical
    n_draws = FEWER_DRAWS.get(name, N_DRAWS)
    assert audit.n_values == (1 + n_draws) * len(small.split.test) * len(small.visible.spot_names)


def test_the_tables_of_this_file_name_methods():
    assert {*SMALL, *DETERMINISTIC, *GENERATIVE, *FEWER_DRAWS} <= set(METHODS)
