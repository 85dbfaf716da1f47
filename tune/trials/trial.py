"""One trial, as it runs under Ray Tune: configuration and data reference in, metrics out.

A trial of one worker runs here, inside the Tune function: starting a Ray Train group costs more than ten seconds. One
of several workers calls the same `compute` in each of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from cgd.baselines.predictions import BroughtFile
from cgd.config import CAUSALGED, Config
from cgd.data.preprocess import PreparedPair
from cgd.data.split import GeneSplit
from cgd.parallel import ALONE, Parallel
from tune.checkpoints.mirror import CheckpointMirror
from tune.cluster.resources import Request
from tune.trials.failure import describe
from tune.trials.out_of_memory import with_less_memory
from tune.trials.train_group import Group, Report

EPOCH, RESULT, ERROR = "epoch_metrics", "result", "error"
TIME = "time_ms"  # when an epoch ended, among its metrics
HAS_MODEL = "has_model"
TAGS = "tags"  # what its run is tagged with besides
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
    requests: dict[str, Request],
    checkpoints: str,
    log_models: bool = True,
    mirror: CheckpointMirror | None = None,
) -> None:
    """Ray Tune function trainable; `params["trial"]` is a fingerprint of `specs`, `datasets` holds prepared pairs.

    Reports `epoch_metrics` after each epoch, those of the system among them, and one `result` (summary, per-gene
    table, tags) or `error` at the end; with `log_models` the fitted model is then in the trial's checkpoint folder.
    `mirror` keeps both where other machines find them. An exception is reported, not raised: it is the trial's outcome
    and repeating it would change nothing, unless a GPU's memory ran out. A worker that dies without a word is Tune's,
    or a group's own, to restart, and continues from its checkpoint.
    """
    from ray import tune as ray_tune

    spec = specs[params["trial"]]
    root, request = Path(checkpoints), requests[params["trial"]]

    def run(config: Config) -> dict[str, Any]:
        work = partial(compute, spec, config, datasets[spec.prepared], root, log_models, mirror)
        if request.n_workers == 1:
            found = work(ray_tune.report, ALONE)
            assert found is not None
            return found
        group = Group(spec.fingerprint, request, config.runtime.device, root / spec.fingerprint)
        return group.run(work, ray_tune.report)

    try:
        found, tags = with_less_memory(run, spec.config, request)
        result: dict[str, Any] = {RESULT: {**found, TAGS: tags}}
    except Exception as error:  # the boundary between one trial and the study: whatever it was, the others go on
        failure = describe(error)
        result = {ERROR: {"type": failure.kind, "message": failure.message, "traceback": failure.traceback}}
    ray_tune.report(result)


def compute(
    spec: TrialSpec,
    config: Config,
    dataset: ray.ObjectRef,
    checkpoints: Path,
    log_models: bool,
    mirror: CheckpointMirror | None,
    report: Report,
    parallel: Parallel,
) -> dict[str, Any] | None:
    """Evaluate a trial, as one of `parallel`; its result on rank 0, which alone reports and saves the model.

    `config` is that of `spec`, or differs from it in where and how it runs.
    """
    from cgd.baselines.predictions import Predictions
    from cgd.baselines.trial import evaluate_baseline
    from cgd.evaluation import Evaluation, evaluate_in_group
    from cgd.training.checkpoint import CheckpointFolder
    from tune.trials.system_metrics import SystemMonitor

    monitor = SystemMonitor()

    def on_epoch(metrics: dict[str, float]) -> None:
        report({EPOCH: {**metrics, **monitor.sample(), TIME: time.time() * 1000}})

    prepared: PreparedPair = ray.get(dataset)  # read from shared memory, not copied
    outcome: Evaluation | None
    if spec.brought:
        outcome = Evaluation(*evaluate_baseline(config, prepared, spec.split, Predictions(spec.brought)), model=None)
    else:
        kept = mirror.open if mirror else CheckpointFolder
        outcome = evaluate_in_group(config, prepared, spec.split, parallel, on_epoch, checkpoints, kept)
    if outcome is None:
        return None
    if log_models and outcome.model:
        outcome.model.save(checkpoints / spec.fingerprint / MODEL)
        if mirror:
            mirror.try_to_put(checkpoints / spec.fingerprint / MODEL)
    found = {"summary": outcome.summary, "per_gene": outcome.per_gene.to_dict("list")}
    return {**found, HAS_MODEL: outcome.model is not None}
