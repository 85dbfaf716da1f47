"""A configuration field that changes nothing is a defect: each is changed on a tiny trial, and something must move."""

from functools import cache

import numpy as np
import pytest
import torch

from cgd.config import field_paths, says_where
from cgd.data.preprocess import prepare
from cgd.data.split import make_splits
from cgd.errors import ConfigError
from cgd.evaluation import evaluate

# The network always shows: its last epoch is kept, and its only draw is the estimate, without the noise of counts.
BASE = {
    "sampling.estimate": "draws",
    "sampling.n_samples": 1,
    "train.tolerance": 1.0,
    "model.likelihood": "gaussian",
}
MEAN = {"sampling.estimate": "posterior_mean", "model.center": "none"}  # of which the whole is taken
COUNTS = {"model.likelihood": "negative_binomial"}
STRICT = {"train.tolerance": 0.002, "train.epochs": 20, "train.learning_rate": 0.3, "train.ema_decay": 0.0}
LATENT = {"model.tokens": "latent"}
JOINT = {"model.decoder": "joint"}
PUBLISHED = {"evaluation.protocol": "published"}

# field -> (another value, the fields in which its base is another, what must differ)
FIELDS = {
    "method": ("spage", {}, "scores"),
    "seed": (1, {}, "scores"),
    "data.min_genes_per_cell": (20, {}, "scores"),
    "data.min_genes_per_spot": (22, {}, "scores"),
    "data.hvg_fraction": (0.7, {"data.min_panel": 10}, "panel"),
    "data.min_panel": (30, {}, "panel"),
    "split.val_fraction": (0.3, {}, "split"),
    "split.test_fraction": (0.2, {}, "split"),
    "split.n_folds": (2, {}, "split"),
    "split.seed": (1, {}, "split"),
    "model.tokens": ("latent", {}, "scores"),
    "model.encoder": ("deterministic", {}, "scores"),
    "model.decoder": ("joint", {}, "scores"),
    "model.init": ("random", {}, "scores"),
    "model.hidden_dim": (12, {}, "scores"),
    "model.latent_dim": (4, {}, "scores"),
    "model.token_dim": (2, LATENT, "scores"),
    "model.n_condition_tokens": (3, {}, "scores"),
    "model.latent_scaling": ("per_dim", {}, "scores"),
    "model.width": (24, {}, "scores"),
    "model.n_heads": (4, {}, "scores"),
    "model.depth": (2, {}, "scores"),
    "model.dropout": (0.5, {}, "scores"),
    "model.attention_mask": ("full", {}, "scores"),
    "model.kernel_sharpness": (0.0, {}, "scores"),
    "model.kernel_components": (0, {}, "scores"),
    "model.likelihood": ("negative_binomial", {}, "scores"),
    "model.center": ("none", {}, "scores"),
    "ar.decay": (0.3, {}, "scores"),
    "ar.max_weight": (4.0, {}, "scores"),
    "ar.min_weight": (0.01, {}, "scores"),
    "ar.token_order": ("variance", {}, "scores"),
    "diffusion.n_timesteps": (60, {}, "scores"),
    "diffusion.schedule": ("linear", {}, "scores"),
    "diffusion.prediction_type": ("v", {}, "scores"),
    "diffusion.timestep_sampling": ("adaptive", {}, "scores"),
    "diffusion.per_step": ("shared", {}, "scores"),
    "diffusion.timesteps_per_step": (2, {}, "scores"),
    "sampling.estimate": ("posterior_mean", {}, "scores"),
    "sampling.sampler": ("ddim", {}, "scores"),
    "sampling.n_steps": (5, {}, "scores"),
    "sampling.n_samples": (3, {}, "scores"),
    "sampling.n_ensemble": (3, MEAN, "scores"),
    "sampling.n_ar_steps": (2, {}, "scores"),
    "sampling.center": ("ridge", {}, "scores"),
    "sampling.guidance": (0.0, {"train.condition_drop": 0.5}, "scores"),
    "train.precision": ("bf16", {}, "scores"),
    "train.epochs": (3, {}, "scores"),
    "train.steps_per_epoch": (3, {}, "scores"),
    "train.batch_size": (4, {}, "scores"),
    "train.panel_size": (6, {}, "scores"),
    "train.context_share": (0.3, {}, "scores"),
    "train.learning_rate": (2e-3, {}, "scores"),
    "train.weight_decay": (0.5, {}, "scores"),
    "train.warmup_fraction": (0.5, {}, "scores"),
    "train.final_lr_fraction": (0.9, {}, "scores"),
    "train.gradient_clip": (1e-3, {}, "scores"),
    "train.ema_decay": (0.5, {}, "scores"),
    "train.patience": (1, STRICT, "epochs"),
    "train.tolerance": (1.0, STRICT, "scores"),
    "train.rotate": (True, {}, "scores"),
    "train.mixture_size": (3, {}, "scores"),
    "train.condition_drop": (0.5, {}, "scores"),
    "train.pretrain_epochs": (4, {}, "scores"),
    "train.pretrain_learning_rate": (1e-3, {}, "scores"),
    "train.kl_weight": (1.0, {}, "scores"),
    "train.reconstruction_weight": (9.0, JOINT, "scores"),
    "evaluation.protocol": ("published", {}, "scores"),
    "evaluation.min_spot_fraction": (0.99, {}, "scores"),
    "evaluation.hidden_fraction": (0.6, PUBLISHED, "scores"),
}
# levels of the studies that the table does not reach
LEVELS = [
    ("ar.token_order", "granger", {}),
    ("ar.token_order", "graph", {}),
    ("ar.token_order", "graph_reversed", {}),
    ("ar.token_order", "variance", LATENT),
    ("model.attention_mask", "full", LATENT),
    ("model.attention_mask", "full", {"model.center": "none"}),
    ("diffusion.timestep_sampling", "1/20", {}),
    ("diffusion.schedule", "quadratic", {}),
    ("diffusion.prediction_type", "noise", {}),
    ("sampling.sampler", "ddpm", {}),
    ("sampling.center", "refined", {}),
    ("sampling.estimate", "center", {}),
    ("model.likelihood", "poisson", {}),
    ("model.likelihood", "poisson", COUNTS),
    ("train.epochs", 0, {}),
    ("train.context_share", 0.0, {}),
    ("sampling.n_ar_steps", 2, LATENT),
    ("model.decoder", "joint", LATENT),
    ("model.center", "none", LATENT),
    ("train.mixture_size", 3, LATENT),
    ("ar.decay", 0.3, LATENT),
    ("model.n_condition_tokens", 3, LATENT),
]
WHERE: dict[str, str | int] = {
    "train.n_workers": 2,
    "runtime.device": "cuda",
    "runtime.attention": "flex",
    "runtime.n_threads": 2,
    "runtime.micro_batches": 2,
    "runtime.compile": True,
}


