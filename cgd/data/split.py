"""Gene splits: which genes are trained on, validated on and tested on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cgd.config import SplitConfig
from cgd.errors import DataError
from cgd.files import write_atomically

_MIN_TRAIN = 5


@dataclass(frozen=True)
class GeneSplit:
    """Disjoint train, validation and test genes of one fold."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    fold: int

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps([self.train, self.val, self.test]).encode()).hexdigest()

    def to_json(self) -> str:
        """Genes, fold and hash."""
        return json.dumps({**asdict(self), "sha256": self.sha256}, indent=1)

    def save(self, path: str | Path) -> None:
        """Write as JSON, with its hash."""
        write_atomically(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> GeneSplit:
        """Read a saved split. Raises DataError if it is missing, malformed or was changed by hand."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            train, val, test = (tuple(values[key]) for key in ("train", "val", "test"))
            split = cls(train, val, test, int(values["fold"]))
            expected = values["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a saved gene split: {error!r}") from None
        if split.sha256 != expected:
            raise DataError(f"{path}: the genes do not match the stored hash; the file was changed after it was saved")
        return split


def make_splits(genes: tuple[str, ...], config: SplitConfig) -> list[GeneSplit]:
    """One split (70/20/10 by default), or k folds in which every gene is a test gene exactly once.

    In a fold the test genes are 1/k of all; the rest is divided between validation and training in the proportion
    of `val_fraction` to the share that is neither validation nor test.

    Raises
    ------
    DataError
        Too few genes: fewer than 5 would be left to train on, or validation or test would be empty.
    """
    order = np.random.default_rng(config.seed).permutation(len(genes))
    if config.n_folds == 1:
        tests = [order[: round(config.test_fraction * len(genes))]]
    else:
        tests = np.array_split(order, config.n_folds)
    splits = []
    for fold, test in enumerate(tests):
        rest = order[~np.isin(order, test)]
        n_val = round(_val_share(config) * len(rest))
        train, val = rest[n_val:], rest[:n_val]
        if len(train) < _MIN_TRAIN or not len(val) or not len(test):
            raise DataError(
                f"{len(genes)} genes are too few for {config.n_folds} fold(s): {len(train)} training, {len(val)} "
                f"validation and {len(test)} test genes; at least {_MIN_TRAIN}, 1 and 1 are needed"
            )
        train_genes, val_genes, test_genes = (tuple(genes[i] for i in sorted(part)) for part in (train, val, test))
        splits.append(GeneSplit(train_genes, val_genes, test_genes, fold))
    return splits


def split_train_val(genes: tuple[str, ...], config: SplitConfig) -> GeneSplit:
    """Every gene to train on or to validate on, none to test: for fitting a model that is to be used.

    Raises
    ------
    DataError
        Too few genes: fewer than 5 would be left to train on, or none to validate on.
    """
    order = np.random.default_rng(config.seed).permutation(len(genes))
    n_val = round(_val_share(config) * len(genes))
    if len(genes) - n_val < _MIN_TRAIN or not n_val:
        raise DataError(
            f"{len(genes)} shared genes are too few: at least {_MIN_TRAIN} to train on and 1 to validate on"
        )
    val, train = ({genes[i] for i in part} for part in (order[:n_val], order[n_val:]))
    return GeneSplit(tuple(g for g in genes if g in train), tuple(g for g in genes if g in val), (), fold=0)


def _val_share(config: SplitConfig) -> float:
    train_fraction = 1 - config.val_fraction - config.test_fraction
    return config.val_fraction / (config.val_fraction + train_fraction)
