"""The book of a search: same proposals whether interrupted or not, nothing lost, nothing twice."""

import dataclasses
import math

import optuna
import pandas as pd
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from ablations.search.aim import AIMS
from ablations.search.space import Space, Stopping, load_space
from cgd.config import Config
from cgd.errors import ConfigError
from tune.search.book import GIVEN, INTERRUPTED, ORIGIN, SAMPLE, VALUES, SearchBook
from tune.search.confirm import choose_finalists
from tune.search.drawing import BookedSearch, SparingASHA, make_scheduler
from tune.search.plan import SearchPlan
from tune.search.record import measure_importances
from tune.search.start import first_points
from tune.search.storage import SearchError, open_journal, open_storage
from tune.trials.messages import Epoch, TrialResult, to_report

optuna.logging.set_verbosity(optuna.logging.ERROR)
N = 16


@pytest.fixture
def plan():
    """The full space: conditional, and large enough that proposals never agree by chance."""
    space = load_space("full")
    space = space.model_copy(update={"sampler": space.sampler.model_copy(update={"n_startup_trials": 5})})
    return SearchPlan("s", space, Config(), None, {}, (), (), N, 2, None, {"space": {"name": "full"}})


def result_of(values):
    """A made-up value that depends on the parameters, so that TPE has something to learn."""
    value = -abs(math.log10(values["train.learning_rate"]) + 3) - 0.1 * values["model.depth"]
    summary = {"seconds": 1.0, "peak_memory_mb": 100.0 * values["model.depth"], "n_parameters": 5.0}
    scores = {"pcc": {"d": value}, "crps": {"d": 0.5 + 0.1 * values["model.depth"] - 0.01 * values["model.n_heads"]}}
    return TrialResult(scores, summary, pd.DataFrame({"gene": ["a"], "pcc": [value]}))


def begin(plan, storage, resume=False):
    return SearchBook(plan, storage, first_points(plan, None)[0], resume)


def ask(book):
    trial = book.study.ask() if book.prepare_next() else None
    if trial is not None:
        book.draw(trial)
    return trial


def step(book):
    trial = ask(book)
    if trial is None:
        return False
    book.complete(trial, result_of(book.plan.base.with_values(trial.user_attrs[VALUES]).flatten()))
    return True


def story(book):
    return [(t.user_attrs[SAMPLE], t.params, t.values) for t in book.list_trials()]


@pytest.fixture
def uninterrupted(plan):
    book = begin(plan, InMemoryStorage())
    while step(book):
        pass
    return story(book)


def test_the_default_comes_first_and_every_sample_differs(plan, uninterrupted):
    assert [sample for sample, _, _ in uninterrupted] == list(range(N))
    assert uninterrupted[0][1] == plan.space.point(plan.base)
    assert len({repr(params) for _, params, _ in uninterrupted}) == N


def test_the_same_seed_gives_the_same_search_and_another_another(plan, uninterrupted):
    again = begin(plan, InMemoryStorage())
    while step(again):
        pass
    assert story(again) == uninterrupted
    other = begin(dataclasses.replace(plan, base=Config(seed=1)), InMemoryStorage())
    while step(other):
        pass
    assert [s for s, *_ in story(other)] == [s for s, *_ in uninterrupted]
    assert all(a[1] != b[1] for a, b in zip(story(other)[1:], uninterrupted[1:], strict=True))


def test_killed_at_any_moment_a_search_goes_on_unchanged(plan, uninterrupted, tmp_path):
    path = tmp_path / "s.journal"
    book = begin(plan, open_journal(path))
    for done in (0, 3, 7, 11):  # before, within and after the random samples
        while len(book.list_finished()) < done:
            step(book)
        if done == 7:
            book.prepare_next()  # killed between enqueuing and asking
        elif done == 3:
            book.prepare_next()
            trial = book.study.ask()
            trial.suggest_categorical("model.decoder", ["frozen", "joint"])  # killed while drawing
        else:
            ask(book)  # killed while running
        path.write_bytes(path.read_bytes() + b'{"op_code": 4, "wor')  # and while writing
        book = begin(plan, open_journal(path), resume=True)
        assert book.n_interrupted == (0 if done == 7 else 1)
    while step(book):
        pass
    assert story(book) == uninterrupted
    states = [t.state for t in book.study.get_trials()]
    assert states.count(TrialState.COMPLETE) == N
    assert TrialState.RUNNING not in states
    assert sum(bool(t.user_attrs.get(INTERRUPTED)) for t in book.study.get_trials()) == 3


