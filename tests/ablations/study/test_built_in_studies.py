"""The studies that come with the platform: what they vary, and that every level of each can be run."""

import numpy as np
import pytest

from ablations.study.study import PAPER_STUDIES, list_studies, load_study
from cgd.config import Config
from cgd.data.preprocess import prepare
from cgd.data.split import make_splits
from cgd.evaluation import evaluate

# path -> levels of the studies that the method itself asks for
METHOD = {
    "tokens": {"model.tokens": ["gene", "latent"]},
    "token_order": {"ar.token_order": ["random", "granger", "variance"]},
    "timesteps_per_ar_step": {"diffusion.per_step": ["shared", "independent"]},
    "ar_steps_at_inference": {"sampling.n_ar_steps": [1, 2, 4, 8]},
    "sampler": {"sampling.sampler": ["ddpm", "ddim", "dpm_solver"], "sampling.n_steps": [5, 10, 20, 50]},
    "loss_weighting": {"ar.min_weight": [0.1, 0.5, 1.0]},
    "latent_width": {"model.latent_dim": [16, 32, 48, 64]},
    "estimate": {"sampling.estimate": ["posterior_mean", "draws", "center"]},
    "center": {"sampling.center": ["blended", "refined", "ridge"]},
    "cell_components": {"model.kernel_components": [0, 10, 30, 80]},
    "causal_mask": {
        "model.attention_mask": ["causal", "full"],
        "ar.token_order": ["random", "graph", "graph_reversed", "granger"],
    },
    "condition_drop": {"train.condition_drop": [0.0, 0.1, 0.3]},
    "training": {"train.epochs": [0, 16]},
    "likelihood": {"model.likelihood": ["negative_binomial", "poisson", "gaussian"]},
}
ALL = sorted([*METHOD, *PAPER_STUDIES])


def test_the_papers_studies_and_the_methods_are_built_in():
    assert list_studies() == ALL
    assert len(PAPER_STUDIES) == 5


@pytest.mark.parametrize("name", METHOD)
def test_a_study_of_the_method_varies_what_it_says(name):
    study = load_study(name)
    assert study.name == name
    assert {axis.path: [level.value for level in axis.levels] for axis in study.axes} == METHOD[name]


@pytest.mark.parametrize("name", ALL)
def test_the_default_level_is_the_default_plus_what_is_fixed(name):
    study = load_study(name)
    base = study.base(Config())
    default = next(row for row in study.combinations if row.is_default)
    assert base.with_values(default.values) == base
    assert len(study.trials(Config(), ["simulated"], [0], [0])) == len(study.combinations) >= 2


def test_steps_are_varied_only_where_the_sampler_takes_them():
    study = load_study("sampler")
    assert [label for label in study.labels if "ddpm" in label] == ["ddpm"]
    assert len(study.labels) == 9
    assert {trial.config.sampling.estimate for trial in study.trials(Config(), ["a"], [0], [0])} == {"draws"}


def test_a_graph_order_is_asked_for_only_where_data_have_a_graph():
    study, base = load_study("causal_mask"), Config().with_values({"split.n_folds": 2})
    labels = [trial.level for trial in study.trials(base, ["simulated"], [0], [0])]
    assert labels == [*(f"causal × {order}" for order in ("random", "true graph", "graph reversed", "Granger")), "full"]
    assert [t.level for t in study.trials(base, ["a"], [0], [0])] == ["causal × random", "causal × Granger", "full"]
    whole = study.trials(base, ["simulated"], range(study.seeds), range(study.folds))
    assert len(whole) == 20
    for trial in whole:
        assert (trial.config.sampling.n_ar_steps, trial.config.train.mixture_size) == (4, 1)
        assert "graph" not in trial.config.ar.token_order or trial.config.model.attention_mask == "causal"


@pytest.mark.parametrize("name", ALL)
def test_every_level_runs_and_some_level_makes_a_difference(name, tiny):
    # the network shows in every prediction, whether or not it is better than an untrained one
    values = {"sampling.estimate": "draws", "sampling.n_samples": 1, "train.tolerance": 1.0}
    base = tiny.base.with_values({**values, "model.likelihood": "gaussian"})
    scores = {}
    for trial in load_study(name).trials(base, ["tiny"], [0], [0]):
        prepared = prepare(tiny.pair, trial.config.data)
        outcome = evaluate(trial.config, prepared, make_splits(prepared.panel, trial.config.split)[0])
        assert np.isfinite(outcome.summary["test_pcc"]), trial.level
        scores[trial.level] = outcome.per_gene["pcc"].to_numpy().tobytes()
    assert len(set(scores.values())) > 1
