"""The stages of a search, one after the other: sample, confirm, test, record."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import ray

from ablations.report.pages.index import write_index
from ablations.search.aim import Aim
from ablations.search.report import summary_text, write_search_report
from ablations.search.wording import write_opening
from cgd.errors import TrackingError
from cgd.files import write_atomically
from tune.checkpoints.options import CHECKPOINTS, DEFAULT_OPTIONS, CheckpointOptions
from tune.cluster.connection import check_here, connect_for
from tune.cluster.resources import NO_SHARE, Share
from tune.search.book import SearchBook
from tune.search.confirm import Confirmed, Won, choose_finalists, choose_winners, confirm
from tune.search.engine import Place, run_search
from tune.search.final import FinalTest, run_final_tests
from tune.search.plan import SearchPlan
from tune.search.record import make_results, summary_metrics
from tune.search.runs import SearchRuns
from tune.search.start import first_points
from tune.search.storage import open_storage
from tune.store.errors import hide_password
from tune.store.opening import explain_absence
from tune.store.outbox import Outbox
from tune.store.reading import FAILED, FINISHED, KILLED
from tune.store.tracking import Tracking
from tune.trials.preflight import check_nodes
from tune.trials.runner import Runner
from tune.trials.trial import Work


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended: text for the terminal, files by what they are, failed trials with their errors."""

    summary: str
    files: dict[str, str]
    failed: tuple[tuple[str, str], ...]
    stopped: bool


