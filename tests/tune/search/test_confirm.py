"""The end of a search: who may win, and that a stop or a failure lets nobody win by being there first."""

import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace

import pandas as pd
import pytest
from optuna.storages import InMemoryStorage

from ablations.search.aim import list_aims
from ablations.search.results import Gain, HeldOut, Winner
from ablations.search.space import load_space
from ablations.statistics.paired import Estimate
from cgd.config import Config
from tune.search import confirm as module
from tune.search import final
from tune.search.book import SearchBook
from tune.search.confirm import Finalist, choose_winners, compare, confirm
from tune.search.engine import Place
from tune.search.final import make_study
from tune.search.plan import Replication, make_plan
from tune.search.record import summary_metrics
from tune.search.runs import Candidate, SearchRecorder
from tune.store.reading import FAILED, RunRecord
from tune.trials.callback import TrialCallback
from tune.trials.failure import Failure
from tune.trials.messages import TrialResult, to_report
from tune.trials.trial import Work

FINALISTS = [
    Finalist("default", None, Config(), {}),
    Finalist("sample 1", 1, Config().with_values({"model.depth": 2}), {"model.depth": 2}),
    Finalist("sample 2", 2, Config().with_values({"model.depth": 1}), {"model.depth": 1}),
]
WORTH = {"default": 0.4, "sample 1": 0.5, "sample 2": 0.6}
DRAWS = {"default": 0.3, "sample 1": 0.2, "sample 2": 0.35}  # lower is better
BEST_GUESS, BOTH = list_aims("pcc"), list_aims("both")


class Runs:
    """The store, of which a confirmation needs little."""

    outbox = SimpleNamespace(redirect_lines=lambda say: nullcontext())

    def complete(self, candidate, result):
        pass


def result(finalist, replicate):
    found = {"pcc": WORTH[finalist], "crps": DRAWS[finalist]}
    table = pd.DataFrame({"gene": ["a", "b"], **{name: [value, value] for name, value in found.items()}})
    where = {"dataset": replicate.dataset, "seed": replicate.seed, "fold": replicate.fold}
    scores = {name: {replicate.dataset: value} for name, value in found.items()}
    return TrialResult(scores, {"seconds": 1.0}, table.assign(**where))


@pytest.fixture(scope="module")
def plan():
    return make_plan(load_space("training"), Config(), ["simulated"], Replication(seeds=2, folds=1), n_samples=3)


@pytest.fixture
def confirmed(plan, tmp_path, monkeypatch):
    """Confirm where the jobs for which `outcome(finalist, seed)` is `done` or `failed` end that way, others not."""
    place = Place(Work("validation", (), {}, tmp_path), tmp_path, tmp_path / "s", 1)

    def run(outcome):
        def run_candidates(place, replicates, recorder, jobs):
            for job in jobs:
                replicate = replicates[job.replicates[0]]
                finalist = recorder.candidate_of(job.key).tags["cgd.finalist"]
                ending = outcome(finalist, replicate.seed)
                if ending == "done":
                    recorder.keep(job.key, result(finalist, replicate))
                elif ending == "failed":
                    recorder.outcomes[job.key] = RunRecord("", FAILED)

        monkeypatch.setattr(module, "run_candidates", run_candidates)
        return confirm(book, FINALISTS, Runs(), place)

    book = SearchBook(plan, InMemoryStorage(), [], resume=False)
    return run


def name_winners(rows, aims=BEST_GUESS):
    return {won.confirmed.finalist.label: [aim.name for aim in won.outcomes] for won in choose_winners(rows, aims)}


def test_the_best_of_a_whole_confirmation_wins(confirmed):
    rows, complete = confirmed(lambda finalist, seed: "done")
    assert complete
    assert [row.find_score("pcc") for row in rows] == pytest.approx([0.4, 0.5, 0.6])
    assert name_winners(rows) == {"sample 2": ["pcc"]}


def test_a_stop_is_told_from_a_failure_and_the_rest_runs_later(confirmed):
    rows, complete = confirmed(lambda finalist, seed: "stopped" if finalist == "sample 2" and seed == 2 else "done")
    assert not complete  # or sample 1 would win, be tested, and another after it
    assert [row.n_missing for row in rows] == [0, 0, 1]
    rows, complete = confirmed(lambda finalist, seed: "done")
    assert complete
    assert name_winners(rows) == {"sample 2": ["pcc"]}


def test_a_failure_cannot_win_and_nobody_can_without_the_default(confirmed):
    rows, complete = confirmed(lambda finalist, seed: "failed" if finalist == "sample 2" else "done")
    assert complete
    assert name_winners(rows) == {"sample 1": ["pcc"]}
    rows, complete = confirmed(lambda finalist, seed: "failed")
    assert complete
    assert name_winners([row for row in rows if row.finalist.label != "default"]) == {}


