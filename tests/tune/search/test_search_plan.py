"""Which genes each stage of a search may look at, and what a plan refuses."""

import pytest

from ablations.search.aim import CHOICES
from ablations.search.space import Space, load_space
from cgd.config import Config
from cgd.data.split import make_splits
from cgd.errors import ConfigError, DataError
from tune.search.plan import Replication, make_plan, validation_folds

TWO_FOLDS = Replication(search_folds=1, seeds=2, folds=2)


def test_folds_share_the_test_genes_and_nothing_of_validation(tiny):
    folds = validation_folds(tiny.split, tiny.prepared.panel, 4, seed=0)
    assert folds[0] == tiny.split
    everything = set(tiny.prepared.panel)
    for fold in folds:
        assert fold.test == tiny.split.test
        assert len(fold.val) == len(tiny.split.val)
        parts = [set(fold.train), set(fold.val), set(fold.test)]
        assert set.union(*parts) == everything
        assert sum(map(len, parts)) == len(everything)
    validated = [gene for fold in folds for gene in fold.val]
    assert len(set(validated)) == len(validated)
    assert validation_folds(tiny.split, tiny.prepared.panel, 4, seed=0) == folds
    assert validation_folds(tiny.split, tiny.prepared.panel, 4, seed=1)[1] != folds[1]


def test_ordinary_folds_would_choose_by_test_genes(tiny):
    """Why a search does not use them: a gene validated in one is tested in another."""
    folds = make_splits(tiny.prepared.panel, tiny.base.with_values({"split.n_folds": 3}).split)
    assert set(folds[1].val) & set(folds[0].test)


def test_more_folds_than_there_are_genes_for_are_refused(tiny):
    with pytest.raises(DataError, match=r"--folds 5 asks for 5 disjoint sets of 8 .* at most 4"):
        validation_folds(tiny.split, tiny.prepared.panel, 5, seed=0)


def test_the_confirmation_uses_other_seeds_and_every_fold():
    base = Config(seed=3)
    plan = make_plan(load_space("training"), base, ["simulated"], TWO_FOLDS, n_samples=4)
    assert [(r.seed, r.fold) for r in plan.candidates] == [(3, 0)]
    assert [(r.seed, r.fold) for r in plan.confirmation] == [(4, 0), (4, 1), (5, 0), (5, 1)]
    assert len({r.split.test for r in (*plan.candidates, *plan.confirmation)}) == 1
    same = make_plan(load_space("training"), base, ["simulated"], TWO_FOLDS, n_samples=9)
    assert same.name == plan.name  # more samples of the same search
    other = make_plan(load_space("training"), Config(), ["simulated"], TWO_FOLDS, n_samples=4)
    assert other.name != plan.name


def aim(choice, values=None, space="training"):
    base, n = Config().with_values(values or {}), 4
    return make_plan(load_space(space).aim_at(choice), base, ["simulated"], TWO_FOLDS, n_samples=n)


def test_where_it_runs_makes_another_search_where_seconds_count():
    def name(n_threads, choice):
        return aim(choice, {"runtime.n_threads": n_threads}).name

    assert name(1, "pcc") == name(2, "pcc")
    assert name(1, "both") == name(2, "both")
    assert name(1, "pcc,seconds") != name(2, "pcc,seconds")
    assert len({name(1, choice) for choice in CHOICES}) == len(CHOICES)


def test_a_search_for_both_confirms_the_best_by_each():
    assert {choice: aim(choice).n_finalists for choice in ("pcc", "crps", "both", "pcc,seconds")} == {
        "pcc": 3, "crps": 3, "both": 2, "pcc,seconds": 3,
    }  # fmt: skip


@pytest.mark.parametrize("choice", ["crps", "both", "crps,seconds"])
def test_a_search_by_draws_that_may_not_draw_is_refused(choice):
    for n_samples in (0, 1):
        with pytest.raises(ConfigError, match=rf"sampling\.n_samples is {n_samples} and the aim is {choice}: .*>= 2"):
            aim(choice, {"sampling.n_samples": n_samples})
    few = {"path": "sampling.n_samples", "choices": [1, 4]}
    space = Space.from_dict({"name": "few", "description": "draws", "parameters": [few], "aim": choice})
    with pytest.raises(ConfigError, match=r"space 'few' searches sampling\.n_samples below 2"):
        make_plan(space, Config(), ["simulated"], TWO_FOLDS, n_samples=4)
    assert make_plan(space.aim_at("pcc"), Config(), ["simulated"], TWO_FOLDS, n_samples=4)


@pytest.mark.parametrize(
    ("values", "replication", "message"),
    [
        ({"split.n_folds": 2}, TWO_FOLDS, "a search would choose by them"),
        ({"evaluation.protocol": "published"}, TWO_FOLDS, "hidden whole"),
        ({}, Replication(search_folds=3, folds=2), "--search-folds 3 is more than --folds 2"),
    ],
)
def test_what_would_spoil_the_comparison_is_refused(values, replication, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(load_space("training"), Config().with_values(values), ["simulated"], replication, n_samples=2)