@dataclass
class SearchCommand:
    """One command on one search."""

    plan: SearchPlan
    tracking: Tracking
    output: Path  # folder of everything the search leaves
    arguments: dict[str, Any]  # the command's, for the record
    share: Share = NO_SHARE  # what the command gives to each trial
    keeping: CheckpointOptions = DEFAULT_OPTIONS  # how checkpoints are kept

    def __post_init__(self) -> None:
        self.request = self.share.request(self.plan.base)
        self.folder = self.output / "search" / self.plan.name

    def open(self, storage: str | None, warm_start: str | None, resume: bool) -> None:
        """Open or begin the search. Raises SearchError before anything runs."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        points, notes = first_points(self.plan, warm_start)
        for note in notes:
            print(note)
        journal = self.folder.with_name(f"{self.plan.name}.journal")
        self.book = SearchBook(self.plan, open_storage(journal, storage, self.output), points, resume)
        self.place = hide_password(storage) if storage else str(journal)
        done = len(self.book.list_finished())
        if resume and not self.book.existed:
            print(f"nothing to resume: {self.place} holds no search '{self.plan.name}'; starting it")
        if self.plan.space.stopping and not self.plan.space.stops_early:
            print(f"no sample is stopped early: the aim is {self.plan.space.aim}, and Optuna prunes by one aim only")
        print(f"search '{self.plan.name}': {done} of {self.plan.n_samples} samples done")
        if self.book.n_interrupted:
            print(f"{self.book.n_interrupted} interrupted samples are run again")

    def run(self, address: str, max_concurrent: int | None) -> SearchOutcome:
        """Run what is missing of each stage, on the Ray at `address`; what is there is read."""
        check_here([self.request], address, max_concurrent)
        parent = self._open_parent()
        try:
            outcome = self._stages(parent, address, max_concurrent)
        except BaseException:  # whatever ends the command, its run must not stay RUNNING
            with suppress(TrackingError):  # it may be the store itself that failed
                self.tracking.end(parent, KILLED)
            raise
        status = KILLED if outcome.stopped else FAILED if outcome.failed else FINISHED
        with explain_absence():
            self.tracking.end(parent, status)
        return outcome

    def _open_parent(self) -> str:
        plan = self.plan
        tags = {
            "cgd.search": plan.name,
            "cgd.search_uid": self.book.uid,
            "cgd.aim": plan.space.aim,
            "mlflow.note.content": self._note(),
        }
        name = f"search {plan.name} · {', '.join(plan.dataset_keys)}"
        key = f"search-{self.book.uid}"
        known = self.tracking.find_runs("search").get(key)
        return self.tracking.open_run("search", key, name, tags, known.run_id if known else None)

    def _note(self) -> str:
        space = self.plan.space
        return (
            f"Search of the space `{space.name}`: {space.description}\n\nSamples are scored on validation genes. A "
            "winner and the default are compared once on the test genes."
        )

    def _stages(self, parent: str, address: str, max_concurrent: int | None) -> SearchOutcome:
        datasets = self.plan.planner.plan.datasets
        confirmed: list[Confirmed] = []
        with (
            connect_for([self.request], address, max_concurrent) as limit,
            Outbox(self.tracking, self.output) as outbox,
        ):
            runs = SearchRuns(outbox, parent, datasets)
            checkpoints = self.output / CHECKPOINTS
            shared = {key: ray.put(prepared) for key, prepared in datasets.items()}
            mirror = self.keeping.open_mirror(checkpoints)
            work = Work("validation", (), shared, checkpoints, self.share, mirror=mirror)
            place = Place(work, self.output, self.folder, limit, self.keeping.budget)
            check_nodes(self.output, list(shared.values()), storage=self.keeping.storage)
            complete = run_search(self.book, runs, place)
            if complete:
                confirmed, complete = confirm(self.book, choose_finalists(self.book), runs, place)
            runs.settle()
        won = choose_winners(confirmed, self.plan.space.outcomes) if complete else []
        tests: list[FinalTest] = []
        if won:

            def make_runner() -> Runner:
                plan = self.plan.planner.plan
                return Runner(plan, self.tracking, self.output, self.arguments, share=self.share, keeping=self.keeping)

            tests = run_final_tests(self.book, won, self.tracking, make_runner, address, max_concurrent)
        with explain_absence():
            return self._conclude(parent, runs, complete, confirmed, list(zip(won, tests, strict=True)))

    def _conclude(
        self,
        parent: str,
        runs: SearchRuns,
        complete: bool,
        confirmed: list[Confirmed],
        winners: list[tuple[Won, FinalTest]],
    ) -> SearchOutcome:
        """Write the record, the report and the best configurations, and attach them to the search's run."""
        results = make_results(self.book, runs, confirmed, winners, self.arguments)
        write_atomically(self.folder / "search.json", results.to_json())
        report = self.folder / "report"
        page = write_search_report(results, report)
        self.tracking.log_texts(parent, {"search.json": results.to_json()})
        self.tracking.log_folder(parent, report, "report")
        self.tracking.summarise_study(parent, summary_metrics(results), f"{self._note()}\n\n{write_opening(results)}")
        files = {"Storage": self.place, "Report": str(page)}
        several = len(results.outcomes) > 1
        for won, test in winners:
            if test.report is not None:
                by = f" by {' and '.join(outcome.label for outcome in won.outcomes)}" if several else ""
                files[f"Test report{by}"] = str(test.report)
                files["All reports"] = str(write_index(self.output / "reports"))
        for outcome in results.outcomes:
            if complete and results.has_answer(outcome):
                path = self._write_best(
                    parent, next((won for won, _ in winners if outcome in won.outcomes), None), outcome
                )
                files[f"Best config by {outcome.label}" if several else "Best config"] = str(path)
        failed = [
            (row.finalist.label, f"{row.n_missing} runs of the confirmation failed")
            for row in confirmed
            if row.n_missing and complete
        ]
        tests = [test for _, test in winners]
        stopped = not complete or any(test.missing for test in tests)
        failed += [one for test in tests for one in test.failed]
        return SearchOutcome(summary_text(results), files, tuple(dict.fromkeys(failed)), stopped)

    def _write_best(self, parent: str, won: Won | None, outcome: Aim) -> Path:
        """The winner by an outcome, or the default where it is the best, as `run_ablation.py --config` takes it."""
        config = won.confirmed.finalist.config if won else self.plan.base
        several = len(self.plan.space.outcomes) > 1
        by, name = (f" by {outcome.label}", f"best_{outcome.name}.yaml") if several else ("", "best.yaml")
        which = (
            f"winner{by} of the search '{self.plan.name}' ({won.confirmed.finalist.label})"
            if won
            else f"the default, which no configuration of the search '{self.plan.name}' beat{by}"
        )
        text, path = f"# {which}\n{config.to_yaml()}", self.folder / name
        write_atomically(path, text)
        self.tracking.log_texts(parent, {name: text})
        return path
