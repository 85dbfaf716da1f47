"""Shared fixtures: a simulated pair and a configuration so small that a whole trial takes a tenth of a second."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: sums over threads may round differently

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cgd.config import Config
from cgd.data.pair import Pair, make_pair
from cgd.data.preprocess import PreparedPair, prepare
from cgd.data.protocol import HiddenPair, hide
from cgd.data.simulate import Simulation, simulate_pair
from cgd.data.split import GeneSplit, make_splits
from cgd.evaluation import Evaluation, evaluate

TINY_VALUES: dict[str, Any] = {
    "model.hidden_dim": 8,
    "model.latent_dim": 8,
    "model.n_condition_tokens": 2,
    "model.width": 16,
    "model.n_heads": 2,
    "model.depth": 1,
    "diffusion.n_timesteps": 50,
    "sampling.n_steps": 3,
    "sampling.n_samples": 2,
    "sampling.n_ensemble": 2,
    "train.epochs": 2,
    "train.steps_per_epoch": 2,
    "train.batch_size": 3,
    "train.panel_size": 12,
    "train.pretrain_epochs": 2,
}


@dataclass(frozen=True)
class Tiny:
    """60 spots, 80 cells and 40 genes, split 28 / 8 / 4, and a configuration that fits them."""

    simulation: Simulation
    pair: Pair
    prepared: PreparedPair
    splits: list[GeneSplit]
    base: Config

    @property
    def split(self) -> GeneSplit:
        return self.splits[0]

    def config(self, values: Mapping[str, Any] | None = None) -> Config:
        return self.base.with_values(values or {})

    def hidden(self, values: Mapping[str, Any] | None = None) -> HiddenPair:
        return hide(self.prepared, self.split, self.config(values))

    def evaluate(self, values: Mapping[str, Any] | None = None) -> Evaluation:
        return evaluate(self.config(values), self.prepared, self.split)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    simulation = simulate_pair(n_spots=60, n_cells=80, n_genes=40, n_regulators=8, n_cell_types=3)
    pair = make_pair(simulation.adata_st, simulation.adata_sc, "tiny")
    base = Config().with_values(TINY_VALUES)
    prepared = prepare(pair, base.data)
    return Tiny(simulation, pair, prepared, make_splits(prepared.panel, base.split), base)


@pytest.fixture
def data_dir() -> Path:
    """Folder of the real data sets."""
    value = os.environ.get("CGD_DATA_DIR")
    if not value:
        pytest.skip("CGD_DATA_DIR is not set")
    return Path(value).expanduser()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Trials set the number of threads of the process; none may leave another behind."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