def test_concurrent_samples_see_what_finished_and_survive_a_kill(plan):
    storage = InMemoryStorage()
    book = begin(plan, storage)
    first, second, third = ask(book), ask(book), ask(book)
    book.complete(second, result_of(second.user_attrs[VALUES]))
    again = begin(plan, storage, resume=True)
    assert again.n_interrupted == 2
    assert [t.user_attrs[SAMPLE] for t in again.list_finished()] == [1]
    redone = [ask(again), ask(again)]
    assert [t.params for t in redone] == [first.params, third.params]
    assert ask(again).user_attrs[SAMPLE] == 3


def test_a_search_is_not_continued_by_accident_or_if_it_differs(plan):
    storage = InMemoryStorage()
    begin(plan, storage)
    with pytest.raises(SearchError, match="exists already; --resume continues it"):
        begin(plan, storage)
    with pytest.raises(SearchError, match="made with another space"):
        begin(dataclasses.replace(plan, settings={"space": {"name": "training"}}), storage, resume=True)


def test_more_samples_extend_a_finished_search(plan, uninterrupted):
    storage = InMemoryStorage()
    short = begin(dataclasses.replace(plan, n_samples=6), storage)
    while step(short):
        pass
    longer = begin(plan, storage, resume=True)
    while step(longer):
        pass
    assert story(longer) == uninterrupted


def test_a_refused_sample_has_its_reason_and_the_next_is_drawn(plan, tmp_path):
    space = Space.from_dict(
        {
            "name": "bad",
            "description": "widths that do not divide",
            "parameters": [{"path": "model.width", "choices": [32, 33]}, {"path": "model.depth", "low": 1, "high": 4}],
        }
    )
    book = begin(dataclasses.replace(plan, space=space.include(Config()), n_samples=30), InMemoryStorage())
    refused = []
    search = BookedSearch(book, tmp_path, lambda sample, reason: refused.append((sample, reason)))
    given = []
    while (params := search.suggest(f"t{len(given)}")) != "FINISHED":
        given.append(params)
    failed = [t for t in book.list_trials() if t.state == TrialState.FAIL]
    assert len(given) + len(refused) == 30
    assert {t.user_attrs[SAMPLE] for t in failed} == {sample for sample, _ in refused}
    assert all("must be a multiple of n_heads" in t.user_attrs["reason"] for t in failed)
    assert len(failed) > 3


def test_memory_is_a_constraint(plan):
    book = begin(dataclasses.replace(plan, max_memory_mb=250.0), InMemoryStorage())
    while step(book):
        pass
    over = [t for t in book.list_finished() if t.user_attrs["peak_memory_mb"] > 250]
    assert over
    assert not {t.number for t in over} & {t.number for t in book.rank()}
    assert all(t.constraints["memory"] == t.user_attrs["peak_memory_mb"] - 250 for t in book.list_finished())


def aim_at(plan, choice):
    return dataclasses.replace(plan, space=plan.space.aim_at(choice))


def finish(book, pcc, crps, seconds=1.0):
    """A sample that ended with these."""
    summary = {"seconds": seconds, "peak_memory_mb": 1.0, "n_parameters": 1.0}
    scores = {"pcc": {"d": pcc}, "crps": {"d": crps}}
    trial = ask(book)
    book.complete(trial, TrialResult(scores, summary, pd.DataFrame()))
    return trial.number


def test_directions_follow_the_metrics(plan):
    expected = {
        "pcc": ["MAXIMIZE"],
        "crps": ["MINIMIZE"],
        "both": ["MAXIMIZE", "MINIMIZE"],
        "pcc,seconds": ["MAXIMIZE", "MINIMIZE"],
        "crps,seconds": ["MINIMIZE", "MINIMIZE"],
    }
    for choice, directions in expected.items():
        book = begin(aim_at(plan, choice), InMemoryStorage())
        assert [direction.name for direction in book.study.directions] == directions
        search = BookedSearch(book, None, None)
        assert (search.metric, search.mode) == (("val_pcc", "max") if "MAX" in directions[0] else ("val_crps", "min"))


def test_the_front_holds_what_nothing_beats_twice(plan):
    book = begin(aim_at(plan, "pcc,seconds"), InMemoryStorage())
    for value, seconds in ((0.4, 5.0), (0.5, 9.0), (0.3, 9.0), (0.2, 1.0), (0.5, 8.0)):
        finish(book, value, 0.1, seconds)
    assert [(t.values[0], t.user_attrs["seconds"]) for t in book.find_front()] == [(0.5, 8.0), (0.4, 5.0), (0.2, 1.0)]


