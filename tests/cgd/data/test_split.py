"""Gene splits: sizes, disjointness, folds, and files that cannot be changed unnoticed."""

import json

import pytest

from cgd.config import SplitConfig
from cgd.data.split import GeneSplit, make_splits, split_train_val
from cgd.errors import DataError

GENES = tuple(f"g{i}" for i in range(100))


def test_one_split_is_70_20_10_and_every_gene_stands_in_one_part():
    (split,) = make_splits(GENES, SplitConfig())
    assert (len(split.train), len(split.val), len(split.test)) == (70, 20, 10)
    assert sorted(split.train + split.val + split.test) == sorted(GENES)
    for part in (split.train, split.val, split.test):
        assert list(part) == sorted(part, key=GENES.index)


@pytest.mark.parametrize("n_folds", [2, 5, 7])
def test_every_gene_is_a_test_gene_in_exactly_one_fold(n_folds):
    splits = make_splits(GENES, SplitConfig(n_folds=n_folds))
    assert sorted(gene for split in splits for gene in split.test) == sorted(GENES)
    assert [split.fold for split in splits] == list(range(n_folds))
    for split in splits:
        assert sorted(split.train + split.val + split.test) == sorted(GENES)
        assert len(split.val) == round(2 / 9 * (100 - len(split.test)))


def test_the_seed_decides_and_nothing_else():
    assert make_splits(GENES, SplitConfig(seed=0)) == make_splits(GENES, SplitConfig(seed=0))
    assert make_splits(GENES, SplitConfig(seed=0))[0].test != make_splits(GENES, SplitConfig(seed=1))[0].test


def test_the_hash_is_of_the_genes():
    one, other = (make_splits(GENES, SplitConfig(seed=seed))[0] for seed in (0, 1))
    assert one.sha256 == GeneSplit(one.train, one.val, one.test, fold=0).sha256
    assert one.sha256 != other.sha256
    assert one.sha256 != GeneSplit(one.train, one.test, one.val, fold=0).sha256


@pytest.mark.parametrize(
    ("n_genes", "config", "message"),
    [
        (4, SplitConfig(), r"4 genes are too few for 1 fold\(s\): 3 training, 1 validation and 0 test"),
        (6, SplitConfig(n_folds=2), r"too few for 2 fold\(s\)"),
        (3, SplitConfig(n_folds=5), r"too few for 5 fold\(s\)"),
        (0, SplitConfig(), "0 genes are too few"),
    ],
)
def test_too_few_genes_to_split(n_genes, config, message):
    with pytest.raises(DataError, match=message):
        make_splits(GENES[:n_genes], config)


def test_a_model_that_is_to_be_used_has_no_test_genes():
    split = split_train_val(GENES, SplitConfig())
    assert (len(split.train), len(split.val), split.test) == (78, 22, ())
    assert sorted(split.train + split.val) == sorted(GENES)
    assert list(split.train) == sorted(split.train, key=GENES.index)
    with pytest.raises(DataError, match="5 shared genes are too few: at least 5 to train on and 1 to validate on"):
        split_train_val(GENES[:5], SplitConfig())


def test_saved_and_read_again(tmp_path):
    split = make_splits(GENES, SplitConfig(n_folds=3))[2]
    split.save(tmp_path / "split.json")
    assert GeneSplit.load(tmp_path / "split.json") == split


def test_a_split_changed_by_hand_is_refused(tmp_path):
    path = tmp_path / "split.json"
    make_splits(GENES, SplitConfig())[0].save(path)
    values = json.loads(path.read_text())
    values["train"].append(values["test"].pop())
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="changed after it was saved"):
        GeneSplit.load(path)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"train": ["a"]}', '{"train": 1, "val": 2, "test": 3}'])
def test_what_is_no_split_is_named(tmp_path, content):
    path = tmp_path / "split.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"split\.json is not a saved gene split"):
        GeneSplit.load(path)
