"""Checkpoints in a store that all machines reach: another machine continues, and losing the store loses no trial."""

import pickle
import shutil

import pytest
import torch

from cgd.errors import CheckpointError
from cgd.estimator import CausalGeD
from cgd.evaluation import evaluate, trial_fingerprint
from cgd.training.checkpoint import CheckpointFolder, CheckpointWarning, read_folder
from tune.checkpoints import mirror as checkpoint_mirror
from tune.checkpoints.mirror import CheckpointMirror, StorageError


class Stopped(Exception):
    pass


@pytest.fixture
def storage(tmp_path):
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


def machine(tmp_path, storage, name="one"):
    """The store as one machine sees it, whose folder no other machine shares."""
    return CheckpointMirror(f"file://{storage}", tmp_path / name / "checkpoints")


def opened(mirror, trial="abc"):
    return mirror.open(mirror.root / trial, trial)


def save(folder, *epochs, best=None):
    for epoch in epochs:
        folder.save(epoch, {"a": torch.full((2, 3), float(epoch))}, {"epoch": epoch, "kept_epoch": best})


def names(storage):
    return sorted(path.relative_to(storage).as_posix() for path in storage.rglob("*") if path.is_file())


def whole(*epochs):
    return [f"abc/epoch-{epoch:05d}/{name}" for epoch in epochs for name in ("state.json", "tensors.safetensors")]


def epoch_loaded(folder):
    found = folder.load_newest()
    return found and (found[0]["a"][0, 0].item(), found[1]["epoch"])


def test_the_store_holds_what_the_rule_keeps(tmp_path, storage):
    folder = opened(machine(tmp_path, storage))
    save(folder, 1, 2, 3, 4, best=1)
    assert names(storage) == whole(1, 3, 4)
    assert folder.epochs() == [1, 3, 4]


def test_another_machine_continues_where_the_first_was(tmp_path, storage):
    save(opened(machine(tmp_path, storage)), 1, 2, 3)
    other = opened(pickle.loads(pickle.dumps(machine(tmp_path, storage, "two"))))
    assert epoch_loaded(other) == (3, 3)
    assert other.epochs() == [3]
    assert other.counts() == {}


def test_the_newer_of_both_places_wins(tmp_path, storage):
    first, second = (opened(machine(tmp_path, storage, name)) for name in ("one", "two"))
    save(first, 1, 2)
    second.load_newest()
    save(second, 3)
    assert epoch_loaded(opened(machine(tmp_path, storage, "one"))) == (3, 3)
    shutil.rmtree(storage / "abc" / "epoch-00003")
    assert epoch_loaded(opened(machine(tmp_path, storage, "one"))) == (3, 3)


def test_a_damaged_one_here_is_replaced_by_the_whole_one_there(tmp_path, storage):
    mirror = machine(tmp_path, storage)
    save(opened(mirror), 1, 2)
    (mirror.root / "abc" / "epoch-00002" / "state.json").write_text("{")
    again = opened(mirror)
    with pytest.warns(CheckpointWarning, match="passed over a damaged checkpoint"):
        assert epoch_loaded(again) == (2, 2)
    assert again.damaged == ["epoch-00002"]


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_what_is_not_whole_there_is_passed_over(tmp_path, storage, name, damage):
    save(opened(machine(tmp_path, storage)), 1, 2)
    path = storage / "abc" / "epoch-00002" / name
    path.unlink() if damage == "lost" else path.write_bytes(path.read_bytes()[:-3])
    other = opened(machine(tmp_path, storage, "two"))
    with pytest.warns(CheckpointWarning, match="epoch-00002"):
        assert epoch_loaded(other) == (1, 1)
    assert other.counts() == {"damaged_checkpoints": 1}
    save(other, 2)
    assert names(storage) == whole(1, 2)


def test_an_upload_cut_short_is_never_taken_for_whole(tmp_path, storage, monkeypatch):
    """Also where it replaces a whole one of the same epoch: its hash goes first and comes last."""
    mirror = machine(tmp_path, storage)
    save(opened(mirror), 2)

    def cut(source, stream, length):
        stream.write(source.read(10))
        raise Stopped

    monkeypatch.setattr(checkpoint_mirror.shutil, "copyfileobj", cut)
    with pytest.raises(Stopped):
        mirror.put(mirror.root / "abc" / "epoch-00002")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"is not whole: it has no state\.json"):
        machine(tmp_path, storage, "two").fetch(tmp_path / "two" / "checkpoints" / "abc" / "epoch-00002")


def test_a_store_that_is_away_loses_no_trial_and_is_said_once(tmp_path, storage):
    folder = opened(machine(tmp_path, storage))
    save(folder, 1)
    storage.rename(tmp_path / "away")
    storage.write_text("a file, in which no folder can be made")
    with pytest.warns(CheckpointWarning) as said:
        save(folder, 2, 3)
    (message,) = (str(warning.message) for warning in said)
    assert message.startswith(f"epoch 2 did not reach file://{storage}, training goes on and the next one tries: ")
    assert folder.counts() == {"unmirrored_checkpoints": 2}
    assert folder.epochs() == [2, 3]
    storage.unlink()
    (tmp_path / "away").rename(storage)
    save(folder, 4)
    assert names(storage) == whole(1, 4)