def test_a_front_of_both_outcomes_ranks_each_its_own_way(plan):
    book = begin(aim_at(plan, "both"), InMemoryStorage())
    for pcc, crps in ((0.3, 0.5), (0.5, 0.6), (0.2, 0.4), (0.4, 0.7), (0.5, 0.55)):
        finish(book, pcc, crps)
    assert [tuple(t.values) for t in book.find_front()] == [(0.5, 0.55), (0.3, 0.5), (0.2, 0.4)]
    assert [t.user_attrs[SAMPLE] for t in book.rank(AIMS["crps"])][:2] == [2, 0]
    assert [row.sample for row in choose_finalists(book)][1:] == [4, 2]  # the best by each, none of the rest


def test_a_sample_without_the_score_aimed_at_has_failed(plan):
    book = begin(aim_at(plan, "crps"), InMemoryStorage())
    assert finish(book, 0.5, 0.4) == 0
    finish(book, 0.5, math.nan)
    assert [t.user_attrs[SAMPLE] for t in book.rank()] == [0]
    assert book.list_trials()[1].user_attrs["reason"] == f"it has no {AIMS['crps'].full_label}"


def test_a_search_for_both_goes_on_unchanged_after_a_kill(plan, tmp_path):
    plan = aim_at(plan, "both")
    whole = begin(plan, InMemoryStorage())
    while step(whole):
        pass
    path = tmp_path / "s.journal"
    book = begin(plan, open_journal(path))
    for done in (3, 9):
        while len(book.list_finished()) < done:
            step(book)
        book.report(ask(book), 0.5, 20)  # Optuna takes no reports of a search for several
        book = begin(plan, open_journal(path), resume=True)
        assert book.n_interrupted == 1
    while step(book):
        pass
    assert story(book) == story(whole)
    assert [t.number for t in book.find_front()] != []
    settings = {"space": plan.space.aim_at("pcc").model_dump(mode="json")}
    with pytest.raises(SearchError, match="made with another space"):
        begin(dataclasses.replace(plan, settings=settings), open_journal(path), resume=True)


def test_each_outcome_has_its_importances(plan):
    book = begin(aim_at(plan, "both"), InMemoryStorage())
    while step(book):
        pass
    found = {name: measure_importances(book, AIMS[name]) for name in ("pcc", "crps")}
    assert all(abs(sum(shares.values()) - 1) < 0.01 for shares in found.values())
    assert found["pcc"]["train.learning_rate"] > found["crps"]["train.learning_rate"]


def test_asha_spares_the_first_and_refills_its_rungs(plan):
    stopping = Stopping(first_percent=20, factor=2, spared=3)
    book = begin(plan, InMemoryStorage())
    for value in (0.5, 0.4, 0.6, 0.7):
        trial = ask(book)
        book.report(trial, value, 20)
        book.report(trial, 99.0, 20)  # the first report of a percentage counts
        book.report(trial, value, 40)
        book.complete(trial, result_of(trial.user_attrs[VALUES]))
    space = plan.space.model_copy(update={"stopping": stopping})
    fresh, refilled = make_scheduler(space, []), make_scheduler(space, book.list_finished())
    assert isinstance(refilled, SparingASHA)
    stand_in = dataclasses.make_dataclass("StandIn", ["trial_id"])("new")
    for scheduler in (fresh, refilled):
        scheduler.on_trial_add(None, stand_in)
    report = {"percent": 20, "val_pcc": 0.45}
    assert fresh.on_trial_result(None, stand_in, report) == "CONTINUE"
    assert refilled.on_trial_result(None, stand_in, report) == "STOP"
    assert not isinstance(make_scheduler(space.aim_at("both"), []), SparingASHA)


def test_asha_stops_by_the_lower_crps_and_says_if_there_is_none(plan):
    said, stand_in = [], dataclasses.make_dataclass("StandIn", ["trial_id"])
    stopping = Stopping(first_percent=20, factor=2, spared=1)
    space = plan.space.model_copy(update={"stopping": stopping, "aim": "crps"})
    scheduler = make_scheduler(space, [], said.append)
    actions = []
    for i, crps in enumerate((0.4, 0.5, 0.3, math.nan, math.nan)):
        scheduler.on_trial_add(None, stand_in(f"t{i}"))
        report = to_report(Epoch({}, {"pcc": 0.1} | ({} if math.isnan(crps) else {"crps": crps}), 20))
        actions.append(scheduler.on_trial_result(None, stand_in(f"t{i}"), report))
    assert actions == ["CONTINUE", "STOP", "CONTINUE", "CONTINUE", "CONTINUE"]
    assert said == [f"epochs report no {AIMS['crps'].full_label}: no sample is stopped early"]


