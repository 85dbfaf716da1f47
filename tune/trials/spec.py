"""What a trial is, before it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cgd.baselines.predictions import BroughtFile
from cgd.config import CAUSALGED, Config
from cgd.data.split import GeneSplit


@dataclass(frozen=True)
class Replicate:
    """One data set, training seed and fold of the genes."""

    dataset: str
    seed: int
    fold: int
    split: GeneSplit
    prepared: str  # key of the prepared pair in the shared data
    brought: BroughtFile | None = None  # the file of the predictions, where the method is one


@dataclass(frozen=True)
class TrialSpec:
    """What one trial of a study is, before it runs."""

    fingerprint: str  # its name forever
    name: str  # readable: `ar_decay=0.8 · mouse_v1_starmap · seed 1 · fold 2`
    dataset: str
    seed: int
    fold: int
    config: Config
    split: GeneSplit  # genes of the fold
    prepared: str  # key of the prepared pair in the shared data
    trial_key: str  # the fingerprint without the code version: what another version may have run already
    code_version: str  # of the code its method runs
    brought: BroughtFile | None = None  # the file of its predictions, where its method is one

    @property
    def n_epochs(self) -> int:
        """Epochs at most, as a measure of its work; a baseline is one unit, as large as a training of this model."""
        return self.config.train.epochs

    @property
    def has_epochs(self) -> bool:
        """Whether it trains epoch by epoch, has a curve and leaves a model."""
        return self.config.method == CAUSALGED

    @property
    def replicate(self) -> Replicate:
        """What it is scored on."""
        return Replicate(self.dataset, self.seed, self.fold, self.split, self.prepared, self.brought)


@dataclass(frozen=True)
class Job:
    """What Ray Tune hands to one trial; `replicates` are positions among those of its `Work`."""

    key: str
    config: Config
    replicates: tuple[int, ...]

    def to_params(self) -> dict[str, Any]:
        """As parameters of Ray Tune, in plain values."""
        plain = {"key": self.key, "config": self.config.model_dump_json(), "replicates": list(self.replicates)}
        return {"job": plain}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Job:
        """Read what `to_params` wrote."""
        job = params["job"]
        return cls(job["key"], Config.from_dict(json.loads(job["config"])), tuple(job["replicates"]))


def read_key(params: Mapping[str, Any]) -> str:
    """Key of the job in parameters of Ray Tune."""
    return str(params["job"]["key"])