def test_a_new_worker_goes_on_counting_unmirrored_epochs(tmp_path, storage):
    mirror, away = machine(tmp_path, storage), tmp_path / "away"
    for worker, epoch in enumerate((1, 4)):
        folder = opened(mirror)
        folder.load_newest()
        assert folder.counts().get("unmirrored_checkpoints", 0) == worker
        save(folder, epoch)
        storage.rename(away)
        with pytest.warns(CheckpointWarning, match="did not reach"):
            save(folder, epoch + 1)
        away.rename(storage)
        save(folder, epoch + 2)
        assert folder.counts() == {"unmirrored_checkpoints": worker + 1}


def test_training_does_not_begin_again_because_the_store_is_away(tmp_path, storage, monkeypatch):
    def refused(uri):
        raise OSError("no route to host")

    monkeypatch.setattr(checkpoint_mirror, "_open_store", refused)
    with pytest.raises(StorageError, match=r"cannot reach the checkpoint storage .*: no route to host"):
        opened(machine(tmp_path, storage)).load_newest()


def test_a_shared_folder_that_is_not_mounted_is_not_an_empty_one(tmp_path, storage):
    save(opened(machine(tmp_path, storage)), 1)
    not_mounted = opened(machine(tmp_path, tmp_path / "elsewhere", "two"))
    with pytest.raises(StorageError, match="no such folder as seen from this machine"):
        not_mounted.load_newest()
    with pytest.warns(CheckpointWarning, match="did not reach"):
        save(not_mounted, 2)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://key:secret@bucket/x", "the address holds a key"),
        ("nonsense://x", "cannot write to the checkpoint storage nonsense://x: "),
        ("relative/folder", "Give --checkpoint-storage s3://BUCKET/PREFIX"),
        ("file:///dev/null/x", "cannot write to the checkpoint storage"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(tmp_path, uri, expected):
    with pytest.raises(StorageError, match=expected) as refused:
        CheckpointMirror(uri, tmp_path).check()
    assert "secret" not in str(refused.value)


def test_a_store_that_works_is_left_as_it_was(tmp_path, storage):
    machine(tmp_path, storage / "not" / "there" / "yet").check()
    assert names(storage) == []


# ---- a trial ------------------------------------------------------------------------------------------------------


def run(tiny, mirror, stop_after=None):
    """Run a trial on a machine; `stop_after` an epoch, as if the machine was lost. Returns it and its epochs."""
    epochs = []

    def on_epoch(metrics):
        epochs.append(metrics["epoch"])
        if metrics["epoch"] == stop_after:
            raise Stopped

    found = evaluate(
        tiny.config({"train.epochs": 3}),
        tiny.prepared,
        tiny.split,
        on_epoch=on_epoch,
        checkpoint_root=mirror.root,
        open_checkpoints=mirror.open,
    )
    return found, epochs


def test_a_trial_ends_on_another_machine_as_on_the_first(tiny, tmp_path, storage, monkeypatch):
    (tmp_path / "another").mkdir()
    alone, _ = run(tiny, machine(tmp_path, tmp_path / "another", "alone"))
    with pytest.raises(Stopped):
        run(tiny, machine(tmp_path, storage), stop_after=2)
    shutil.rmtree(tmp_path / "one")
    other = machine(tmp_path, storage, "two")
    trained = []
    original = checkpoint_mirror.MirroredFolder.save
    monkeypatch.setattr(checkpoint_mirror.MirroredFolder, "save", lambda *a: trained.append(a[1]) or original(*a))
    resumed, epochs = run(tiny, other)
    assert (trained, epochs) == ([3], [1, 2, 3])
    assert resumed.summary["test_pcc"] == alone.summary["test_pcc"]
    fingerprint = trial_fingerprint(tiny.config({"train.epochs": 3}), tiny.prepared, tiny.split)
    resumed.model.save(other.root / fingerprint / "model")
    other.try_to_put(other.root / fingerprint / "model")
    driver = machine(tmp_path, storage, "driver")
    driver.try_to_fetch(driver.root / fingerprint / "model")
    assert CausalGeD.load(driver.root / fingerprint / "model").genes == resumed.model.genes
    driver.forget(fingerprint)
    assert names(storage) == []
    driver.forget(fingerprint)


def test_a_model_that_does_not_arrive_is_said(tmp_path, storage):
    mirror = machine(tmp_path, storage)
    with pytest.warns(CheckpointWarning, match="is not whole"):
        mirror.try_to_fetch(mirror.root / "abc" / "model")
    save(CheckpointFolder(mirror.root / "abc", "abc"), 1)
    blocked = CheckpointMirror("file:///dev/null/x", mirror.root)
    with pytest.warns(CheckpointWarning, match="did not reach"):
        blocked.try_to_put(mirror.root / "abc" / "epoch-00001")
    assert read_folder(mirror.root / "abc" / "epoch-00001")[1]["epoch"] == 1
    with pytest.raises(StorageError):
        blocked.list_epochs(mirror.root / "abc")
