"""The budget of checkpoints: what is needed least goes first, and what a trial needs to continue never goes."""

import argparse
import logging

import pytest
import torch

from cgd.training.checkpoint import CheckpointFolder
from tune.checkpoints.budget import CheckpointBudget, find_checkpoints, measure_folder
from tune.checkpoints.options import size

KB = 10_000  # tensors of a checkpoint; its other parts stay below a tenth of it


def save(root, trial, *epochs, best=None):
    folder = CheckpointFolder(root / trial, trial)
    for epoch in epochs:
        folder.save(epoch, {"a": torch.zeros(KB // 4)}, {"kept_epoch": best})


def left(root):
    return sorted(f"{one.trial}/{one.epoch}" for one in find_checkpoints(root))


@pytest.fixture
def root(tmp_path):
    """A finished trial, one that runs with best, spare and last, and a candidate with a trial in its folder."""
    root = tmp_path / "checkpoints"
    save(root, "done", 4, 5, best=5)
    save(root, "runs", 1, 2, 3, best=1)
    save(root, "search-x-0/abc", 7, 8, best=8)
    return root


def enforce(root, n_left):
    limit = int((n_left + 0.5) * KB)
    return CheckpointBudget(root, limit, {"done"}.__contains__).enforce()


def test_within_the_budget_nothing_goes(root):
    assert enforce(root, 7) == []
    assert len(left(root)) == 7


@pytest.mark.parametrize(
    ("n_left", "kept"),
    [
        (5, ["runs/1", "runs/2", "runs/3", "search-x-0/7", "search-x-0/8"]),  # the finished trial first
        (3, ["runs/1", "runs/3", "search-x-0/8"]),  # then spares
        (2, ["runs/3", "search-x-0/8"]),  # then the best that are not the last
        (0, ["runs/3", "search-x-0/8"]),  # the last never
    ],
)
def test_what_is_needed_least_goes_first(root, n_left, kept, caplog):
    with caplog.at_level(logging.INFO, logger="tune.checkpoints.budget"):
        removed = enforce(root, n_left)
    assert left(root) == kept
    assert len(removed) == 7 - len(kept)
    said = [record.getMessage() for record in caplog.records]
    assert [f"removed {one.path} (10.2 kB): over the checkpoint budget" for one in removed] == said[: len(removed)]
    assert len(said) - len(removed) == (n_left == 0)
    assert not list(root.rglob(".*"))


def test_what_cannot_be_held_is_said_once(root, caplog):
    budget = CheckpointBudget(root, 1000, {"done"}.__contains__)
    budget.enforce()
    budget.enforce()
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.startswith("checkpoints take 20.4 kB, more than the budget of 1 kB: ")


def test_the_last_whole_one_stays_where_newer_ones_are_damaged(root):
    (root / "runs" / "epoch-00003" / "tensors.safetensors").write_bytes(b"damaged")
    enforce(root, 0)
    assert left(root) == ["runs/2", "search-x-0/8"]


def test_a_trial_with_no_whole_one_is_left_alone(root):
    for state in (root / "runs").rglob("state.json"):
        state.unlink()
    enforce(root, 0)
    assert left(root) == ["runs/1", "runs/2", "runs/3", "search-x-0/8"]


def test_links_are_neither_counted_nor_removed(root, tmp_path):
    save(tmp_path / "elsewhere", "other", 1)
    (root / "done" / "epoch-00009").symlink_to(tmp_path / "elsewhere" / "other" / "epoch-00001")
    (root / "linked").symlink_to(tmp_path / "elsewhere" / "other")
    assert len(left(root)) == 7
    enforce(root, 0)
    assert measure_folder(tmp_path / "elsewhere") > KB


@pytest.mark.parametrize(
    ("text", "value"), [("500MB", 500e6), ("20 gb", 20e9), ("1.5TiB", 1.5 * 2**40), ("64kB", 64e3)]
)
def test_sizes(text, value):
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "20", "GB", "-1GB", "0GB", "1e3GB", "20G"])
def test_what_is_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a size such as 500MB"):
        size(text)
