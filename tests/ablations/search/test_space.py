"""Search spaces: what they refuse and where, and that nothing they give is refused by the configuration."""

import math

import optuna
import pytest

from ablations.search.aim import find_front, list_aims
from ablations.search.space import Space, list_spaces, load_space
from cgd.config import Config
from cgd.errors import ConfigError, StudyError

HEAD = "name: mine\ndescription: a space\nparameters:\n"


def write(tmp_path, *lines):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "".join(f"  - {{{line}}}\n" for line in lines))
    return path


def drawn(space, n, base=None, seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(n):
        trial = study.ask()
        values = space.suggest(trial, base or Config())
        yield trial.params, values


@pytest.mark.parametrize("name", list_spaces())
def test_every_point_becomes_a_valid_configuration_and_back(name):
    space, base = load_space(name), Config()
    for params, values in drawn(space, 200):
        config = base.with_values(values)  # raises where fields do not go together
        assert space.point(config) == params


@pytest.mark.parametrize("name", list_spaces())
def test_the_default_lies_within_every_space(name):
    space = load_space(name)
    assert space.find_outside(Config()) == {}
    assert space.include(Config()) == space
    assert Space.from_dict(space.model_dump(mode="json")) == space


def test_full_covers_what_is_ablated_and_the_usual():
    paths = {parameter.path for parameter in load_space("full").parameters}
    assert paths >= {
        "model.decoder", "model.encoder", "ar.decay", "model.depth", "diffusion.timestep_sampling", "model.tokens",
        "train.learning_rate", "model.width", "model.n_heads", "model.latent_dim", "model.token_dim", "model.dropout",
        "train.kl_weight", "train.reconstruction_weight", "ar.min_weight", "train.ema_decay", "sampling.sampler",
        "sampling.n_steps", "sampling.estimate", "model.kernel_sharpness", "train.rotate", "train.mixture_size",
        "train.batch_size", "train.panel_size", "train.weight_decay", "train.patience", "train.epochs",
    }  # fmt: skip


def test_conditions_decide_what_is_searched():
    seen = set()
    for _, values in drawn(load_space("full"), 200, seed=1):
        latent, draws = values["model.tokens"] == "latent", values["sampling.estimate"] == "draws"
        assert ("model.token_dim" in values) == latent
        assert ("ar.token_order" in values) == (not latent)
        assert ("sampling.sampler" in values) == draws
        assert ("train.reconstruction_weight" in values) == (values["model.decoder"] == "joint")
        if values.get("sampling.sampler") == "ddpm":
            assert values["diffusion.n_timesteps"] == 200
        if values["diffusion.prediction_type"] == "noise":
            assert draws
        seen.add(values.get("sampling.sampler"))
    assert seen == {None, "ddpm", "ddim", "dpm_solver"}


def test_a_size_that_depends_on_another_always_fits(tmp_path):
    lines = ("path: model.n_heads, choices: [2, 3, 5]", "path: model.width, choices: [8, 16], times: model.n_heads")
    more = "path: model.hidden_dim, low: 0, high: 8, step: 4, plus: model.latent_dim"
    space = load_space(write(tmp_path, *lines, "path: model.latent_dim, low: 5, high: 9", more))
    for params, values in drawn(space, 40):
        assert values["model.width"] == params["model.width per model.n_heads"] * values["model.n_heads"]
        assert values["model.hidden_dim"] - values["model.latent_dim"] in (0, 4, 8)
        Config().with_values(values)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("path: model.dept, low: 1, high: 2", "line 4: parameters.0.path: no field 'model.dept'.*did you mean 'model"),
        ("path: seed, low: 1, high: 2", "'seed' cannot be searched: seeds are replicates"),
        ("path: data.min_panel, low: 1, high: 2", "'data.min_panel' cannot be searched: it decides which genes"),
        ("path: model.depth, lo: 1, high: 2", "line 4: parameters.0.lo: unknown key; did you mean 'low'"),
        ("path: model.depth", "expected either 'choices' or 'low' and 'high'"),
        ("path: model.depth, low: 3, high: 2", "expected 'low' below 'high', found 3 and 2"),
        ("path: model.depth, low: 0, high: 2", "parameters.0.low: model.depth = 0"),
        ("path: model.depth, low: 1.5, high: 2", "takes whole numbers"),
        ("path: model.tokens, choices: [gene, word]", "line 4: parameters.0.choices.1: model.tokens = 'word'"),
        ("path: model.tokens, choices: [gene]", "at least two different choices"),
        ("path: train.learning_rate, low: 0, high: 1, log: true", "'low' above 0"),
        ("path: ar.decay, low: 0.5, high: 1.0, step: 0.3", "steps of 0.3 from 0.5 do not arrive at 1.0"),
        ("path: model.width, choices: [8, 16], times: model.heads", "no field 'model.heads'"),
        ("path: model.depth, low: 1, high: 2, when: {model.tokens: word}", "model.tokens = 'word'"),
        ("path: model.depth, low: 1, high: 2, plus: model.tokens", "line 4: .*relate sizes.*model.tokens is 'gene'"),
        ("path: model.depth, low: 1, high: 2, times: model.dropout", "model.dropout is 0"),
        ("path: model.tokens, choices: [gene, latent], times: model.depth", "relate sizes.*model.tokens is 'gene'"),
        ("path: model.width, choices: [a, b], times: model.n_heads", "expected whole numbers as choices"),
    ],
)
def test_a_malformed_space_says_where_and_how_to_mend_it(tmp_path, line, message):
    with pytest.raises(StudyError, match=message):
        load_space(write(tmp_path, line))