@pytest.fixture(scope="module")
def observe(tiny):
    """What can be seen of a tiny trial, cost aside."""

    @cache
    def of(*items):
        config = tiny.config(dict(items))
        prepared = prepare(tiny.pair, config.data)
        splits = make_splits(prepared.panel, config.split)
        evaluation = evaluate(config, prepared, splits[0])
        return {
            "panel": prepared.panel,
            "split": [split.sha256 for split in splits],
            "epochs": evaluation.summary.get("epochs"),  # a baseline has none
            "scores": evaluation.per_gene,
        }

    return lambda values: of(*sorted({**BASE, **values}.items()))


def same(one, other, key):
    return one[key].equals(other[key]) if key == "scores" else one[key] == other[key]


def test_every_field_is_in_exactly_one_table():
    assert sorted([*FIELDS, *WHERE]) == sorted(field_paths())
    assert [path for path in field_paths() if says_where(path)] == list(WHERE)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_changed_changes_something(tiny, observe, field):
    value, base, key = FIELDS[field]
    assert tiny.config({**BASE, **base}).flatten()[field] != value
    before, after = observe(base), observe({**base, field: value})
    assert not same(before, after, key)
    if key == "scores":  # of the same genes: not because others were scored
        assert same(before, after, "panel")
        assert same(before, after, "split")
    values = {**BASE, **base}
    assert tiny.config({**values, field: value}).fingerprint() != tiny.config(values).fingerprint()


@pytest.mark.parametrize(("field", "value", "base"), LEVELS, ids=[f"{f}={v} {b or ''}" for f, v, b in LEVELS])
def test_other_levels_of_the_studies_change_the_scores_too(observe, field, value, base):
    assert not same(observe(base), observe({**base, field: value}), "scores")


WITHOUT = {
    "model.token_dim": {},
    "sampling.sampler": {"sampling.estimate": "posterior_mean"},
    "sampling.n_ensemble": {},
    "train.reconstruction_weight": {},
    "train.context_share": LATENT,
    "train.rotate": LATENT,
    "evaluation.hidden_fraction": {},
}


@pytest.mark.parametrize("field", WITHOUT)
def test_a_field_without_what_it_needs_changes_nothing(observe, field):
    """So that the table's second column is no more than it must be."""
    value, _, key = FIELDS[field]
    base = WITHOUT[field]
    assert same(observe(base), observe({**base, field: value}), key)


@pytest.mark.parametrize(
    "field", [pytest.param(path, marks=pytest.mark.slow) if path == "runtime.compile" else path for path in WHERE]
)
def test_where_a_trial_runs_changes_no_number_or_fingerprint(tiny, observe, field):
    """To 1e-3 in a metric: other kernels and threads sum float32 in another order, and training amplifies it.

    What cannot run here says so with a ConfigError that names it.
    """
    values = {**BASE, field: WHERE[field]}
    assert tiny.config().flatten()[field] != WHERE[field]
    before = observe({})
    refusal = None
    try:
        assert tiny.config(values).fingerprint() == tiny.config(BASE).fingerprint()
        after = observe(values)
    except ConfigError as error:
        refusal = str(error)
    if refusal:
        assert field == "runtime.attention" or not torch.cuda.is_available()
        assert str(WHERE[field]) in refusal
        return
    assert same(before, after, "split")
    numbers = [table["scores"].drop(columns="gene").to_numpy(dtype=float) for table in (before, after)]
    np.testing.assert_allclose(*numbers, atol=1e-3)
