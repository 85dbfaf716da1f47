"""`--clean`: what is of no more use goes, what a user or a later command needs stays."""

import argparse

import pytest
import torch

from cgd.errors import ConfigError
from cgd.training.checkpoint import CheckpointFolder, write_folder
from cgd.version import code_version
from tune.checkpoints.mirror import CheckpointMirror
from tune.commands import ablation as cli
from tune.commands.clean import clean, find_leftovers, read_store
from tune.store.lock import OutputError, lock_folder
from tune.store.opening import name_own_store
from tune.store.reading import FAILED, FINISHED, KILLED
from tune.store.tracking import Tracking

HALF = "." + "epoch-00004." + "0a" * 16
SACRED = ["mlflow.db", "artifacts/1/model", "reports/index.html", "logs/a.log", "outbox/1.json", "search/a.journal"]


def runs(output):
    """A finished, a stopped and a failed trial of this code, and stopped ones of another version and of a search."""
    tracking, now = Tracking(name_own_store(output), output / "artifacts"), code_version("cgd.evaluation")
    for key, status, code in [
        ("done", FINISHED, now),
        ("stopped", KILLED, now),
        ("failed", FAILED, now),
        ("older", KILLED, "0123456789ab"),
        ("older-done", FINISHED, "0123456789ab"),
        ("search-u-3", KILLED, None),
    ]:
        run_id = tracking.open_run("trial", key, key, {"cgd.code_version": code} if code else {})
        tracking.end(run_id, status)
    return tracking


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A store, which takes seconds to make."""
    output = tmp_path_factory.mktemp("used")
    runs(output)
    return output


@pytest.fixture
def output(used):
    """The output folder of a few commands."""
    root = used / "checkpoints"
    for name in ("done", "stopped", "failed", "older", "older-done", "search-u-3/abc", "unknown"):
        CheckpointFolder(root / name, name).save(3, {"a": torch.zeros(1000)}, {})
    for folder in (root / "stopped" / HALF, root / "search-u-3" / "abc" / f"{HALF}.old", root / f".done.{'1b' * 16}"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tensors.safetensors").write_bytes(b"x" * 100)
    write_folder(root / "predictions" / "p", {"prediction": torch.zeros(3)}, {})
    (used / "ray_tune" / "20260101-000000-1").mkdir(parents=True, exist_ok=True)
    for name in SACRED:
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).touch()
    return used


def options(output, what="finished", dry_run=False, storage=None):
    how = {"checkpoint_budget": 1, "checkpoint_storage": storage}
    return argparse.Namespace(output=output, clean=what, dry_run=dry_run, tracking_uri=name_own_store(output), **how)


def left(output):
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.name != ".lock"}


NAMES = ["done", "older-done", "predictions"]
HALVES = [f".done.{'1b' * 16}", f"stopped/{HALF}", f"search-u-3/abc/{HALF}.old"]
TUNES = "ray_tune/20260101-000000-1"


@pytest.mark.parametrize(("what", "more"), [("finished", []), ("all", ["older", "unknown"])])
def test_what_goes_and_what_stays(output, what, more, capsys):
    before = left(output)
    gone = {f"checkpoints/{name}" for name in [*NAMES, *HALVES, *more]} | {TUNES}
    assert clean(options(output, what, dry_run=True)).code == 0
    said = capsys.readouterr().out
    assert left(output) == before
    assert clean(options(output, what)).code == 0
    printed = capsys.readouterr().out
    assert left(output) == {name for name in before if not any(f"{name}/".startswith(f"{one}/") for one in gone)}
    assert left(output) >= {*SACRED, "checkpoints/stopped/epoch-00003/state.json", "checkpoints/failed/epoch-00003"}
    assert {line.split("  (")[0].split()[-1] for line in printed.splitlines()[:-1]} == gone
    assert printed.splitlines()[:-1] == said.splitlines()[:-1]
    total = printed.splitlines()[-1]
    assert total.startswith(f"removed {len(gone)} folders, ")
    assert said.splitlines()[-1] == total.replace("removed", "would remove")
    clean(options(output, what))
    assert capsys.readouterr().out == "nothing to remove\n"


def test_predictions_stay_while_a_study_is_interrupted(output):
    tracking = Tracking(name_own_store(output), output / "artifacts")
    parent = tracking.open_run("study", "study-x", "x", {})
    for status, stay in [(KILLED, True), (FINISHED, False)]:
        tracking.end(parent, status)
        found = find_leftovers(output, read_store(name_own_store(output), output), everything=False)
        assert (output / "checkpoints" / "predictions" not in {one.path for one in found}) == stay


def test_a_trial_that_waits_in_the_outbox_is_not_unknown(output):
    waiting = output / "outbox" / "unknown.jsonl"
    waiting.touch()
    found = find_leftovers(output, read_store(name_own_store(output), output), everything=True)
    waiting.unlink()
    assert "unknown" not in {one.path.name for one in found}


def test_it_refuses_while_another_command_works_there(output):
    before = left(output)
    with lock_folder(output), pytest.raises(OutputError, match="is in use by process"):
        clean(options(output))
    assert left(output) == before


def test_links_are_not_followed_out_of_the_folder(output, tmp_path):
    mine = tmp_path / "mine"
    for name in ("done", HALF):
        (mine / name).mkdir(parents=True)
        (mine / name / "precious").touch()
    root = output / "checkpoints"
    (root / "done" / "epoch-00009").symlink_to(mine / "done")
    (root / "stopped" / "link").symlink_to(mine)
    (output / "ray_tune" / "linked").symlink_to(mine)
    clean(options(output, "all"))
    assert sorted(path.name for path in mine.rglob("precious")) == ["precious", "precious"]
    assert not (root / "done").exists()
    (output / "ray_tune" / "linked").unlink()
    (root / "stopped" / "link").unlink()


@pytest.mark.parametrize("what", ["finished", "all"])
def test_in_a_checkpoint_storage_only_finished_trials_go(output, tmp_path, capsys, what):
    storage = tmp_path.as_uri()
    mirror = CheckpointMirror(storage, output / "checkpoints")
    names = ["done", "older", "predictions", "stopped", "unknown"]
    for name in names:
        CheckpointFolder(output / "checkpoints" / name, name).save(3, {"a": torch.zeros(10)}, {})
        mirror.put(output / "checkpoints" / name / "epoch-00003")
    clean(options(output, what, dry_run=True, storage=storage))
    assert mirror.list_trials() == names
    clean(options(output, what, storage=storage))
    assert "in storage  done  (the store has the trial as finished)" in capsys.readouterr().out
    assert mirror.list_trials() == names[1:]


def test_without_a_store_no_trial_counts_as_finished_or_unknown(tmp_path, capsys):
    CheckpointFolder(tmp_path / "checkpoints" / "abc", "abc").save(1, {"a": torch.zeros(3)}, {})
    (tmp_path / "ray_tune" / "one").mkdir(parents=True)
    clean(options(tmp_path, "all"))
    assert "checkpoints of trials are left alone" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "abc" / "epoch-00001").is_dir()
    assert not (tmp_path / "ray_tune" / "one").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_no_folder_is_an_error_and_none_is_made(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        clean(options(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_the_commands_take_it_without_naming_a_study(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "ray_tune" / "one").mkdir(parents=True)
    assert cli.main(["--clean", "--dry-run", "--output", str(tmp_path)]) == 0
    assert "would remove 1 folder, 0 bytes" in capsys.readouterr().out
    assert cli.main(["--clean", "all", "--output", str(tmp_path)]) == 0
    assert not (tmp_path / "ray_tune" / "one").exists()
