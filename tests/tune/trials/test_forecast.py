"""From probes to hours, memory and disk; and the forecast found again."""

from types import SimpleNamespace

import pytest

from ablations.findings.study_json import TrialForecast
from cgd.config import Config
from cgd.probe import Probe
from tune.cluster.capacity import free_disk_mb, memory_mb
from tune.commands.plan_table import describe_wait, find_shortages
from tune.trials.forecast import (
    GROUP_START_SECONDS,
    RECORD_MB,
    forecast_path,
    forecast_trial,
    load_forecast,
    make_forecast,
    measure_epoch_shares,
    save_forecast,
)
from tune.trials.plan import Plan
from tune.trials.probing import choose_groups, find_closest_group, group_by_cost
from tune.trials.spec import TrialSpec

PROBE = Probe(
    setup_seconds=3.0, epoch_seconds=2.0, predict_seconds=4.0, peak_memory_mb=500.0, checkpoint_mb=6.0, model_mb=2.0
)
BASE = Config()


def spec(values=None, dataset="mouse", seed=0, fold=0, split=None):
    config = BASE.with_values({**(values or {}), "seed": seed})
    key = f"{dataset}:{config.fingerprint_section('data')}"
    fingerprint = config.fingerprint(dataset, str(fold))
    return TrialSpec(
        fingerprint, f"{dataset} {values} {seed} {fold}", dataset, seed, fold, config, split, key, "trial key", "code"
    )


def trial(name, seconds, memory=100.0):
    return TrialForecast(name, seconds, memory, checkpoints_mb=3.0, kept_mb=1.0)


def plan_of(*specs, base=BASE):
    plan = Plan(base)
    plan.studies.append(SimpleNamespace(trials=tuple(("level", s) for s in specs)))
    return plan


def test_a_trial_is_setup_epochs_and_prediction():
    one = spec({"train.epochs": 10})
    cost = forecast_trial(one, PROBE, {})
    assert cost.seconds == 3 + 10 * 2 + 4
    assert (cost.memory_mb, cost.checkpoints_mb, cost.kept_mb) == (500, 24, RECORD_MB + 2)
    assert forecast_trial(one, PROBE, {}, log_models=False).kept_mb == RECORD_MB
    assert forecast_trial(one, PROBE, {("mouse", 10): 0.5}).seconds == 3 + 5 * 2 + 4
    assert forecast_trial(one, PROBE, {("human", 10): 0.5, ("mouse", 20): 0.5}).seconds == cost.seconds


def test_several_workers_need_each_their_memory_and_a_start():
    alone, three = (forecast_trial(spec({"train.n_workers": n}), PROBE, {}) for n in (1, 3))
    assert three.memory_mb == 3 * alone.memory_mb
    assert three.seconds == alone.seconds + GROUP_START_SECONDS
    assert (three.checkpoints_mb, three.kept_mb) == (alone.checkpoints_mb, alone.kept_mb)  # rank 0 alone writes them
    baseline = forecast_trial(spec({"train.n_workers": 3, "method": "spage"}), PROBE, {})
    assert baseline.memory_mb == PROBE.peak_memory_mb


def test_the_share_of_epochs_comes_from_its_finished_trials():
    def finished(study, dataset, planned, epochs):
        tags = {f"cgd.study.{study}": "level", "cgd.dataset": dataset}
        return tags, {"train.epochs": str(planned)}, {"epochs": float(epochs)}

    runs = [
        finished("depth", "mouse", 20, 10),
        finished("depth", "mouse", 20, 20),
        finished("depth", "human", 20, 5),
        finished("other", "mouse", 20, 1),
        ({"cgd.study.depth": "1"}, {}, {}),
    ]
    assert measure_epoch_shares(runs, ["depth"]) == {("mouse", 20): 0.75, ("human", 20): 0.25}


def test_the_whole_is_made_of_the_trials_that_run_at_a_time():
    trials = [trial("a", 5, 300), trial("b", 5, 100), trial("c", 2, 200)]
    forecast = make_forecast(trials, 2, warmup_seconds=4, launch_seconds=10)
    assert [t.seconds for t in forecast.trials] == [9, 9, 2]  # each worker's first trial pays for its start
    assert forecast.wall_seconds == 10 + 9 + 2
    assert forecast.memory_mb == 300 + 200
    assert forecast.checkpoints_mb == 2 * 3
    assert forecast.kept_mb == 3


