"""One trial, as it runs on a Ray worker: configuration and data reference in, metrics out.

Trials of one worker run here, inside the Tune trial. A nested Ray Train group costs more than ten seconds each; trials
of several workers would branch off in `run_trial`, around the same `cgd.evaluation.evaluate`.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cgd.baselines.predictions import BroughtFile
from cgd.config import CAUSALGED, Config
from cgd.data.preprocess import PreparedPair
from cgd.data.split import GeneSplit
from tune.checkpoint_mirror import CheckpointMirror

EPOCH, RESULT, ERROR = "epoch_metrics", "result", "error"
TIME = "time_ms"  # when an epoch ended, among its metrics
HAS_MODEL = "has_model"
MODEL = "model"  # folder of the fitted model, beside the trial's checkpoints


@dataclass(frozen=True)
class TrialSpec:
    """What one trial is, before it runs.

    Attributes
    ----------
    fingerprint
        Name of the trial for ever.
    name
        Readable name, e.g. `ar_decay=0.8 · mouse_v1_starmap · seed 1 · fold 2`.
    dataset, seed, fold
        Coordinates of the replicate.
    config
        The full configuration.
    split
        Genes of the fold.
    prepared
        Key of the prepared pair in the shared data.
    trial_key
        Fingerprint of the same trial without the code version: what another version may have run already.
    code_version
        That of the code its method runs.
    brought
        The file of its predictions, where its method is one.
    """

    fingerprint: str
    name: str
    dataset: str
    seed: int
    fold: int
    config: Config
    split: GeneSplit
    prepared: str
    trial_key: str
    code_version: str
    brought: BroughtFile | None = None

    @property
    def n_epochs(self) -> int:
        """Epochs at most, as a measure of its work; a baseline is one unit, as large as a training of this model."""
        return self.config.train.epochs

    @property
    def has_epochs(self) -> bool:
        """Whether it trains epoch by epoch, has a curve and leaves a model."""
        return self.config.method == CAUSALGED


def run_trial(
    params: dict[str, str],
    specs: dict[str, TrialSpec],
    datasets: dict[str, ray.ObjectRef],
    checkpoints: str,
    log_models: bool = True,
    mirror: CheckpointMirror | None = None,
) -> None:
    """Ray Tune function trainable; `params["trial"]` is a fingerprint of `specs`, `datasets` holds prepared pairs.

    Reports `epoch_metrics` after each epoch, those of the system among them, and one `result` (summary and per-gene
    table) or `error` at the end; with `log_models` the fitted model is then in the trial's checkpoint folder. `mirror`
    keeps both where other machines find them. An exception is reported, not raised: it is the trial's outcome and
    repeating it would change nothing, while a worker that dies without a word is Tune's to restart, and continues from
    its checkpoint.
    """
    from ray import tune as ray_tune

    from cgd.baselines.predictions import Predictions
    from cgd.baselines.trial import evaluate_baseline
    from cgd.evaluation import Evaluation, evaluate
    from cgd.training.checkpoint import CheckpointFolder
    from tune.system_metrics import SystemMonitor

    spec = specs[params["trial"]]
    monitor = SystemMonitor()

    def on_epoch(metrics: dict[str, float]) -> None:
        ray_tune.report({EPOCH: {**metrics, **monitor.sample(), TIME: time.time() * 1000}})

    try:
        prepared: PreparedPair = ray.get(datasets[spec.prepared])  # read from shared memory, not copied
        if spec.brought:
            method = Predictions(spec.brought)
            outcome = Evaluation(*evaluate_baseline(spec.config, prepared, spec.split, method), model=None)
        else:
            kept = mirror.open if mirror else CheckpointFolder
            outcome = evaluate(spec.config, prepared, spec.split, on_epoch, Path(checkpoints), kept)
        if log_models and outcome.model:
            folder = Path(checkpoints) / spec.fingerprint / MODEL
            outcome.model.save(folder)
            if mirror:
                mirror.try_to_put(folder)
        found = {"summary": outcome.summary, "per_gene": outcome.per_gene.to_dict("list")}
        result: dict[str, Any] = {RESULT: {**found, HAS_MODEL: outcome.model is not None}}
    except Exception as error:  # the boundary between one trial and the study: whatever it was, the others go on
        message = str(error) or type(error).__name__
        result = {ERROR: {"type": type(error).__name__, "message": message, "traceback": traceback.format_exc()}}
    ray_tune.report(result)
