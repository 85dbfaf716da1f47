"""What a fitted method predicted, kept beside the checkpoints.

Protocols differ in what is scored, not in what a method may see: a trial under the second protocol scores the
prediction of the first and fits nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cgd.config import Config, EvaluationConfig
from cgd.data.preprocess import PreparedPair
from cgd.data.protocol import FloatArray
from cgd.data.split import GeneSplit
from cgd.errors import CheckpointError, DiskError
from cgd.training.checkpoint import read_folder, write_folder

PREDICTIONS = "predictions"  # their folder among those of checkpoints


class KeptPrediction:
    """The prediction of a trial and of its twin under the other protocol.

    Parameters
    ----------
    root
        Folder of checkpoints; None keeps nothing.
    config, prepared, split, code
        The trial, and the version of the code its method runs.
    """

    def __init__(self, root: Path | None, config: Config, prepared: PreparedPair, split: GeneSplit, code: str) -> None:
        self.protocol = config.evaluation.protocol
        if root is not None:
            plain = EvaluationConfig()
            same = {f"evaluation.{key}": getattr(plain, key) for key in ("protocol", "hidden_fraction")}
            key = config.with_values(same).fingerprint(prepared.sha256, split.sha256, code)
            self.folder: Path | None = root / PREDICTIONS / key
        else:
            self.folder = None

    def load_twin(self) -> tuple[FloatArray, dict[str, float], pd.DataFrame] | None:
        """(n_test, n_spots) prediction, what else the trial's summary says and the scores of its draws, a row per test
        gene; None where there is none."""
        if self.folder is None or not self.folder.is_dir():
            return None
        try:
            tensors, values = read_folder(self.folder)
            names = list(values["draw_scores"])
            draw_scores = pd.DataFrame(tensors["draw_scores"].numpy(), columns=names)
            found = tensors["prediction"].numpy(), values["summary"], draw_scores
            return None if values["protocol"] == self.protocol else found
        except (CheckpointError, KeyError):
            return None  # damaged, or of another layout: it is computed again

    def save(self, prediction: FloatArray, summary: dict[str, float], draw_scores: pd.DataFrame) -> None:
        """Keep a prediction and what of the results does not depend on the protocol."""
        if self.folder is not None:
            state = {"protocol": self.protocol, "summary": summary, "draw_scores": list(draw_scores.columns)}
            scores = torch.from_numpy(draw_scores.to_numpy(dtype=np.float64))
            with suppress(OSError, DiskError):  # it only saves the twin its fit
                write_folder(self.folder, {"prediction": torch.from_numpy(prediction), "draw_scores": scores}, state)
