"""Checkpoints: whole or not there, never of another trial, and the older one when the newest is damaged."""

import json

import pytest
import torch

from cgd.errors import CheckpointError
from cgd.training import checkpoint
from cgd.training.checkpoint import (
    CheckpointFolder,
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


@pytest.mark.parametrize("there_before", [False, True])
def test_an_interrupted_write_leaves_no_half_folder(tmp_path, monkeypatch, there_before):
    folder, calls = tmp_path / "model", []
    if there_before:
        write_folder(folder, tensors(1.0), {})

    def interrupted(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:  # the tensors are written, the state is not
            raise Killed

    monkeypatch.setattr(checkpoint.os, "fsync", interrupted)
    with pytest.raises(Killed):
        write_folder(folder, tensors(2.0), {})
    monkeypatch.undo()
    if there_before:
        assert_is(read_folder(folder), 1.0, {})
    else:
        assert not folder.exists()
    write_folder(folder, tensors(3.0), {})
    assert_is(read_folder(folder), 3.0, {})


def damage_state(folder):
    (folder / "state.json").write_text("{")


def lose_state(folder):
    (folder / "state.json").unlink()


def lose_tensors(folder):
    (folder / "tensors.safetensors").unlink()


def truncate_tensors(folder):
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(folder):
    path = folder / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def lose_hash(folder):
    (folder / "state.json").write_text("{}")


DAMAGES = [damage_state, lose_state, lose_tensors, truncate_tensors, flip_a_bit, lose_hash]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(tmp_path, damage):
    write_folder(tmp_path / "model", tensors(), {})
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"model.* (is not a whole checkpoint|is damaged: its hash is not)"):
        read_folder(tmp_path / "model")


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
    assert_is(folder.load_newest(), 3, {"epoch": 3})
    damage(tmp_path / "epoch-00003")
    assert folder.load_newest() is None


def test_what_an_interrupted_write_left_is_not_taken_for_a_checkpoint(tmp_path):
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
