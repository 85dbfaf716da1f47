"""What a fitted method predicted, kept beside the checkpoints.

Protocols differ in what is scored, not in what a method may see: a trial under the second protocol scores the
prediction of the first and fits nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

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

    def load_twin(self) -> tuple[FloatArray, dict[str, float]] | None:
        """(n_test, n_spots) prediction and what else the trial's summary says; None where there is none."""
        if self.folder is None or not self.folder.is_dir():
            return None
        try:
            tensors, values = read_folder(self.folder)
            found = tensors["prediction"].numpy(), values["summary"]
            return None if values["protocol"] == self.protocol else found
        except (CheckpointError, KeyError):
            return None  # damaged, or of another layout: it is computed again

    def save(self, prediction: FloatArray, summary: dict[str, float]) -> None:
        """Keep a prediction and the part of the summary that does not depend on the protocol."""
        if self.folder is not None:
            state = {"protocol": self.protocol, "summary": summary}
            with suppress(OSError, DiskError):  # it only saves the twin its fit
                write_folder(self.folder, {"prediction": torch.from_numpy(prediction)}, state)