def test_warm_starts_from_a_file_and_from_an_earlier_search(plan, tmp_path):
    path = tmp_path / "best.yaml"
    path.write_text(Config().with_values({"model.depth": 2, "train.learning_rate": 0.5}).to_yaml())
    points, notes = first_points(plan, str(path))
    assert points[1].params["model.depth"] == 2
    assert "train.learning_rate" not in points[1].params
    assert "outside the space, and so drawn instead: train.learning_rate" in notes
    journal = tmp_path / "s.journal"
    plan = dataclasses.replace(plan, n_samples=4)
    book = SearchBook(plan, open_journal(journal), points, resume=False)
    while step(book):
        pass
    assert [t.user_attrs[ORIGIN] for t in book.list_trials()][:3] == ["default", "warm start", "sampled"]
    assert book.list_trials()[1].params["model.depth"] == 2
    assert book.list_trials()[1].user_attrs[GIVEN] == points[1].params
    later, notes = first_points(plan, str(journal))
    assert later[1].params == book.rank()[0].params
    assert notes == [f"warm start from s, trial {book.rank()[0].number} ({book.rank()[0].values[0]:.4f})"]
    best_draws = first_points(aim_at(plan, "crps"), str(journal))[1]  # that search did not look at draws
    assert best_draws == notes
    with pytest.raises(SearchError, match="no such file"):
        first_points(plan, str(tmp_path / "none.journal"))
    with pytest.raises(ConfigError, match="no configuration file"):
        first_points(plan, str(tmp_path / "none.yaml"))


def test_refused_samples_are_none_of_those_spared(plan):
    stopping = Stopping(first_percent=20, factor=2, spared=2)
    space = plan.space.model_copy(update={"stopping": stopping})
    refused = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={SAMPLE: 0})
    drawn = {SAMPLE: 1, VALUES: {}}
    one, other = (
        optuna.trial.create_trial(value=0.5, user_attrs=drawn, intermediate_values={20: 0.5}) for _ in range(2)
    )
    for number, trial in enumerate((refused, one, other)):
        trial.number = number
    stand_in = dataclasses.make_dataclass("StandIn", ["trial_id"])
    for past, action in (([refused, one], "CONTINUE"), ([one, other], "STOP")):
        scheduler = make_scheduler(space, past)
        scheduler.on_trial_add(None, stand_in("new"))
        assert scheduler.on_trial_result(None, stand_in("new"), {"percent": 20, "val_pcc": 0.1}) == action


def test_a_warm_start_that_chose_by_the_test_genes_is_refused(plan, tmp_path):
    def settings(config, sha256="abc"):
        return {"config": config.flatten(), "datasets": {"d": sha256}}

    journal, other = tmp_path / "s.journal", Config().with_values({"split.seed": 5})
    book = begin(dataclasses.replace(plan, n_samples=2, settings=settings(other)), open_journal(journal))
    while step(book):
        pass
    now = dataclasses.replace(plan, settings=settings(plan.base))
    with pytest.raises(SearchError, match=r"under another split\.seed, so its validation genes may be test genes here"):
        first_points(now, str(journal))
    for allowed in (
        dataclasses.replace(now, base=other, settings=settings(other)),  # the same genes
        dataclasses.replace(now, settings=settings(plan.base, "other data")),
    ):
        assert len(first_points(allowed, str(journal))[0]) == 2


def test_sqlite_is_refused_where_it_could_have_several_writers(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    for url in (f"sqlite:///{tmp_path / 'shared.db'}", "sqlite:///shared.db"):
        with pytest.raises(SearchError, match="SQLite locks the whole file"):
            open_storage(tmp_path / "s.journal", url, output)
    open_storage(tmp_path / "s.journal", f"sqlite:///{output / 'own.db'}", output)
    with pytest.raises(SearchError, match="cannot use the search storage"):
        open_storage(tmp_path / "s.journal", "nonsense://x", output)
    with pytest.raises(SearchError, match="cannot use the search storage") as refused:
        open_storage(tmp_path / "s.journal", "nonsense://me:secret@host/x", output)
    assert "secret" not in str(refused.value)


def test_a_damaged_journal_is_refused_with_its_name(plan, tmp_path):
    path = tmp_path / "s.journal"
    begin(plan, open_journal(path))
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"{oops", *lines[1:]]))
    with pytest.raises(SearchError, match=r"s\.journal is not a whole search journal"):
        begin(plan, open_journal(path), resume=True)
