"""Checkpoints are damaged on disk when they are needed."""

import pytest
from intact import largest

pytestmark = pytest.mark.slow


def flip(folder):
    """Change one byte in the middle of the tensors."""
    file = folder / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


def truncate(folder):
    """Lose the second half of the tensors."""
    file = folder / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(folder):
    """Leave an empty state.json."""
    (folder / "state.json").write_text("")


def test_damaged_checkpoints_are_passed_over(study, reference, outcome):
    running = study().start()
    strikes = []
    for epoch, damage, what in (
        (3, flip, "a byte of the newest tensors flipped"),
        (6, truncate, "the newest tensors truncated"),
        (9, empty, "the newest state.json emptied"),
    ):
        row = outcome("damaged checkpoint", f"{what}, then the worker killed", "restarted by Tune, same run")
        older = []

        def damage_and_kill(worker, damage=damage, older=older):
            worker.suspend()  # it saves nothing between the damage and its end
            newest = running.newest()
            older += [_epoch(p) for p in newest.folder.parent.glob("epoch-*") if p != newest.folder]
            damage(newest.folder)
            worker.kill()
            return newest

        strikes.append((row, running.strike(epoch, damage_and_kill), older))
    code = running.finish()
    assert code == 0, running.said
    assert largest(running, "cgd.damaged_checkpoints") == len(strikes)
    for row, strike, older in strikes:
        row.ending = f"exit {code}"
        row.resumed(strike, max(older))
        row.intact(running, reference)


def test_all_checkpoints_damaged_restarts_with_no_epoch_twice(study, reference, outcome):
    row = outcome(
        "every checkpoint damaged", "a byte of all tensors flipped, then the worker killed, twice", "from the beginning"
    )
    running = study().start()

    def damage_and_kill(worker):
        worker.suspend()
        newest = running.newest()
        for folder in newest.folder.parent.glob("epoch-*"):
            flip(folder)
        worker.kill()
        return newest

    first = running.strike(6, damage_and_kill)
    second = running.strike(3, running.kill)  # what is saved since must count
    code = running.finish()
    row.ending = f"exit {code}"
    assert code == 0, running.said
    assert largest(running, "cgd.damaged_checkpoints") >= 2  # the last one and its spare at least
    row.resumed(second)
    row.resumed(first, 0)
    row.intact(running, reference)


def _epoch(folder):
    return int(folder.name.removeprefix("epoch-"))