def test_what_depends_on_another_field_stands_below_it(tmp_path):
    lines = ("path: model.token_dim, choices: [2, 4], when: {model.tokens: latent}", "path: model.tokens, choices: [gene, latent]")  # fmt: skip  # noqa: E501
    with pytest.raises(StudyError, match=r"model\.token_dim depends on model\.tokens, which must stand above it"):
        load_space(write(tmp_path, *lines))


def test_a_path_stands_twice_only_under_exclusive_conditions(tmp_path):
    tokens, order = "path: model.tokens, choices: [gene, latent]", "path: ar.token_order, choices: [random, variance]"
    with pytest.raises(StudyError, match=r"line 6: .*searched twice"):
        load_space(write(tmp_path, tokens, f"{order}, when: {{model.tokens: gene}}", order))
    space = load_space(write(tmp_path, tokens, *(f"{order}, when: {{model.tokens: {t}}}" for t in ("gene", "latent"))))
    assert [name for name, _ in space.name_parameters()][1:] == [
        f"ar.token_order (model.tokens={t})" for t in ("gene", "latent")
    ]


def test_an_unknown_space_names_the_closest():
    with pytest.raises(StudyError, match=r"no search space 'trainin'.*did you mean 'training'"):
        load_space("trainin")


def test_a_space_is_widened_for_the_default_and_narrowed_if_held(tmp_path):
    lines = ("path: model.depth, low: 4, high: 8, step: 2", "path: train.batch_size, choices: [8, 16]")
    space = load_space(write(tmp_path, *lines))
    wider = space.include(Config())  # depth 3, batch size 4
    assert (wider.parameters[0].low, wider.parameters[0].step) == (3, None)
    assert wider.parameters[1].choices == (8, 16, 4)
    assert set(space.find_outside(Config())) == {"model.depth", "train.batch_size"}
    assert [p.path for p in space.hold(["model.depth"]).parameters] == ["train.batch_size"]
    with pytest.raises(StudyError, match="nothing is left to search"):
        space.hold(["model.depth", "train.batch_size"])


def test_a_default_that_no_multiple_gives_is_refused(tmp_path):
    lines = ("path: model.n_heads, choices: [2, 4]", "path: model.hidden_dim, choices: [2, 4], times: model.latent_dim")
    with pytest.raises(ConfigError, match=r"in multiples of model\.latent_dim, and 128 is none of 48"):
        load_space(write(tmp_path, *lines)).include(Config())


def test_a_space_says_what_is_aimed_at_and_names_a_wrong_aim(tmp_path):
    text = "name: mine\ndescription: d\naim: {}\nparameters:\n  - {{path: model.depth, low: 1, high: 3}}\n"
    path = tmp_path / "mine.yaml"
    expected = {"pcc": ["pcc"], "crps": ["crps"], "both": ["pcc", "crps"], '"crps,seconds"': ["crps", "seconds"]}
    for choice, aims in expected.items():
        path.write_text(text.format(choice))
        space = load_space(path)
        assert [aim.name for aim in space.aims] == aims
        assert space.stops_early is (len(aims) == 1)
        assert load_space(path).aim_at("pcc").aim == "pcc"
    path.write_text(text.format("crsp"))
    with pytest.raises(StudyError, match=r"mine\.yaml, line 3.*no aim 'crsp'.*crps"):
        load_space(path)


def test_a_front_holds_one_of_equals_and_nothing_that_is_beaten():
    both = list_aims("both")
    rows = [(0.5, 0.3), (0.5, 0.3), (0.4, 0.2), (0.4, 0.25), (0.6, 0.9), (math.nan, 0.4)]
    assert find_front(rows, both) == [4, 0, 2]
    assert find_front([], both) == []