def test_a_forecast_is_found_again_by_the_same_plan_alone(tmp_path):
    a, b = spec(seed=0), spec(seed=1)
    forecast = make_forecast([trial(a.fingerprint, 5), trial(b.fingerprint, 7)], 2, launch_seconds=1)
    path = save_forecast(tmp_path, plan_of(a, b), forecast)
    assert path.parent == tmp_path / "forecasts"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert load_forecast(tmp_path, plan_of(b, a)) == forecast
    assert load_forecast(tmp_path, plan_of(a)) is None
    other = BASE.model_copy(update={"runtime": BASE.runtime.model_copy(update={"n_threads": 2})})
    assert forecast_path(tmp_path, plan_of(a, b, base=other)) != path


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trials": [{"x": 1}]}', "null"])
def test_a_damaged_forecast_is_none(tmp_path, text):
    plan = plan_of(spec())
    save_forecast(tmp_path, plan, make_forecast([trial("a", 1)], 1))
    forecast_path(tmp_path, plan).write_text(text)
    assert load_forecast(tmp_path, plan) is None


def test_what_to_expect_of_a_run_counts_the_trials_still_missing():
    a, b = spec(seed=0), spec(seed=1)
    made = make_forecast([trial(a.fingerprint, 50), trial(b.fingerprint, 7)], 1)
    forecast = made.model_copy(update={"made": "2026-01-01"})
    assert describe_wait(forecast, {b.fingerprint: b}) == "forecast of 2026-01-01: about 7.0 s, 1 at a time"
    both = {b.fingerprint: b, "new": spec(seed=2)}
    assert describe_wait(forecast, both) == "forecast of 2026-01-01: about 7.0 s for 1 of them, 1 at a time"


def test_too_much_for_the_machine_is_said_with_what_to_do():
    forecast = make_forecast([trial("a", 1, 4000), trial("b", 1, 4000)], 2)
    assert find_shortages(forecast, memory=100_000, disk=100_000) == []
    memory = find_shortages(forecast, memory=7000, disk=100_000)
    assert len(memory) == 1
    assert memory[0].endswith("this machine has 7.0 GB: use --max-concurrent 1")
    assert "even one is too large" in find_shortages(forecast, memory=3000, disk=100_000)[0]
    assert "choose another --output" in find_shortages(forecast, memory=100_000, disk=1)[0]


def test_memory_is_that_of_the_container(tmp_path):
    limit, none = tmp_path / "limit", tmp_path / "none"
    limit.write_text("64000000\n")
    none.write_text("max\n")
    assert memory_mb((str(limit),)) == 64
    assert memory_mb((str(none), str(tmp_path / "missing"))) > 64
    assert free_disk_mb(tmp_path / "not" / "there" / "yet") > 0


def test_trials_that_cost_the_same_are_probed_once():
    specs = [
        spec(seed=0),
        spec(seed=1),
        spec(fold=1),
        spec({"train.learning_rate": 0.1, "train.epochs": 3}),
        spec({"model.depth": 2}),
        spec(dataset="human"),
    ]
    assert [len(group) for group in group_by_cost(specs)] == [4, 1, 1]


def test_beyond_the_limit_each_data_set_keeps_a_probe_to_borrow():
    mouse = [[spec({"model.depth": depth, "ar.decay": 0.7})] for depth in (1, 2, 3, 4)]
    human = [[spec({"model.depth": 1}, dataset="human")], [spec({"model.depth": 2}, dataset="human")]]
    groups = [*mouse, *human]
    assert choose_groups(groups, 32) == [0, 1, 2, 3, 4, 5]
    assert choose_groups(groups, 3) == [0, 1, 4]
    assert choose_groups(groups, 1) == [0, 4]
    asked = [spec({"model.depth": 2, "train.batch_size": 4}, dataset="human")]
    assert find_closest_group(asked, groups) == 5
    assert find_closest_group([spec({"model.depth": 4, "ar.decay": 0.9})], groups) == 3
