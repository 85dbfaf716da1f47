"""A store that goes away and comes back: nothing is lost, nothing is there twice."""

import errno
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from cgd.errors import CGDError, TrackingError
from tune.commands.ending import EXIT_UNDELIVERED, run_command
from tune.store.errors import UndeliveredError
from tune.store.opening import deliver_leftovers
from tune.store.outbox import Outbox, read_patience
from tune.store.outbox_files import RUN_ID, Open, OutboxFiles
from tune.store.reading import FINISHED, KILLED, STOPPED
from tune.store.tracking import Tracking

TABLE = json.dumps({"columns": ["gene", "pcc"], "data": [["a", 0.5]]})
WRITES = ("create_run", "log_batch", "update_run", "set_tag", "set_terminated", "log_text", "log_inputs", "search_runs")


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """Opens the database of the test for an output folder, as often as asked."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("CGD_STORE_WAIT", "1")
    monkeypatch.setattr("tune.store.outbox._PAUSES", (0.05,))
    shutil.copy(empty_store, tmp_path / "mlflow.db")

    def open_for(output=tmp_path):
        tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db", Path(output) / "artifacts")
        tracking.client = FailingClient(tracking.client)
        return tracking

    return open_for


class FailingClient:
    """An MLflow client whose writes raise `error` while there is one."""

    def __init__(self, client):
        self.client, self.error, self.calls = client, None, []

    def __getattr__(self, name):
        if name in WRITES:
            self.calls.append(name)
            if self.error:
                raise self.error
        return getattr(self.client, name)


def away(reason="(sqlite3.OperationalError) database is locked"):
    return MlflowException(reason, TEMPORARILY_UNAVAILABLE)


def epoch(number, time_ms=None):
    when = {"time_ms": time_ms or 1_700_000_000_000 + number}
    return {"epoch": number, "train_loss": 1.0 / number, "val_pcc": 0.1 * number, **when}


def begin(outbox, key="one"):
    about = {"params": {"ar.decay": 0.8}, "texts": {"config.yaml": "a: 1"}, "note": f"runs:/{RUN_ID}/model"}
    outbox.put(key, Open(kind="trial", name=f"trial {key}", tags={"cgd.dataset": "tiny"}, **about))


def report(outbox, key="one", epochs=(1, 2, 3)):
    begin(outbox, key)
    for number in epochs:
        outbox.add_epochs(key, [epoch(number)])
    outbox.finish(key, {"test_pcc": 0.5}, TABLE)


def everything(tracking):
    """All the store has of its runs: status, times, tags, parameters, points and tables."""
    client, found = tracking.client.client, {}
    for run in client.search_runs([tracking.experiment_id]):
        run_id, tags = run.info.run_id, run.data.tags
        points = {
            key: sorted((p.step, p.timestamp, p.value) for p in client.get_metric_history(run_id, key))
            for key in run.data.metrics
        }
        files = sorted(file.path for file in client.list_artifacts(run_id))
        when = (run.info.start_time, run.info.end_time)
        key = tags["cgd.fingerprint"]
        assert key not in found, "a run is there twice"
        found[key] = (run.info.status, when, dict(tags), dict(run.data.params), points, files)
    return found


def left(output):
    return sorted(path.name for path in (Path(output) / "outbox").glob("*"))


def test_what_is_reported_arrives_and_leaves_nothing_behind(store, tmp_path):
    tracking = store()
    with Outbox(tracking, tmp_path) as outbox:
        report(outbox)
        outbox.settle()
        assert left(tmp_path) == []
    status, (start, end), tags, params, points, files = everything(tracking)["one"]
    assert (status, params, files) == (FINISHED, {"ar.decay": "0.8"}, ["config.yaml", "per_gene.json"])
    assert points["val_pcc"] == [(n, 1_700_000_000_000 + n, 0.1 * n) for n in (1, 2, 3)]
    assert points["test_pcc"] == [(0, end, 0.5)]
    assert start <= end
    run_id = next(iter(tracking.find_runs("trial").values())).run_id
    assert tags["mlflow.note.content"] == f"runs:/{run_id}/model"


@pytest.mark.parametrize(
    "error",
    [
        away(),
        away("(sqlite3.OperationalError) database or disk is full"),
        MlflowException("API request to http://x failed with exception connection refused"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["locked", "full", "refused connection", "no room for artifacts"],
)
def test_a_store_that_was_away_gets_everything_in_order_and_time(store, tmp_path, error):
    tracking, said = store(), []
    with Outbox(tracking, tmp_path) as outbox:
        outbox.say = said.append
        tracking.client.error = error
        report(outbox, "one")
        report(outbox, "two", (1,))
        wait_for(lambda: said)
        assert left(tmp_path) == ["one.jsonl", "two.jsonl"]
        reported = {name: [json.loads(line) for line in (tmp_path / "outbox" / name).open()] for name in left(tmp_path)}
        tracking.client.error = None
        outbox.settle()
    assert "the study goes on" in said[0]
    assert str(tmp_path / "outbox") in said[0]
    assert [line for line in said if "away" in line] == said[:1]
    found = everything(tracking)
    for key in ("one", "two"):
        entries = reported[f"{key}.jsonl"]
        assert found[key][:2] == (FINISHED, (entries[0]["at"], entries[-1]["at"]))
    assert len(found["one"][4]["train_loss"]) == 3
    assert left(tmp_path) == []


def wait_for(condition, seconds=60):
    waiting = threading.Event()
    for _ in range(seconds * 20):
        if condition():
            return
        waiting.wait(0.05)
    raise AssertionError("waited in vain")


def test_a_refused_request_is_told_at_once_and_set_aside(store, tmp_path):
    tracking = store()
    with Outbox(tracking, tmp_path) as outbox:
        begin(outbox)
        outbox.settle()
        tracking.client.error = MlflowException("bad name", INVALID_PARAMETER_VALUE)
        outbox.add_epochs("one", [epoch(1)])
        with pytest.raises(TrackingError, match=r"bad name.*refused.*one\.jsonl"):
            outbox.settle()
        with pytest.raises(TrackingError, match="bad name"):
            outbox.add_epochs("one", [epoch(2)])
        assert tracking.client.calls.count("log_batch") <= 3  # the refused one was sent once
    assert left(tmp_path) == ["refused"]
    tracking.client.error = None
    deliver_leftovers(tracking, tmp_path)  # nothing: the next command is not held up by it
    assert everything(tracking)["one"][4] == {}


def test_undelivered_writes_are_told_and_sent_by_a_later_command(store, tmp_path, capsys):
    tracking = store()
    tracking.client.error = away()

    def body(log):
        with Outbox(tracking, tmp_path) as outbox:
            report(outbox)
            outbox.settle()

    assert run_command("test", body, tmp_path, False) == EXIT_UNDELIVERED == 3
    shown = capsys.readouterr()
    assert "database is locked" in shown.err
    assert f"{tmp_path}/outbox; the same command delivers it" in shown.err
    assert everything(tracking) == {}
    later = store()
    deliver_leftovers(later, tmp_path)
    assert "1 run(s)" in capsys.readouterr().out
    assert later.find_runs("trial")["one"].status == FINISHED
    assert left(tmp_path) == []


def test_delivering_twice_changes_nothing(store, tmp_path):
    tracking = store()
    kept = tmp_path / "kept"
    with Outbox(tracking, tmp_path) as outbox:
        tracking.client.error = away()
        report(outbox)
        shutil.copytree(tmp_path / "outbox", kept)
        tracking.client.error = None
        outbox.settle()
    before = everything(tracking)
    shutil.copytree(kept, tmp_path / "outbox", dirs_exist_ok=True)  # as if killed before the file was removed
    deliver_leftovers(tracking, tmp_path)
    assert everything(tracking) == before


@pytest.mark.parametrize("n_delivered", [0, 1, 2, 3, 4])
def test_a_driver_killed_between_writes_loses_and_repeats_none(store, tmp_path, n_delivered):
    tracking = store()
    lines = journal(tmp_path, lambda outbox: report(outbox))
    file = tmp_path / "outbox" / "one.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(lines))
    with Outbox(tracking, tmp_path) as outbox:  # delivers so many, and is then killed
        outbox.take_up()
        wait_for(lambda: outbox._n_delivered >= n_delivered)
        tracking.client.error = away()
    tracking.client.error = None
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(lines))
    deliver_leftovers(tracking, tmp_path)
    points = everything(tracking)["one"][4]
    assert [step for step, _, _ in points["train_loss"]] == [1, 2, 3]
    assert len(points["test_pcc"]) == 1


def journal(tmp_path, write):
    """Lines that an outbox with no store leaves."""
    outbox = Outbox(SimpleNamespace(uri=f"sqlite:///{tmp_path}/mlflow.db"), tmp_path / "elsewhere")
    write(outbox)
    (path,) = (tmp_path / "elsewhere" / "outbox").glob("*.jsonl")
    return path.read_text().splitlines(keepends=True)


def test_a_line_cut_off_by_a_kill_is_dropped_and_its_run_ended(store, tmp_path):
    tracking = store()
    lines = journal(
        tmp_path, lambda outbox: (begin(outbox), outbox.add_epochs("one", [epoch(1)]), outbox.end("one", "X"))
    )
    file = tmp_path / "outbox" / "one.jsonl"
    file.parent.mkdir()
    file.write_text("".join(lines[:2]) + lines[2][:20])
    deliver_leftovers(tracking, tmp_path)
    status, _, _, _, points, _ = everything(tracking)["one"]
    assert status == KILLED
    assert len(points["train_loss"]) == 1


def test_lines_of_the_version_before_are_delivered(store, tmp_path):
    common = '"name": "trial one", "tags": {}, "note": "", "params": {"a": "None"}, "texts": {}, "datasets": []'
    lines = [
        f'{{"at": 1, "op": "open", "kind": "trial", {common}, "store": "sqlite:///{tmp_path}/mlflow.db"}}',
        '{"at": 2, "op": "epochs", "epochs": [{"time_ms": 2, "epoch": 1, "train_loss": 0.5, "val_pcc": NaN}]}',
        '{"at": 3, "op": "tag", "tag": "cgd.seed", "value": "0"}',
        '{"at": 4, "op": "finish", "summary": {"n": 3, "x": Infinity}, "per_gene": "{}", "model_tags": null}',
    ]
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "one.jsonl").write_text("".join(f"{line}\n" for line in lines))
    tracking = store()
    deliver_leftovers(tracking, tmp_path)
    status, when, tags, params, points, _ = everything(tracking)["one"]
    assert (status, when, tags["cgd.seed"], params) == (FINISHED, (1, 4), "0", {"a": "None"})
    assert points == {"train_loss": [(1, 2, 0.5)], "n": [(0, 4, 3.0)]}


def test_an_error_that_names_a_path_of_odd_bytes_is_told(store, tmp_path):
    tracking = store()
    with Outbox(tracking, tmp_path) as outbox:
        begin(outbox)
        outbox.fail("one", "no file \udcff.h5ad", "trace")
        outbox.settle()
    assert everything(tracking)["one"][2]["cgd.error"] == "no file ?.h5ad"


def test_a_damaged_file_is_named(store, tmp_path):
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "one.jsonl").write_text("no json\n")
    with pytest.raises(TrackingError, match=r"one\.jsonl is damaged: .*JSON.*; move it away"):
        deliver_leftovers(store(), tmp_path)
    (tmp_path / "outbox" / "one.jsonl").write_text('{"op": "end", "at": 1}\n')
    with pytest.raises(TrackingError, match=r"one\.jsonl is damaged: a line of it lacks end\.status"):
        deliver_leftovers(store(), tmp_path)
    (tmp_path / "outbox" / "one.jsonl").write_text('{"op": "end", "at": 1, "status": "KILLED"}\n')
    with pytest.raises(TrackingError, match=r"one\.jsonl does not begin with the start of its run"):
        deliver_leftovers(store(), tmp_path)


def test_epochs_reported_again_by_a_resumed_trial_count_once(store, tmp_path):
    tracking = store()
    for epochs in ((1, 2, 3), (3, 4)):
        with Outbox(tracking, tmp_path) as outbox:
            begin(outbox)
            outbox.add_epochs("one", [epoch(n, 1_800_000_000_000 + len(epochs)) for n in epochs])
            outbox.end("one", KILLED)
            outbox.settle()
    assert [step for step, _, _ in everything(tracking)["one"][4]["train_loss"]] == [1, 2, 3, 4]


def test_a_full_disk_holds_nobody_up_and_is_said(store, tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    tracking, said = store(), []
    with Outbox(tracking, tmp_path) as outbox:
        outbox.say = said.append
        monkeypatch.setattr(OutboxFiles, "append", full)
        monkeypatch.setattr(OutboxFiles, "rewrite", full)
        tracking.client.error = away()
        report(outbox)
        assert not outbox.is_safe("one")  # its checkpoints must stay
        with pytest.raises(UndeliveredError, match=r"could not be kept there \(No space left"):
            outbox.settle()
        tracking.client.error = None
        outbox.settle()
        assert outbox.is_safe("one")
    assert any("No space left on device" in line for line in said)
    assert everything(tracking)["one"][0] == FINISHED


def test_a_disk_with_room_again_gets_the_whole_run(store, tmp_path, monkeypatch):
    tracking = store()
    tracking.client.error = away()
    with Outbox(tracking, tmp_path) as outbox:
        with monkeypatch.context() as patch:
            patch.setattr(OutboxFiles, "append", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full")))
            begin(outbox)
        outbox.finish("one", {"test_pcc": 0.5}, TABLE)
        assert outbox.is_safe("one")
    deliver_leftovers(store(), tmp_path)
    assert everything(tracking)["one"][0] == FINISHED


def test_a_model_waits_with_its_result(store, tmp_path, monkeypatch):
    tracking, attached = store(), []
    monkeypatch.setattr(
        Tracking, "log_model", lambda self, run_id, folder, tags: attached.append(sorted(folder.iterdir())) or "m-1"
    )
    trained = tmp_path / "checkpoints" / "one" / "model"
    trained.mkdir(parents=True)
    (trained / "weights").write_text("w")
    tracking.client.error = away()
    with Outbox(tracking, tmp_path) as outbox:
        begin(outbox)
        outbox.finish("one", {}, TABLE, (trained, {"cgd.seed": "0"}, {"name": "tiny", "digest": "0"}))
    assert left(tmp_path) == ["one-model", "one.jsonl"]
    assert not trained.exists()
    deliver_leftovers(store(), tmp_path)
    assert attached == [[tmp_path / "outbox" / "one-model" / "weights"]]
    assert left(tmp_path) == []


def test_a_defect_in_the_thread_reaches_the_command(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Tracking, "log_epochs", lambda *arguments: 1 / 0)
    with Outbox(store(), tmp_path) as outbox:
        begin(outbox)
        outbox.add_epochs("one", [epoch(1)])
        with pytest.raises(ZeroDivisionError):
            outbox.settle()


def test_writes_for_another_store_are_refused_and_stay_for_it(store, empty_store, tmp_path):
    tracking = store()
    tracking.client.error = away()
    with Outbox(tracking, tmp_path) as outbox:
        report(outbox)
    shutil.copy(empty_store, tmp_path / "other.db")
    other = Tracking(f"sqlite:///{tmp_path}/other.db", tmp_path / "artifacts")
    with pytest.raises(TrackingError, match=r"could not deliver to sqlite:///.*mlflow\.db.*earlier --tracking-uri"):
        deliver_leftovers(other, tmp_path)
    assert (left(tmp_path), other.find_runs("trial")) == (["one.jsonl"], {})
    deliver_leftovers(store(), tmp_path)
    assert everything(tracking)["one"][0] == FINISHED


def test_a_large_write_after_the_store_came_back_is_waited_for(store, tmp_path, monkeypatch):
    patience_seconds, writing, original = 0.2, threading.Event(), Tracking.log_epochs

    def slowly(*arguments):
        writing.set()
        threading.Event().wait(5 * patience_seconds)
        original(*arguments)

    monkeypatch.setattr("tune.store.outbox.read_patience", lambda: patience_seconds)
    monkeypatch.setattr(Tracking, "log_epochs", slowly)
    tracking, said = store(), []
    with Outbox(tracking, tmp_path) as outbox:
        outbox.say = said.append
        tracking.client.error = away()
        report(outbox, epochs=(1,))
        wait_for(lambda: said)
        tracking.client.error = None
        wait_for(writing.is_set)
        outbox.settle()
    assert everything(tracking)["one"][0] == FINISHED


@pytest.mark.parametrize("given", ["soon", "0", "-1", "inf", "nan"])
def test_the_wait_is_a_number_of_seconds(monkeypatch, given):
    monkeypatch.setenv("CGD_STORE_WAIT", given)
    with pytest.raises(CGDError, match="CGD_STORE_WAIT"):
        read_patience()


# ---- two commands on one server -------------------------------------------------------------------------------------


@pytest.fixture
def two(store, tmp_path):
    """Two commands with output folders of their own, told that they share a server."""
    found = [store(tmp_path / name) for name in ("a", "b")]
    for tracking in found:
        tracking.is_shared = True
    assert found[0].driver != found[1].driver
    return found


def test_a_finished_run_of_another_command_is_not_touched(two, tmp_path):
    with Outbox(two[0], tmp_path / "a") as first, Outbox(two[1], tmp_path / "b") as second:
        begin(first)
        first.add_epochs("one", [epoch(1)])
        first.settle()
        begin(second)
        second.add_epochs("one", [epoch(1, 1_900_000_000_000)])
        second.settle()
        assert len(everything(two[0])["one"][4]["train_loss"]) == 1  # the first writes, the second waits
        first.finish("one", {"test_pcc": 0.5}, TABLE)
        first.settle()
        finished = everything(two[0])
        second.add_epochs("one", [epoch(2)])
        second.finish("one", {"test_pcc": 0.25}, TABLE)
        second.settle()
    assert everything(two[0]) == finished
    assert left(tmp_path / "b") == []


def test_a_run_left_behind_is_taken_over_by_whoever_finishes(two, tmp_path):
    with Outbox(two[0], tmp_path / "a") as first, Outbox(two[1], tmp_path / "b") as second:
        begin(first)
        first.add_epochs("one", [epoch(1)])
        first.settle()
        report(second)
        second.settle()
        finished = everything(two[0])
        first.add_epochs("one", [epoch(2)])  # it was alive after all
        first.end("one", KILLED)
        first.settle()
    assert everything(two[0]) == finished
    status, _, tags, _, points, _ = finished["one"]
    assert (status, tags["cgd.driver"]) == (FINISHED, two[1].driver)
    assert [step for step, _, _ in points["train_loss"]] == [1, 2, 3]


def test_of_two_that_finish_at_once_the_later_changes_nothing(two, tmp_path, monkeypatch):
    """The other one finishes while this one's model is on its way, after the run was found open."""
    finished = []

    def meanwhile(*arguments):
        first.finish("one", {"test_pcc": 0.5}, TABLE)
        first.settle()
        finished.append(everything(two[0]))
        return "m-1"

    monkeypatch.setattr(Tracking, "log_model", meanwhile)
    (tmp_path / "model").mkdir()
    with Outbox(two[0], tmp_path / "a") as first, Outbox(two[1], tmp_path / "b") as second:
        begin(first)
        first.settle()
        begin(second)
        second.finish("one", {"test_pcc": 0.25}, TABLE, (tmp_path / "model", {}, {"name": "tiny", "digest": "0"}))
        second.settle()
    assert finished == [everything(two[0])]
    assert [value for _, _, value in finished[0]["one"][4]["test_pcc"]] == [0.5]
    assert left(tmp_path / "b") == []


