"""Process environment that has to be in place before ray and mlflow are imported."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DEFAULTS = {
    # secure: a local Ray answers only to its own token; no telemetry of any dependency
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # a server that is away is tried again by the outbox, so MLflow's client gives up in seconds rather than in minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # quiet: the terminal shows our own progress
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the address that MLflow would print with every run holds the password of the tracking URI
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # trials are resumed from their own checkpoints, found by fingerprint: Tune's snapshots are never read
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # each trial runs in a new thread of its worker: without this each would keep a heap of its own
    "MALLOC_ARENA_MAX": "2",
    # one thread per trial unless its configuration says otherwise
    "OMP_NUM_THREADS": "1",
}

# of trials with several workers, in which Ray Train starts a group each
GROUP_DEFAULTS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon the end or the death of a worker is seen
    # bounds the wait for room alone, for which a trial of one worker has no bound: no more trials are started than fit,
    # so that what is waited for is a node still to come, or one that others use
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(7 * 24 * 3600),
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # each line would come twice
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a trial that is stopped early ends its workers first
}


def prepare_environment() -> None:
    """Set the defaults, and let Ray's workers import this checkout from whatever folder the command was given."""
    for key, value in (DEFAULTS | GROUP_DEFAULTS).items():
        os.environ.setdefault(key, value)
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
