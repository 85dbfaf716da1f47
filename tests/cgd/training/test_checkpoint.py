"""Checkpoints: whole or not there, never of another trial, and the older one when the newest is damaged."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import save

from cgd.errors import CheckpointError, DiskError
from cgd.evaluation import evaluate
from cgd.training import checkpoint
from cgd.training.checkpoint import (
    CheckpointFolder,
    CheckpointWarning,
    choose_kept_epochs,
    optimizer_tensors,
    read_folder,
    restore_optimizer,
    write_folder,
)


def tensors(value=1.0):
    return {"a": torch.full((2, 3), value), "b.c": torch.arange(4)}


def assert_is(loaded, value, state):
    found, found_state = loaded
    assert found.keys() == tensors().keys()
    assert torch.equal(found["a"], tensors(value)["a"])
    assert torch.equal(found["b.c"], tensors()["b.c"])
    assert found_state == state


# ---- one folder ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_replaces_what_was_there(tmp_path):
    for value in (1.0, 2.0):
        write_folder(tmp_path / "deep" / "model", tensors(value), {"x": [value, None]})
        assert_is(read_folder(tmp_path / "deep" / "model"), value, {"x": [value, None]})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_floats_survive_bit_for_bit(tmp_path):
    values = [0.1 + 0.2, 1e-308, float("-inf")]
    write_folder(tmp_path / "m", {"v": torch.tensor(values, dtype=torch.float64)}, {"v": values})
    found, state = read_folder(tmp_path / "m")
    assert state["v"] == found["v"].tolist() == values


def test_views_and_transposes_are_written_as_they_look(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    write_folder(tmp_path / "m", {"t": base.T, "same": base}, {})
    found, _ = read_folder(tmp_path / "m")
    assert torch.equal(found["t"], base.T)
    assert torch.equal(found["same"], base)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("interrupted_at", [1, 2, 3])  # the tensors, the state, the folder
@pytest.mark.parametrize("there_before", [False, True])
def test_an_interrupted_write_leaves_no_half_folder(tmp_path, monkeypatch, there_before, interrupted_at):
    folder, calls = tmp_path / "model", []
    if there_before:
        write_folder(folder, tensors(1.0), {})

    def interrupted(descriptor):
        calls.append(descriptor)
        if len(calls) == interrupted_at:
            raise Killed

    monkeypatch.setattr(checkpoint.os, "fsync", interrupted)
    with pytest.raises(Killed):
        write_folder(folder, tensors(2.0), {})
    monkeypatch.undo()
    if there_before:
        assert_is(read_folder(folder), 1.0, {})
    else:
        assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if there_before else [])
    write_folder(folder, tensors(3.0), {})
    assert_is(read_folder(folder), 3.0, {})


def test_a_checkpoint_survives_a_power_cut_once_it_is_written(tmp_path, monkeypatch):
    """Both files, the folder that names them and the folder that names it are flushed to disk, in that order."""
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or real(fd))
    write_folder(tmp_path / "model", tensors(), {})
    hidden = synced[2]
    assert synced == [f"{hidden}/tensors.safetensors", f"{hidden}/state.json", hidden, str(tmp_path)]


def damage_state(folder):
    (folder / "state.json").write_text("{")


def lose_state(folder):
    (folder / "state.json").unlink()


def lose_tensors(folder):
    (folder / "tensors.safetensors").unlink()


def truncate_tensors(folder):
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(folder, name="tensors.safetensors", position=-1, bit=0):
    data = bytearray((folder / name).read_bytes())
    data[position] ^= 1 << bit
    (folder / name).write_bytes(bytes(data))


def change_the_state(folder):
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "epoch": 77}))


def put_another_json(folder):
    (folder / "state.json").write_text("[1, 2]")


def lose_hash(folder):
    (folder / "state.json").write_text("{}")


DAMAGES = [damage_state, lose_state, lose_tensors, truncate_tensors, flip_a_bit, lose_hash]
DAMAGES += [change_the_state, put_another_json]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(tmp_path, damage):
    write_folder(tmp_path / "model", tensors(), {})
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model.* (is not a whole checkpoint|is damaged: the hash of)"):
        read_folder(tmp_path / "model")


def test_any_flipped_bit_of_the_state_is_found(tmp_path):
    state = {"epoch": 1, "scores": [0.5, None], "name": "ü"}
    write_folder(tmp_path / "model", tensors(), state)
    whole = (tmp_path / "model" / "state.json").read_bytes()
    for position in range(8 * len(whole)):
        flip_a_bit(tmp_path / "model", "state.json", position // 8, position % 8)
        with pytest.raises(CheckpointError):
            read_folder(tmp_path / "model")
        (tmp_path / "model" / "state.json").write_bytes(whole)
    assert_is(read_folder(tmp_path / "model"), 1.0, state)


def test_a_model_saved_before_its_state_was_hashed_still_loads(tmp_path):
    data, folder = save(tensors()), tmp_path / "model"
    folder.mkdir()
    (folder / "tensors.safetensors").write_bytes(data)
    (folder / "state.json").write_text(json.dumps({"x": 1, "tensors_sha256": hashlib.sha256(data).hexdigest()}))
    assert_is(read_folder(folder), 1.0, {"x": 1})
    flip_a_bit(folder)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_folder(folder)


def test_no_pickle_is_read_or_written(tmp_path):
    write_folder(tmp_path / "model", tensors(), {"epoch": 1})
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"tensors.safetensors", "state.json"}
    assert json.loads((tmp_path / "model" / "state.json").read_text())["epoch"] == 1


# ---- the checkpoints of a trial -----------------------------------------------------------------------------------


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path / "trial", "abc")
    assert folder.load_newest() is None
    for epoch in (1, 2, 9, 10, 11):
        folder.save(epoch, tensors(epoch), {"epoch": epoch})
        assert_is(folder.load_newest(), epoch, {"epoch": epoch})
    assert sorted(path.name for path in (tmp_path / "trial").iterdir()) == ["epoch-00010", "epoch-00011"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_one_falls_back_to_the_one_before(tmp_path, damage):
    folder = CheckpointFolder(tmp_path, "abc")
    for epoch in (3, 4):
        folder.save(epoch, tensors(epoch), {"epoch": epoch})
    damage(tmp_path / "epoch-00004")
    with pytest.warns(CheckpointWarning) as said:
        assert_is(folder.load_newest(), 3, {"epoch": 3})
    assert "epoch-00004" in str(said[0].message)
    assert str(said[1].message) == f"training continues from {tmp_path / 'epoch-00003'}"
    assert folder.damaged == ["epoch-00004"]
    assert folder.counts() == {"damaged_checkpoints": 1}


def test_without_a_whole_checkpoint_training_restarts_and_warns(tmp_path):
    CheckpointFolder(tmp_path, "abc").save(3, tensors(), {})
    folder = CheckpointFolder(tmp_path, "abc")
    lose_state(tmp_path / "epoch-00003")
    with pytest.warns(CheckpointWarning, match="training starts from zero"):
        assert folder.load_newest() is None
    assert folder.damaged == ["epoch-00003"]


def test_a_damaged_checkpoint_takes_no_place_of_a_whole_one(tmp_path):
    folder = CheckpointFolder(tmp_path, "abc")
    for epoch in (3, 4):
        folder.save(epoch, tensors(epoch), {"epoch": epoch})
    truncate_tensors(tmp_path / "epoch-00004")
    shutil.copytree(tmp_path / "epoch-00004", tmp_path / "epoch-00009")
    with pytest.warns(CheckpointWarning):
        folder.load_newest()
    folder.save(4, tensors(4), {"epoch": 4})
    assert folder.epochs() == [3, 4]
    assert_is(CheckpointFolder(tmp_path, "abc").load_newest(), 4, {"epoch": 4})


def test_the_rule_keeps_the_last_the_best_and_a_spare(tmp_path):
    folder, kept = CheckpointFolder(tmp_path, "abc"), []
    for epoch, best in [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 6), (7, 6), (8, 6)]:
        folder.save(epoch, tensors(), {"kept_epoch": best})
        kept.append(folder.epochs())
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7], [6, 7, 8]]
    assert choose_kept_epochs([9, 99_998, 99_999, 100_000], last=100_000, best=None) == {99_999, 100_000}
    CheckpointFolder(tmp_path / "long", "abc").save(99_999, tensors(1), {})
    CheckpointFolder(tmp_path / "long", "abc").save(100_000, tensors(2), {})
    assert_is(CheckpointFolder(tmp_path / "long", "abc").load_newest(), 2, {})


# ---- a disk that is full ------------------------------------------------------------------------------------------


def full_from(monkeypatch, n_syncs, code=errno.ENOSPC):
    """From the so-many-th flush on the disk takes nothing."""
    calls, real = [], os.fsync

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) >= n_syncs:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def save_epochs(folder, *epochs):
    for epoch in epochs:
        folder.save(epoch, tensors(epoch), {})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("n_syncs", [1, 2, 3])
def test_a_full_disk_loses_that_checkpoint_and_nothing_else(tmp_path, monkeypatch, code, n_syncs):
    folder = CheckpointFolder(tmp_path, "abc")
    folder.save(1, tensors(1), {})
    with monkeypatch.context() as full:
        full_from(full, n_syncs, code)
        with pytest.warns(CheckpointWarning) as said:
            save_epochs(folder, 2, 3)
    (message,) = (str(warning.message) for warning in said)
    assert "no checkpoint of epoch 2, training goes on and the next epoch tries again" in message
    assert f"cannot write {tmp_path / 'epoch-00002'}: {os.strerror(code)}; " in message
    assert " free there. Free some space or choose another folder" in message
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001"]
    assert folder.counts() == {"unsaved_checkpoints": 2}
    folder.save(4, tensors(4), {})
    assert folder.epochs() == [1, 4]
    assert_is(folder.load_newest(), 4, {})


def test_a_full_disk_changes_no_number_and_is_on_record(tiny, tmp_path, monkeypatch):
    config = tiny.config({"train.epochs": 3})
    alone = evaluate(config, tiny.prepared, tiny.split)
    full_from(monkeypatch, 5)  # each checkpoint flushes four times
    with pytest.warns(CheckpointWarning, match="no checkpoint of epoch 2"):
        outcome = evaluate(config, tiny.prepared, tiny.split, checkpoint_root=tmp_path)
    assert outcome.summary["unsaved_checkpoints"] == 2
    assert outcome.summary["test_pcc"] == alone.summary["test_pcc"]
    assert not list(tmp_path.rglob(".*"))


LIMITED = """
import resource, sys, warnings
from pathlib import Path
import torch
from cgd.training.checkpoint import CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]), "abc")
folder.save(1, {"a": torch.zeros(10)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder.save(2, {"a": torch.zeros(100_000)}, {})
folder.save(3, {"a": torch.zeros(10)}, {})
print(folder.unsaved, folder.epochs())
"""


def test_a_file_that_the_system_cuts_off_is_no_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[2] [1, 3]", done.stderr
    assert "File too large" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00001", "epoch-00003"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_real_full_file_system(small_disk):
    folder, large = CheckpointFolder(small_disk / "trial", "abc"), {"a": torch.zeros(100_000)}  # 400 kB
    folder.save(1, large, {})
    folder.save(2, large, {})
    with pytest.warns(CheckpointWarning, match=r"No space left on device; \d+ kB free there"):
        folder.save(3, large, {})
    assert [path.name for path in sorted((small_disk / "trial").iterdir())] == ["epoch-00001", "epoch-00002"]
    assert torch.equal(folder.load_newest()[0]["a"], large["a"])
    shutil.rmtree(small_disk / "trial" / "epoch-00001")
    folder.save(4, large, {})
    assert folder.epochs() == [2, 4]


def test_a_model_that_does_not_fit_says_what_to_do(tmp_path, monkeypatch):
    write_folder(tmp_path / "model", tensors(1), {})
    full_from(monkeypatch, 1)
    with pytest.raises(DiskError, match=r"cannot write .*model: No space left .* choose another folder"):
        write_folder(tmp_path / "model", tensors(2), {})
    assert_is(read_folder(tmp_path / "model"), 1, {})


def test_what_is_no_fault_of_the_disk_is_not_taken_for_one(tmp_path, monkeypatch):
    def refused(descriptor):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(PermissionError), warnings.catch_warnings(action="error"):
        CheckpointFolder(tmp_path, "abc").save(1, tensors(), {})
    assert not list(tmp_path.iterdir())


def test_leftovers_of_an_interrupted_write_are_no_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path, "abc")
    folder.save(1, tensors(1), {"epoch": 1})
    (tmp_path / ".epoch-00002.123").mkdir()
    assert_is(folder.load_newest(), 1, {"epoch": 1})


def test_a_checkpoint_of_another_trial_is_refused(tmp_path):
    CheckpointFolder(tmp_path, "abc").save(1, tensors(), {})
    with pytest.raises(CheckpointError, match=r"epoch-00001 belongs to another trial than xyz; remove "):
        CheckpointFolder(tmp_path, "xyz").load_newest()


def test_clear_removes_the_folder_and_nothing_else(tmp_path):
    folder = CheckpointFolder(tmp_path / "trial", "abc")
    folder.save(1, tensors(), {})
    (tmp_path / "other").mkdir()
    folder.clear()
    folder.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


# ---- the optimizer ------------------------------------------------------------------------------------------------


def make_optimizer():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=0.1)


def take_steps(model, optimizer, n):
    for _ in range(n):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()


def test_a_restored_optimizer_continues_as_if_never_stopped(tmp_path):
    model, optimizer = make_optimizer()
    take_steps(model, optimizer, 3)
    write_folder(tmp_path / "m", {**optimizer_tensors(optimizer), "weight": model.weight, "bias": model.bias}, {})
    take_steps(model, optimizer, 2)
    other, restored = make_optimizer()
    saved, _ = read_folder(tmp_path / "m")
    with torch.no_grad():
        other.weight.copy_(saved["weight"])
        other.bias.copy_(saved["bias"])
    restore_optimizer(restored, saved)
    take_steps(other, restored, 2)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)
    assert [group["weight_decay"] for group in restored.param_groups] == [0.1, 0.0]


def test_a_worker_that_takes_over_knows_what_was_lost_before(tmp_path, monkeypatch):
    first = CheckpointFolder(tmp_path, "f")
    save_epochs(first, 1)
    with monkeypatch.context() as disk:
        full_from(disk, 1)
        with pytest.warns(CheckpointWarning):
            save_epochs(first, 2)
    save_epochs(first, 3)
    second = CheckpointFolder(tmp_path, "f")
    second.load_newest()
    assert second.counts() == {"unsaved_checkpoints": 1}
    (tmp_path / "epoch-00003" / "state.json").write_text("")
    third = CheckpointFolder(tmp_path, "f")
    with pytest.warns(CheckpointWarning):
        third.load_newest()
    save_epochs(third, 2)  # trained again from epoch 1, before which nothing was lost
    fourth = CheckpointFolder(tmp_path, "f")
    assert "lost" not in fourth.load_newest()[1]
    assert fourth.counts() == {"damaged_checkpoints": 1}
