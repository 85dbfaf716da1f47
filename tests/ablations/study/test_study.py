from pathlib import Path

import pytest
from pydantic import ValidationError

from ablations.study.study import Study, list_studies, load_studies, load_study
from cgd.config import Config
from cgd.errors import StudyError

PAPER = {
    "decoder_training": ("model.decoder", ["frozen", "joint"], "frozen", "bars"),
    "encoder_variation": ("model.encoder", ["variational", "deterministic"], "variational", "bars"),
    "ar_decay": ("ar.decay", [0.7, 0.8, 0.9, 1.0], 0.8, "lines"),
    "depth": ("model.depth", [1, 2, 3, 4, 5], 3, "lines"),
    "timestep_sampling": (
        "diffusion.timestep_sampling",
        ["full", "1/2", "1/3", "1/4", "1/20", "adaptive"],
        "full",
        "table",
    ),
}
GOOD = """\
name: dropout
question: Does dropout help?
hypothesis: It does not.
factor:
  path: model.dropout
  name: Dropout
levels:
  - value: 0.0
  - value: 0.1
default: 0.0
"""
GRID = """\
name: depth_by_decay
question: Do depth and decay interact?
hypothesis: They do not.
grid: true
factors:
  - {path: model.depth, name: Blocks, levels: [{value: 1}, {value: 3}], default: 3}
  - {path: ar.decay, name: Decay, levels: [{value: 0.7}, {value: 0.8}, {value: 1.0}], default: 0.8}
"""
CONDITIONAL = """\
name: samplers
question: Which sampler?
hypothesis: Any.
grid: true
fixed: {sampling.estimate: draws, diffusion.n_timesteps: 100}
factors:
  - {path: sampling.sampler, name: Sampler, levels: [{value: ddpm}, {value: ddim}, {value: dpm_solver}], default: ddim}
  - path: sampling.n_steps
    name: Steps
    levels: [{value: 5}, {value: 10}]
    default: 10
    when: {sampling.sampler: [ddim, dpm_solver]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PAPER)
def test_built_in_study_has_the_levels_of_the_paper(name):
    study = load_study(name)
    path, levels, default, figure = PAPER[name]
    assert study.name == name
    assert study.factor is not None
    assert study.factor.path == path
    assert [level.value for level in study.levels] == levels
    assert study.default == default
    assert study.figure == figure
    assert Config().flatten()[path] == default


@pytest.mark.parametrize("name", PAPER)
def test_built_in_trials_change_only_the_factor_and_the_seed(name):
    base = Config().with_values({"split.n_folds": 2, "train.epochs": 3, "seed": 9})
    trials = load_study(name).trials(base, ["a", "b"], [0, 4], [0, 1])
    path, levels, _, _ = PAPER[name]
    assert len(trials) == 8 * len(levels)
    assert len({(t.dataset, t.fold, t.seed, t.level) for t in trials}) == len(trials)
    for trial in trials:
        before, after = base.flatten(), trial.config.flatten()
        assert {p for p in after if after[p] != before[p]} <= {path, "seed"}
        assert after["seed"] == trial.seed
        assert trial.study == name
    assert {trial.config.flatten()[path] for trial in trials} == set(levels)


def test_levels_of_a_data_set_follow_each_other():
    trials = load_study("ar_decay").trials(Config(), ["a", "b"], [0, 1], [0])
    assert [trial.level for trial in trials[:4]] == ["0.7", "0.8", "0.9", "1.0"]
    assert {(t.dataset, t.seed) for t in trials[:4]} == {("a", 0)}


def test_the_papers_numbers():
    table = load_study("timestep_sampling").paper.values
    assert table["all T"]["MC"] == 0.879
    assert table["1/20 T"] == {
        "HBC": 0.921, "MC": 0.864, "MG": 0.835, "MHM": 0.913, "MHPR": 0.831, "ML": 0.895, "MPMC": 0.872,
    }  # fmt: skip
    assert "adaptive" not in table
    decoder = load_study("decoder_training").paper.values
    assert (decoder["frozen"]["MVC"], decoder["joint"]["MVC"]) == (0.853, 0.840)
    encoder = load_study("encoder_variation").paper.values
    assert (encoder["variational"]["ML"], encoder["deterministic"]["ML"]) == (0.895, 0.878)
    assert load_study("ar_decay").paper.values == load_study("depth").paper.values == {}


@pytest.mark.parametrize("text", [GOOD, GRID, CONDITIONAL], ids=["one factor", "grid", "conditional grid"])
def test_a_study_survives_the_tracking_store(tmp_path, text):
    study = load_study(write(tmp_path, text))
    assert Study.from_dict(study.model_dump(mode="json")) == study


def test_labels_default_to_the_values(tmp_path):
    study = load_study(write(tmp_path, GOOD))
    assert study.labels == ["0.0", "0.1"]
    assert study.default_label == "0.0"


def test_a_grid_crosses_its_factors(tmp_path):
    study = load_study(write(tmp_path, GRID))
    assert study.labels == [f"{depth} × {decay}" for depth in (1, 3) for decay in (0.7, 0.8, 1.0)]
    assert study.default_label == "3 × 0.8"
    assert study.title == "Blocks × Decay"
    trial = study.trials(Config(), ["a"], [0], [0])[2]
    assert (trial.level, trial.config.model.depth, trial.config.ar.decay) == ("1 × 1.0", 1, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "line", "hint"),
    [
        ("path: model.dropout", "path: model.droput", 5, "did you mean 'model.dropout'?"),
        ("hypothesis:", "hypotesis:", 3, "did you mean 'hypothesis'?"),
        ("  name: Dropout", "  nme: Dropout", 6, "did you mean 'name'?"),
        ("  - value: 0.1", "  - value: 0.1\n    lable: x", 10, "did you mean 'label'?"),
        ("  - value: 0.1", "  - value: 1.5", 9, "model.dropout = 1.5"),
        ("  - value: 0.1", "  - value: 0", 7, "two levels have the value 0.0"),
        ("  - value: 0.1", "  - {value: 0.1, label: 0.0}", 7, "two levels have the label '0.0'"),
        ("default: 0.0", "default: 0.3", 10, "0.3 is not one of the levels: 0.0, 0.1"),
        ("name: dropout", "name: Drop out!", 1, "name"),
        ("path: model.dropout", "path: seed", 5, "ask for several seeds instead"),
        ("path: model.dropout", "path: evaluation.protocol", 5, "never share a table"),
        ("path: model.dropout", "path: runtime.n_threads", 5, "does not change what a trial computes"),
        ("default: 0.0", "default: 0.0\nfigure: pie", 11, "'bars', 'lines' or 'table'"),
        ("levels:", "levels: [", 8, "not valid YAML"),
        ("default: 0.0", "default: 0.0\nquestion: Again?", 11, "the key 'question' is written twice"),
        ("  - value: 0.1", "  - {value: 0.1, value: 0.2}", 9, "the key 'value' is written twice"),
        ("path: model.dropout", "path: split.n_folds", 5, "ask for several folds instead"),
        ("path: model.dropout", "path: split.seed", 5, "cannot be a factor: it decides which genes are trained on"),
        ("path: model.dropout", "path: data.hvg_fraction", 5, "it decides which genes and spots there are"),
        ("path: model.dropout", "path: evaluation.hidden_fraction", 5, "it decides how a level is scored"),
        ("default: 0.0", "default: 0.0\nseeds: 0", 11, "greater than or equal to 1"),
        ("default: 0.0", "default: 0.0\nfolds: two", 11, "valid integer"),
        ("default: 0.0", "default: 0.0\nsmallest_effect: 0", 11, "greater than 0"),
        ("default: 0.0", "default: 0.0\ndatasets: [a, b, a]", 11, "data set 'a' is listed twice"),
        ("default: 0.0", "default: 0.0\nfixed: {model.depht: 2}", 11, "did you mean 'model.depth'?"),
        ("default: 0.0", "default: 0.0\nfixed:\n  model.depth: 0", 12, "model.depth = 0: Input should be greater"),
        ("default: 0.0", "default: 0.0\nfixed:\n  model.depth: 2\n  model.dropout: 0", 13, "varied by this study"),
        ("default: 0.0", "default: 0.0\nfixed: {seed: 3}", 11, "'seed' cannot be fixed"),
        ("  - value: 0.1", "  - {value: 0.1, only_on: []}", 9, "expected at least one entry"),
        ("  - value: 0.1", "  - {value: 0.1, only_on: a}", 9, "expected a list such as [a, b], found 'a'"),
        ("  - value: 0.1", "  - value: [0.1]", 9, "expected a number, a word, true or false, found [0.1]"),
        ("default: 0.0", "default: 0.0\nfixed:", 11, "expected a mapping such as {key: value}, found None"),
        ("default: 0.0", "default: 0.0\nfixed: {model.depth: }", 11, "expected a number, a word, true or false"),
        ("  - value: 0.0", "  - {value: 0.0, only_on: [a]}", 8, "the default is what every level is compared with"),
        (
            "  - value: 0.1",
            "  - {value: 0.1, only_on: [tissu]}\ndatasets: [here/tissue, b]",
            9,
            "'tissu' is not among the study's 'datasets'; did you mean 'tissue'?",
        ),
        ("default: 0.0", "default: 0.0\nconfigurations: []", 11, "is written by the search alone"),
        (
            "default: 0.0",
            "default: 0.0\npaper: {figure: F, protocol: published, metric: pcc, claim: C, values: {0.01: {A: 1}}}",
            11,
            "no level is labelled '0.01'; did you mean '0.1'?",
        ),
    ],
)
def test_a_malformed_study_is_refused_with_its_line(tmp_path, old, new, line, hint):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(StudyError) as caught:
        load_study(path)
    assert f"line {line}:" in str(caught.value)
    assert hint in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GRID.replace("grid: true\n", ""), "add 'grid: true'"),
        (GRID.replace("ar.decay", "model.depth").replace("0.7", "2").replace("0.8", "3"), "different paths"),
        (GOOD + "grid: true\n", "remove 'factor'"),
        (GOOD.replace("  - value: 0.1\n", ""), "at least two 'levels'"),
        (GRID.replace("default: 0.8", "default: 0.75"), "line 7: factors.1.default"),
        (
            CONDITIONAL.replace("when: {sampling.sampler", "when: {sampling.samplr"),
            "line 12: .*did you mean 'sampling.sam",
        ),
        (CONDITIONAL.replace("when: {sampling.sampler", "when: {sampling.n_steps"), "line 12: .*no other factor"),
        (CONDITIONAL.replace("[ddim, dpm_solver]}", "euler}"), "line 12: .*'ddpm', 'ddim' or 'dpm_solver'"),
        (
            CONDITIONAL.replace("{value: ddpm}, ", "").replace("[ddim, d", "[ddpm, d"),
            "line 12: .*not one of the levels",
        ),
        ("", "found nothing"),
        ("- a\n- b\n", "found list"),
    ],
)
def test_a_study_with_the_wrong_shape_is_refused(tmp_path, text, message):
    with pytest.raises(StudyError, match=message):
        load_study(write(tmp_path, text))


def test_an_unknown_study_is_answered_with_the_closest():
    with pytest.raises(StudyError, match=r"no study 'ar_deca'.*did you mean 'ar_decay'\?.*--list"):
        load_study("ar_deca")


@pytest.mark.parametrize(
    ("datasets", "seeds", "folds", "message"),
    [
        ([], [0], [0], "at least one data set"),
        (["a"], [], [0], "at least one seed"),
        (["a", "a"], [0], [0], "data set 'a' is asked for twice"),
        (["a"], [1, 1], [0], "seed 1 is asked for twice"),
        (["a"], [0], [1], "fold 1 does not exist, split.n_folds is 1"),
    ],
)
def test_trials_that_cannot_be_are_refused(datasets, seeds, folds, message):
    with pytest.raises(StudyError, match=message):
        load_study("depth").trials(Config(), datasets, seeds, folds)


def test_a_level_that_contradicts_the_base_is_refused_by_name(tmp_path):
    text = GOOD.replace("model.dropout", "diffusion.prediction_type").replace("0.0", "x_start").replace("0.1", "noise")
    study = load_study(write(tmp_path, text))
    with pytest.raises(StudyError, match=r"study 'dropout', level 'noise': .*sampling.estimate = draws"):
        study.trials(Config(), ["a"], [0], [0])
    draws = Config().with_values({"sampling.estimate": "draws"})
    assert len(study.trials(draws, ["a"], [0], [0])) == 2


def test_a_level_that_drags_another_field_along_is_refused():
    class Dragging(Config):
        def with_values(self, values):
            return super().with_values({**values, "model.width": 64 * values["model.depth"]})

    with pytest.raises(StudyError, match=r"level '1' would also change model\.width"):
        load_study("depth").trials(Dragging(), ["a"], [0], [0])


def test_a_study_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_study("depth").default = 4


def test_a_conditional_factor_is_at_its_default_elsewhere(tmp_path):
    study = load_study(write(tmp_path, CONDITIONAL))
    assert study.labels == ["ddpm", "ddim × 5", "ddim × 10", "dpm_solver × 5", "dpm_solver × 10"]
    assert study.default_label == "ddim × 10"
    assert study.combinations[0].values == {"sampling.sampler": "ddpm", "sampling.n_steps": 10}
    one_value = load_study(write(tmp_path, CONDITIONAL.replace("[ddim, dpm_solver]}", "ddim}")))
    assert one_value.labels == ["ddpm", "ddim × 5", "ddim × 10", "dpm_solver"]


def test_what_is_fixed_holds_for_every_level_and_nothing_else(tmp_path):
    study = load_study(write(tmp_path, CONDITIONAL))
    base = Config().with_values({"train.epochs": 3})
    own = study.base(base).flatten()
    assert {path: value for path, value in own.items() if base.flatten()[path] != value} == study.fixed
    trials = study.trials(base, ["a"], [0], [0])
    assert {(t.config.sampling.estimate, t.config.diffusion.n_timesteps) for t in trials} == {("draws", 100)}
    with pytest.raises(StudyError, match=r"study 'samplers', fixed: .*must be below"):
        study.base(base.with_values({"sampling.n_steps": 500}))


def test_an_assignment_that_contradicts_what_is_fixed_is_refused(tmp_path):
    study = load_study(write(tmp_path, CONDITIONAL))
    study.check_assigned({"sampling.estimate": "draws", "diffusion.n_timesteps": 100, "train.epochs": 1})
    with pytest.raises(StudyError, match=r"--set diffusion.n_timesteps=50 contradicts study 'samplers'.*fixed at 100"):
        study.check_assigned({"diffusion.n_timesteps": 50})


def test_a_level_is_run_on_the_data_sets_it_names(tmp_path):
    study = load_study(write(tmp_path, GOOD.replace("value: 0.1", "value: 0.1\n  - {value: 0.2, only_on: [b]}")))
    assert [row.label for row in study.combinations_on("a")] == ["0.0", "0.1"]
    assert [row.label for row in study.combinations_on("b")] == study.labels == ["0.0", "0.1", "0.2"]
    trials = study.trials(Config(), ["a", "b"], [0], [0])
    assert [(t.dataset, t.level) for t in trials] == [
        ("a", "0.0"), ("a", "0.1"), ("b", "0.0"), ("b", "0.1"), ("b", "0.2"),
    ]  # fmt: skip
    alone = load_study(write(tmp_path, GOOD.replace("value: 0.1", "{value: 0.1, only_on: [b]}")))
    with pytest.raises(StudyError, match=r"nothing to compare on 'a', as it runs '0\.1' on b only"):
        alone.trials(Config(), ["b", "a"], [0], [0])


def test_grid_levels_that_share_no_data_set_are_not_combined(tmp_path):
    text = GRID.replace("{value: 1}", "{value: 1, only_on: [a, b]}").replace(
        "{value: 1.0}", "{value: 1.0, only_on: [c]}"
    )
    study = load_study(write(tmp_path, text))
    assert "1 × 1.0" not in study.labels
    assert "3 × 1.0" in [row.label for row in study.combinations_on("c")]
    assert "1 × 0.7" not in [row.label for row in study.combinations_on("c")]


def test_replicates_and_data_sets_may_stand_in_the_file(tmp_path):
    study = load_study(write(tmp_path, GOOD + "seeds: 3\nfolds: 5\ndatasets: [a, b]\nsmallest_effect: 0.02\n"))
    assert (study.seeds, study.folds, study.datasets, study.smallest_effect) == (3, 5, ("a", "b"), 0.02)
    silent = load_study(write(tmp_path, GOOD))
    assert (silent.seeds, silent.folds, silent.datasets, silent.smallest_effect) == (None, None, (), 0.01)


SEARCHED = {
    "name": "searched",
    "question": "Is what the search found better?",
    "hypothesis": "It is.",
    "configurations": [
        {"label": "default", "values": {}, "is_default": True},
        {"label": "first", "values": {"model.depth": 4, "ar.decay": 0.7}},
    ],
}


def test_configurations_are_compared_like_levels():
    study = Study.from_dict(SEARCHED)
    assert (study.labels, study.default_label) == (["default", "first"], "default")
    assert study.paths == ("model.depth", "ar.decay")
    trials = study.trials(Config(), ["a"], [0], [0])
    assert [(t.level, t.config.model.depth, t.config.ar.decay) for t in trials] == [
        ("default", 3, 0.8),
        ("first", 4, 0.7),
    ]
    assert Study.from_dict(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_default": True}, "one of them marked 'is_default'; found 2 with 2 marked"),
        ({"label": "default"}, "two configurations have the label 'default'"),
        ({"values": {}}, "two configurations have the values"),
        ({"values": {"model.depht": 1}}, "did you mean 'model.depth'"),
        ({"values": {"model.depth": 0}}, "greater than or equal to 1"),
        ({"values": {"seed": 1}}, "'seed' cannot be varied"),
    ],
)
def test_malformed_configurations_are_refused(changes, message):
    first, second = SEARCHED["configurations"]
    with pytest.raises(StudyError, match=message):
        Study.from_dict({**SEARCHED, "configurations": [first, {**second, **changes}]})
    with pytest.raises(StudyError, match="configurations stand alone"):
        Study.from_dict({**SEARCHED, "grid": True})


def test_names_of_several_studies_are_expanded_once(tmp_path):
    mine = write(tmp_path, GOOD)
    assert [study.name for study in load_studies(["paper", "depth", mine])] == [*sorted(PAPER), "dropout"]
    assert [study.name for study in load_studies(["all"])] == list_studies()
