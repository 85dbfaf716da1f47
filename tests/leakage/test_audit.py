"""The leak audit: noise in place of the truth changes no bit of a prediction; and a leak, however small, is caught."""

from dataclasses import replace

import numpy as np
import pytest

from cgd import audit as audit_module
from cgd import estimator
from cgd.audit import audit_leakage
from cgd.data.preprocess import log_normalise
from cgd.data.protocol import HiddenGenes, hide
from cgd.data.split import make_splits
from cgd.model.network import Network

KINDS = {
    "gene tokens": {},
    "latent tokens": {"model.tokens": "latent"},
    "joint decoder": {"model.decoder": "joint"},
    "latent tokens, joint decoder": {"model.tokens": "latent", "model.decoder": "joint"},
    "granger order": {"ar.token_order": "granger", "sampling.n_ar_steps": 2},
    "variance order": {"ar.token_order": "variance"},
    "no centre": {"model.center": "none"},
    "draws": {"sampling.estimate": "draws"},
    "no draws": {"sampling.n_samples": 0},
    "early stopping": {"train.patience": 1, "train.epochs": 5, "train.learning_rate": 0.05},
    "several spots dropped": {"data.min_genes_per_spot": 22},
}


@pytest.mark.parametrize("protocol", ["heldout_genes", "published"])
@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS.keys())
def test_noise_in_place_of_the_truth_changes_no_bit(tiny, values, protocol):
    audit = audit_leakage(tiny.config({**values, "evaluation.protocol": protocol}), tiny.prepared, tiny.split)
    assert audit.identical
    assert audit.largest_difference == 0
    n_spots = tiny.hidden(values).spots.sum()
    assert audit.n_values == (3 + tiny.config(values).sampling.n_samples) * 4 * n_spots


@pytest.mark.parametrize("seed", range(4))
def test_nor_does_it_through_the_epoch_that_is_kept(tiny, seed):
    """Validation decides which epoch is kept; what it is scored against must not know the test genes."""
    values = {"train.epochs": 8, "train.tolerance": 0.0, "train.learning_rate": 0.3, "train.ema_decay": 0.0}
    assert audit_leakage(tiny.config({**values, "model.center": "none"}), tiny.prepared, tiny.split, seed).identical


def test_validation_truth_that_knows_the_test_genes_is_caught(tiny, monkeypatch):
    def totals_of_everything(prepared, split, config):
        hidden = hide(prepared, split, config)
        noticed = hidden.val.truth + np.float32(prepared.st_totals.sum() * 1e-6)
        return replace(hidden, val=HiddenGenes(split.val, noticed, None, 0.05))

    monkeypatch.setattr(audit_module, "hide", totals_of_everything)
    assert not audit_leakage(tiny.config(), tiny.prepared, tiny.split).identical


@pytest.mark.parametrize("part", ["x_st", "coordinates"])
def test_test_genes_in_what_predictions_are_from_are_caught(tiny, monkeypatch, part):
    """Though nothing of them is in what is trained on."""

    def leaky(prepared, split, config):
        hidden = hide(prepared, split, config)
        noticed = getattr(hidden.measured, part) + np.float32(prepared.st_totals.sum() * 1e-6)
        return replace(hidden, measured=replace(hidden.measured, **{part: noticed}))

    monkeypatch.setattr(audit_module, "hide", leaky)
    assert not audit_leakage(tiny.config({"train.epochs": 1}), tiny.prepared, tiny.split).identical


def test_every_fold_passes(tiny):
    config = tiny.config({"split.n_folds": 3, "train.epochs": 1})
    for split in make_splits(tiny.prepared.panel, config.split):
        assert audit_leakage(config, tiny.prepared, split).identical


# ---- negative controls: each leaks a little, and the audit must say so --------------------------------------------


def with_visible(change):
    """`hide`, with its visible pair changed by `change(visible, prepared, split)`."""

    def leaky(prepared, split, config):
        hidden = hide(prepared, split, config)
        return replace(hidden, visible=change(hidden.visible, prepared, split))

    return leaky


def totals_over_every_gene(visible, prepared, split):
    """The reference's own normalisation: totals that count the hidden genes too."""
    columns = [prepared.panel.index(gene) for gene in visible.train_genes]
    totals = np.asarray(prepared.st_counts.sum(axis=1)).ravel()
    x_st = log_normalise(prepared.st_counts[:, columns], totals, float(np.median(totals))).toarray().T
    return replace(visible, x_st=np.ascontiguousarray(x_st, dtype=np.float32))


def one_value_of_one_gene(visible, prepared, split):
    x_sc = visible.x_sc.copy()
    gene = split.test[0]
    x_sc[visible.genes.index(gene), 0] += 1e-3 * prepared.st_counts[:, [prepared.panel.index(gene)]].sum()
    return replace(visible, x_sc=x_sc)


def a_gene_in_the_coordinates(visible, prepared, split):
    counts = prepared.st_counts[:, [prepared.panel.index(split.val[0])]].toarray().ravel()
    return replace(visible, coordinates=visible.coordinates + 1e-3 * counts[:, None].astype(np.float32))


