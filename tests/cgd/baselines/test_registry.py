"""The registry of methods, and a trial of one of them."""

import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from cgd.audit import audit_leakage
from cgd.baselines import METHODS, Entry, find_method
from cgd.baselines.spage import SpaGE
from cgd.data.protocol import hide
from cgd.errors import ConfigError, DataError
from cgd.evaluation import evaluate
from cgd.metrics.gene import gene_metrics

OWN = f"{__name__}:Constant"


class Constant:
    """A user's method, found as MODULE:CLASS."""

    value = 1.0
    shape: tuple[int, ...] = ()

    def fit(self, visible, seed):
        self.visible, self.seed = visible, seed

    def predict(self, genes):
        return np.full(self.shape or (len(genes), self.visible.x_st.shape[1]), self.value)


class Nan(Constant):
    value = np.nan


class Short(Constant):
    shape = (2, 3)


class Peeking(Constant):
    """Leaks without an ST value in what it is handed: a total."""

    def predict(self, genes):
        return super().predict(genes) + self.visible.st_totals.sum()


# ---- names --------------------------------------------------------------------------------------------------------


def test_every_registry_line_names_a_class_of_its_file():
    assert len({entry.title for entry in METHODS.values()}) == len(METHODS)
    for name, entry in METHODS.items():
        module, _, cls = entry.home.partition(":")
        assert module == f"cgd.baselines.{name}"
        assert cls
        assert find_method(name) is entry


def test_methods_without_an_extra_are_made_without_arguments():
    made = [entry.make() for entry in METHODS.values() if entry.package is None]
    assert {type(method).__name__ for method in made} >= {"SpaGE", "StPlus", "SpaOTsc", "NovoSpaRc"}


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ConfigError, match=r"no method is called 'spagge'; did you mean 'spage'\?.*MODULE:CLASS"):
        find_method("spagge")


@pytest.mark.parametrize("name", ["a:b:c", "module:", ":Class", "os.path", "a b:c", "../x:Y"])
def test_what_is_no_module_and_class_is_no_method(name):
    with pytest.raises(ConfigError, match="no method is called"):
        find_method(name)


def test_a_class_of_ones_own_is_found_by_its_module():
    entry = find_method(OWN)
    assert entry.title == "Constant"
    assert type(entry.make()) is import_module(__name__).Constant


def test_a_module_or_class_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="needs the package 'no_such_module'; install it, or correct the name"):
        find_method("no_such_module:Method").make()
    with pytest.raises(ConfigError, match=r"module cgd.baselines.spage has no class 'Spage'"):
        find_method("cgd.baselines.spage:Spage").make()


def test_a_missing_package_names_the_extra_that_installs_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "cgd.baselines.spaotsc", raising=False)
    monkeypatch.setitem(sys.modules, "ot.unbalanced", None)
    entry = Entry("cgd.baselines.spaotsc:SpaOTsc", "SpaOTsc", "baselines")
    with pytest.raises(ConfigError, match=r"SpaOTsc needs the package 'ot.unbalanced'; .*causalged-ray\[baselines\]"):
        entry.make()


def test_versions_follow_the_code_a_method_runs():
    versions = {name: METHODS[name].code_version() for name in ("spage", "stplus", "spaotsc", "novosparc")}
    assert len(set(versions.values())) == 4
    assert versions["spage"] == Entry("cgd.baselines.spage:SpaGE", "another title").code_version()


# ---- trials -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation(tiny):
    return tiny.evaluate({"method": "spage"})


def test_a_baselines_trial_has_a_row_per_test_gene_and_no_model(tiny, evaluation):
    assert evaluation.model is None
    assert list(evaluation.per_gene["gene"]) == list(tiny.split.test)
    assert list(evaluation.per_gene) == list(tiny.evaluate().per_gene)


def test_its_summary_has_the_means_and_the_costs(tiny, evaluation):
    summary = evaluation.summary
    assert summary["test_pcc"] == pytest.approx(evaluation.per_gene["pcc"].mean())
    assert {f"test_{metric}" for metric in ("pcc", "ssim", "rmse", "js", "spearman")} <= set(summary)
    assert 0 < summary["train_seconds"] <= summary["wall_seconds"] < 60
    assert 10 < summary["peak_memory_mb"] < 100_000
    assert not {"epochs", "val_pcc", "n_parameters"} & set(summary)


def test_its_scores_are_those_of_the_method_on_what_may_be_seen(tiny, evaluation):
    hidden, method = tiny.hidden(), SpaGE()
    method.fit(hidden.visible, 0)
    expected = gene_metrics(method.predict(tiny.split.test), hidden.test.truth)["pcc"]
    scored = hidden.test.scored
    np.testing.assert_allclose(evaluation.per_gene["pcc"][scored], expected[scored], rtol=1e-6)


def test_the_published_protocol_scores_a_baseline_too(tiny):
    published = tiny.evaluate({"method": "spage", "evaluation.protocol": "published"})
    assert {"copied_share", "hidden_pcc"} <= set(published.per_gene)
    assert published.summary["test_pcc"] > tiny.evaluate({"method": "spage"}).summary["test_pcc"]


@pytest.mark.parametrize(("name", "found"), [("Nan", "values that are not finite"), ("Short", r"found shape \(2, 3\)")])
def test_a_prediction_not_finite_or_of_another_shape_is_refused(tiny, name, found):
    with pytest.raises(DataError, match=rf"{name} must predict finite values of shape \(4, \d+\).*{found}"):
        tiny.evaluate({"method": f"{__name__}:{name}"})


def test_the_settings_of_causalged_do_not_change_a_baseline(tiny):
    one, other = (tiny.config({"method": "spage", "model.width": width}) for width in (16, 24))
    assert one.fingerprint() == other.fingerprint()
    tables = [evaluate(config, tiny.prepared, tiny.split).per_gene for config in (one, other)]
    assert tables[0].equals(tables[1])


def test_the_audit_catches_a_baseline_shown_a_hidden_total(tiny, monkeypatch):
    config = tiny.config({"method": f"{__name__}:Peeking"})
    assert audit_leakage(config, tiny.prepared, tiny.split).identical

    def leaky(prepared, split, config):
        hidden = hide(prepared, split, config)
        totals = prepared.st_totals[hidden.spots].astype(np.float32)
        return replace(hidden, visible=replace(hidden.visible, st_totals=totals))

    monkeypatch.setattr("cgd.audit.hide", leaky)
    audit = audit_leakage(config, tiny.prepared, tiny.split)
    assert not audit.identical
    assert audit.largest_difference > 0
    assert not audit_leakage(tiny.config({"method": OWN}), tiny.prepared, tiny.split).identical  # though it ignores it
