"""Studies to trials: what a file says, what a command says instead, and what the store has already."""

from dataclasses import replace

import pytest
import yaml

from ablations.study.study import Study
from cgd.config import Config
from cgd.errors import DataError, StudyError
from tune.trials.plan import Planner

LOADER = "tune.trials.plan.load_dataset"


@pytest.fixture(autouse=True)
def _tiny_data(tiny, monkeypatch):
    """Every data set is the tiny one, under the name asked for."""
    monkeypatch.setattr(LOADER, lambda given: replace(tiny.pair, name=given.rpartition("/")[2]))


def study(**changes):
    values = """
    name: dropout
    question: Does dropout help?
    hypothesis: It does not.
    factor: {path: model.dropout, name: Dropout}
    levels: [{value: 0.0}, {value: 0.1}]
    default: 0.0
    """
    return Study.from_dict({**yaml.safe_load(values), **changes})


def plan_of(planner, *studies):
    for one in studies:
        planner.add(one)
    return planner.plan


def cells(plan):
    return {(spec.dataset, spec.seed, spec.fold) for _, spec in plan.trials}


def test_replicates_and_data_sets_default_to_those_of_the_file(tiny):
    asked = study(seeds=2, folds=3, datasets=["a", "b"])
    plan = plan_of(Planner(tiny.config({"seed": 5})), asked).studies[0]
    assert cells(plan) == {(d, s, f) for d in ("a", "b") for s in (5, 6) for f in (0, 1, 2)}
    assert {(f.dataset, f.fold) for f in plan.floors} == {(d, f) for d in ("a", "b") for f in (0, 1, 2)}
    assert plan.base.split.n_folds == 3
    assert all(spec.config.split.n_folds == 3 for _, spec in plan.trials)
    silent = plan_of(Planner(tiny.base), study()).studies[0]
    assert cells(silent) == {("simulated", 0, 0)}


def test_what_the_command_names_comes_before_the_file(tiny):
    asked = study(seeds=2, folds=3, datasets=["a", "b"])
    planner = Planner(tiny.config({"split.n_folds": 2}), ["c"], [7], 2)
    assert cells(plan_of(planner, asked).studies[0]) == {("c", 7, 0), ("c", 7, 1)}
    one_split = plan_of(Planner(tiny.base, None, [7], 1), asked).studies[0]
    assert cells(one_split) == {("a", 7, 0), ("b", 7, 0)}


def test_studies_may_differ_in_folds_and_share_floors_if_not(tiny):
    folded, other, plain = study(folds=2), study(name="other", folds=2), study(name="plain")
    plan = plan_of(Planner(tiny.base), folded, other, plain)
    one, two, three = plan.studies
    assert [f.fingerprint for f in one.floors] == [f.fingerprint for f in two.floors]
    assert len(plan.floors) == 3
    assert len(three.floors) == 1
    assert {spec.split.sha256 for _, spec in three.trials} == {three.floors[0].split.sha256}
    assert {spec.split.sha256 for _, spec in one.trials} == {f.split.sha256 for f in one.floors}
    assert len(plan.trials) == 4 + 2  # the two of two folds share every trial
    assert len({p.key for p in plan.studies}) == 3


def test_what_a_study_fixes_is_in_its_own_trials_alone(tiny):
    fixed = study(name="shallow", fixed={"model.depth": 2, "data.hvg_fraction": 0.5, "data.min_panel": 10})
    plan = plan_of(Planner(tiny.base), fixed, study())
    one, other = plan.studies
    assert {spec.config.model.depth for _, spec in one.trials} == {2}
    assert {spec.config.model.depth for _, spec in other.trials} == {1} == {plan.base.model.depth}
    assert len(plan.datasets[one.dataset_keys["simulated"]].panel) == 20
    assert len(plan.datasets[other.dataset_keys["simulated"]].panel) == 40
    assert one.floors[0].fingerprint != other.floors[0].fingerprint
    assert one.base.flatten() == tiny.base.flatten() | fixed.fixed


def test_levels_of_some_data_sets_are_planned_there_and_noted(tiny):
    levels = [{"value": 0.0}, {"value": 0.1}, {"value": 0.2, "only_on": ["b"]}]
    plan = plan_of(Planner(tiny.base, ["a", "b"]), study(levels=levels))
    assert [(spec.dataset, level) for level, spec in plan.studies[0].trials] == [
        ("a", "0.0"), ("a", "0.1"), ("b", "0.0"), ("b", "0.1"), ("b", "0.2"),
    ]  # fmt: skip
    assert "study dropout" not in plan.notes
    without = plan_of(Planner(tiny.base, ["a"]), study(levels=levels))
    assert without.notes["study dropout"] == ["level '0.2' runs on b only"]


def test_a_trial_has_a_key_that_outlives_the_code_version(tiny, monkeypatch):
    one = plan_of(Planner(tiny.base, ["a"], [0, 1]), study(folds=2))
    monkeypatch.setattr("cgd.evaluation.code_version", lambda *modules: "another")
    other = plan_of(Planner(tiny.base, ["a"], [0, 1]), study(folds=2))
    keys = [spec.trial_key for _, spec in one.studies[0].trials]
    assert keys == [spec.trial_key for _, spec in other.studies[0].trials]
    assert len(set(keys)) == len(keys) == 8
    assert not set(one.trials) & set(other.trials)


def test_data_sets_of_one_name_must_be_one_data_set(tiny, monkeypatch):
    assert Planner(tiny.base, ["a", "folder/a"]).prepare_under_base().keys() == {"a"}
    with pytest.raises(StudyError, match="data set 'a' is asked for twice"):
        Planner(tiny.base, ["a", "folder/a"]).add(study())
    cut = replace(tiny.pair, name="a", adata_st=tiny.pair.adata_st[:-1])
    monkeypatch.setattr(LOADER, lambda given: cut if "/" in given else replace(tiny.pair, name="a"))
    with pytest.raises(DataError, match="two data sets are called 'a'"):
        Planner(tiny.base, ["a", "folder/a"])


def test_two_studies_of_one_name_are_refused(tiny):
    with pytest.raises(StudyError, match="two studies are called 'dropout'"):
        plan_of(Planner(tiny.base), study(), study())


def test_without_a_study_the_embedded_data_set_is_prepared(tiny):
    planner = Planner(tiny.base)
    keys = planner.prepare_under_base()
    assert list(keys) == ["simulated"]
    assert planner.plan.datasets[keys["simulated"]].panel == tiny.prepared.panel


def test_the_base_of_a_command_is_left_alone(tiny):
    planner = Planner(tiny.base)
    plan_of(planner, study(folds=3, fixed={"model.depth": 3}))
    assert planner.plan.base == tiny.base != Config()