@pytest.mark.parametrize("values", [{}, {"model.tokens": "latent"}], ids=["gene", "latent"])
@pytest.mark.parametrize("change", [totals_over_every_gene, one_value_of_one_gene])
def test_a_visible_pair_that_carries_the_truth_is_caught(tiny, monkeypatch, change, values):
    monkeypatch.setattr(audit_module, "hide", with_visible(change))
    audit = audit_leakage(tiny.config(values), tiny.prepared, tiny.split)
    assert not audit.identical
    assert audit.largest_difference > 0


def test_a_validation_gene_in_what_is_visible_is_caught(tiny, monkeypatch):
    monkeypatch.setattr(audit_module, "hide", with_visible(a_gene_in_the_coordinates))
    audit = audit_leakage(tiny.config(), tiny.prepared, tiny.split)
    assert not audit.identical
    assert audit.largest_difference == 0


def test_test_genes_among_the_training_genes_are_caught(tiny, monkeypatch):
    def careless(prepared, split, config):
        return hide(prepared, replace(split, train=(*split.train, split.test[0])), config)

    monkeypatch.setattr(audit_module, "hide", careless)
    assert not audit_leakage(tiny.config(), tiny.prepared, tiny.split).identical


def test_a_stopping_rule_that_looks_at_the_test_genes_is_caught(tiny, monkeypatch):
    def stop_on_test(prepared, split, config):
        hidden = hide(prepared, split, config)
        return replace(hidden, val=hidden.test)

    monkeypatch.setattr(audit_module, "hide", stop_on_test)
    values = {
        "model.center": "none",
        "train.epochs": 8,
        "train.tolerance": 0.0,
        "train.learning_rate": 0.3,
        "train.ema_decay": 0.0,
    }
    audits = [audit_leakage(tiny.config(values), tiny.prepared, tiny.split, seed) for seed in range(3)]
    assert not all(audit.identical for audit in audits)  # another truth may by chance stop at the same epoch


def test_intervals_calibrated_on_the_test_genes_are_caught(tiny, monkeypatch):
    """Scores of the validation genes, to which one test gene's level lends a thousandth."""

    class Leaky(HiddenGenes):
        def conformity(self, center, scale):
            return super().conformity(center, scale) * (1 + 1e-3 * self.test.truth.mean())

    def hide_leaky(prepared, split, config):
        hidden = hide(prepared, split, config)
        leaky = Leaky(hidden.val.genes, hidden.val.truth, None, 0.05)
        leaky.test = hidden.test
        return replace(hidden, val=leaky)

    monkeypatch.setattr(audit_module, "hide", hide_leaky)
    audit = audit_leakage(tiny.config(), tiny.prepared, tiny.split)
    assert not audit.identical
    assert audit.largest_difference > 0


def test_a_method_that_is_not_deterministic_does_not_pass(tiny, monkeypatch):
    original, calls = Network.decode, []

    def jitter(self, z):
        calls.append(1)
        return original(self, z) + 1e-6 * len(calls)

    monkeypatch.setattr(Network, "decode", jitter)
    values = {"model.likelihood": "gaussian", "model.center": "none"}  # a count is the same for all that
    assert not audit_leakage(tiny.config(values), tiny.prepared, tiny.split).identical


# ---- the audit itself ---------------------------------------------------------------------------------------------


def test_the_noise_is_put_where_the_truth_was_and_nowhere_else(tiny):
    noisy = audit_module._add_noise(tiny.prepared, tiny.split.test, seed=0)
    changed = (noisy.st_counts != tiny.prepared.st_counts).toarray().any(axis=0)
    assert {gene for gene, there in zip(tiny.prepared.panel, changed, strict=True) if there} == set(tiny.split.test)
    np.testing.assert_allclose(
        noisy.st_totals - tiny.prepared.st_totals,
        np.asarray(noisy.st_counts.sum(axis=1) - tiny.prepared.st_counts.sum(axis=1)).ravel(),
    )
    one, two = (hide(p, tiny.split, tiny.base).test.truth for p in (tiny.prepared, noisy))
    assert not np.array_equal(one, two)


def test_the_fitted_state_holds_nothing_as_large_as_the_truth(tiny):
    """Arrays over the spots are the decoder, its bias, the head, the mean pattern, and of the centre a row per kernel
    feature or component of the cell map: none has a row per gene."""
    hidden = tiny.hidden()
    model = estimator.CausalGeD(tiny.config())
    model.fit_visible(hidden.visible, hidden.val, hidden.measured)
    state = model._fitted
    arrays = [getattr(state.context, name) for name in ("z", "code", "features")]
    arrays += [state.table.code, state.table.features, *state.network.state_dict().values()]
    centre = state.refined
    arrays += [centre.pattern, centre.level, centre.cell_patterns]
    over_spots = sorted(tuple(array.shape) for array in arrays if 60 in array.shape)
    n_features, n_components = state.table.features.shape[1], state.cell_features.shape[1]
    of_centre = [(n_components, 60), (n_features + 1, 60), (n_features + 1, 60)]
    assert over_spots == sorted([(8, 60), (60,), (60,), (60, 8), *of_centre])  # 8: width of the latent and of the head
    assert n_features < len(hidden.measured.train_genes)  # centred on the training genes: no room for another
    assert not any(isinstance(value, type(hidden.test)) for value in vars(state).values())