def test_each_outcome_has_its_winner_and_its_study(confirmed, plan):
    rows, _ = confirmed(lambda finalist, seed: "done")
    assert name_winners(rows, BOTH) == {"sample 2": ["pcc"], "sample 1": ["crps"]}
    assert name_winners(rows[:2], BOTH) == {"sample 1": ["pcc", "crps"]}
    assert name_winners([rows[0], rows[2]], BOTH) == {"sample 2": ["pcc"]}  # by draws the default is the best
    aimed = dataclasses.replace(plan, name="My-1", space=plan.space.aim_at("both"))
    names = [make_study(aimed, won).name for won in choose_winners(rows, BOTH)]
    assert names == ["search_my_1_pcc", "search_my_1_crps"]
    assert make_study(dataclasses.replace(plan, name="My-1"), choose_winners(rows, BEST_GUESS)[0]).name == "search_my_1"
    gaps = compare(rows[1].per_gene, rows[0].per_gene, BOTH)
    assert {name: found["simulated"].mean for name, found in gaps.items()} == pytest.approx({"pcc": 0.1, "crps": -0.1})
    assert list(compare(rows[1].per_gene.drop(columns="crps"), rows[0].per_gene, BOTH)) == ["pcc"]


def test_winners_are_tested_together_and_each_once(confirmed, plan, monkeypatch):
    rows, _ = confirmed(lambda finalist, seed: "done")
    aimed = dataclasses.replace(plan, name="twice", space=plan.space.aim_at("both"))
    book = SearchBook(aimed, InMemoryStorage(), [], resume=False)
    won, concluded = choose_winners(rows, BOTH), []

    class Runner:
        def run(self, resume, address, max_concurrent):
            return {study.study.name: f"run of {study.study.name}" for study in aimed.planner.plan.studies}, True

        def conclude(self, study, parent, complete):
            concluded.append(parent)
            return SimpleNamespace(failed=(), missing=(), parent_run_id=parent, report=None)

    table = pd.DataFrame({"level": ["winner", "default"], "gene": "a", "pcc": 0.5})
    monkeypatch.setattr(final, "load_results", lambda uri, run_id: SimpleNamespace(per_gene=table))
    for _ in range(2):  # the second time they are read back
        tests = final.run_final_tests(book, won, SimpleNamespace(uri=""), Runner, "local", None)
        assert [test.run_id for test in tests] == ["run of search_twice_pcc", "run of search_twice_crps"]
    assert concluded == ["run of search_twice_pcc", "run of search_twice_crps"]


def test_part_of_the_test_is_no_gain():
    gap = {"d": Estimate(0.3, 0.2, 0.4, 9)}
    for missing, told in (((), True), (("winner, seed 3",), False)):
        test = HeldOut(run_id="r", gains={"pcc": Gain(mean=0.3, by_dataset=gap)}, means={}, missing=missing)
        gains = {"pcc": Gain(mean=0.1, by_dataset=gap)}
        winner = Winner(label="sample 1", outcomes=("pcc",), values={}, validation=gains, test=test)
        results = SimpleNamespace(
            n_ended=3, outcomes=BEST_GUESS, find_best=lambda aim: None, find_winner=lambda aim, found=winner: found
        )
        found = summary_metrics(results)
        assert found["validation_pcc_gain"] == 0.1
        assert ("test_pcc_gain" in found) is told


class Log:
    """Stands in for the tracking store, the runs and the progress: notes every call, answers with its name."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments, **named: self.calls.append((name, *arguments)) or name


def test_a_run_that_fails_is_known_to_have_ended(tmp_path):
    runs, progress = Log(), Log()
    runs.outbox = Log()
    candidate = Candidate("k", "sample 1", Config(), {})
    recorder = SearchRecorder(runs, progress, Work("validation", (), {}, tmp_path), BEST_GUESS, lambda key: candidate)
    callback = TrialCallback(recorder)
    one, two = (SimpleNamespace(config={"job": {"key": key}}, local_path=str(tmp_path)) for key in ("k", "other"))
    for trial in (one, two):
        callback.on_trial_start(0, [], trial)
    callback.on_trial_result(0, [], one, to_report(Failure("ValueError", "no", "trace")))
    callback.on_trial_complete(0, [], one)
    callback.close()  # the other was still running
    assert {key: record.status for key, record in recorder.outcomes.items()} == {"k": FAILED}
    ends = [call[0] for call in runs.outbox.calls if call[0] in ("fail", "end")]
    assert ends == ["fail", "end"]
    assert ("end", "other", "KILLED") in runs.outbox.calls
