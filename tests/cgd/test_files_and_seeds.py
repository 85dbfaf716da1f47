"""Files that are whole or not there, and seeds that never share a stream."""

import os

import pytest
import torch

from cgd.errors import closest
from cgd.files import write_atomically
from cgd.random import derive_seed, make_generator


@pytest.mark.parametrize("content", ["text ü", b"\x00\xff"])
def test_a_file_is_written_and_replaced(tmp_path, content):
    path = tmp_path / "deep" / "file"
    write_atomically(path, "before")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_only_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_atomically(path, "before")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_every_seed_and_purpose_has_its_own_stream():
    seeds = {
        derive_seed(seed, *purpose)
        for seed in range(50)
        for purpose in (("noise",), ("init",), ("noise", 1), ("1",), (1,))
    }
    assert len(seeds) == 250
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "noise") == derive_seed(0, "noise")


def test_seeds_are_the_same_for_ever():
    """A change here would silently make old results irreproducible."""
    assert derive_seed(0, "noise") == 3016148274326734436
    assert derive_seed(7, "generate", "True", 3) == 8541175796921060900


def test_generators_repeat_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    one, same, other = (torch.rand(5, generator=make_generator(*key)) for key in ((0, "a"), (0, "a"), (0, "b")))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_wrong_name_gets_the_closest_and_some_valid_ones():
    assert closest("decya", ["decay", "depth"]) == "did you mean 'decay'? Valid: decay, depth"
    assert closest("zzz", ["b", "a"]) == "Valid: a, b"
    many = [f"Gene{i}" for i in range(300)]
    assert closest("Gene2999", many).startswith("did you mean 'Gene299'? Close: Gene299, ")
    assert closest("zzz", many) == "There are 300 valid names"
    assert closest("Sst1", ["Sst", *many]) == "did you mean 'Sst'? There are 301 valid names"