def test_commands_that_make_the_experiment_at_once_share_it(empty_store, tmp_path, monkeypatch):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    both_looked, found = threading.Barrier(2), []

    class Client(MlflowClient):
        def get_experiment_by_name(self, name):
            seen = super().get_experiment_by_name(name)
            if seen is None:
                both_looked.wait(60)
            return seen

    def open_store():
        found.append(Tracking(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts").experiment_id)

    monkeypatch.setattr("tune.store.reading.MlflowClient", Client)
    for module in ("tracking", "reading"):
        monkeypatch.setattr(f"tune.store.{module}.EXPERIMENT", "made by two at once")
    threads = [threading.Thread(target=open_store) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len(set(found)) == 1


def test_commands_that_begin_a_trial_at_once_make_one_run_of_it(two):
    for number in range(4):
        made, start = [], threading.Barrier(2)

        def begin_at_once(tracking, key=f"trial-{number}", made=made, start=start):
            start.wait()
            made.append(tracking.open_run("trial", key, key, {}))

        threads = [threading.Thread(target=begin_at_once, args=(tracking,)) for tracking in two]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == 1
    assert len(everything(two[0])) == 4


def test_a_claim_without_an_answer_or_command_is_no_run(two, monkeypatch):
    monkeypatch.setattr("tune.store.claims._STALE_SECONDS", 0.2)
    for tracking in two:  # both asked for a run and heard nothing
        tags = {"cgd.claim": "one", "cgd.driver": tracking.driver}
        tracking.client.client.create_run(tracking.experiment_id, tags=tags)
    run_id = two[0].open_run("trial", "one", "one", {})
    assert two[1].open_run("trial", "one", "one", {}) == run_id
    assert list(everything(two[0])) == ["one"]


def test_a_sample_stopped_early_may_be_run_again_to_its_end(store, tmp_path):
    tracking = store()
    with Outbox(tracking, tmp_path) as outbox:
        begin(outbox)
        outbox.tag("one", STOPPED, "40")
        outbox.end("one", FINISHED)
        report(outbox)
        outbox.settle()
    status, _, tags, _, points, _ = everything(tracking)["one"]
    assert (status, STOPPED in tags, len(points["test_pcc"])) == (FINISHED, False, 1)
