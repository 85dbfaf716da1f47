"""Running trials under Ray Tune, whatever they are to find out."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from cgd.errors import TrackingError
from tune.cluster.resources import are_alike
from tune.trials.callback import Listener, TrialCallback
from tune.trials.failure import RETRIES, RenewRetries
from tune.trials.preflight import NodeStop, guard_trials
from tune.trials.spec import Job
from tune.trials.trial import Work, run_trial


def run_tune(
    work: Work,
    jobs: Sequence[Job],
    listener: Listener,
    output: Path,
    *,
    max_concurrent: int | None = None,
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    n_samples: int = 1,
    label: str = "",
    callbacks: Sequence[ray_tune.Callback] = (),
    files: Sequence[Path] = (),
    storage: str | None = None,
    retries: int = RETRIES,
    keeps_files: bool = True,
) -> None:
    """Run trials to the end or until the user stops them.

    Parameters
    ----------
    work
        What they share.
    jobs
        The trials; none where a searcher draws `n_samples` of them.
    listener
        Hears what they report.
    output
        Folder in which Tune keeps its own files.
    max_concurrent
        Trials at a time; None for as many as fit.
    searcher, scheduler
        Draw trials and stop hopeless ones.
    label
        Ends the name of Tune's folder.
    callbacks
        Called after the listener.
    files
        What trials read from disk, which a node that joins must see.
    storage
        Where checkpoints are kept for all nodes; without one, all must share the output folder.
    retries
        How often a trial whose worker died is started again without getting further.
    keeps_files
        Leave Tune's own files, in which one can look up how a worker died.

    Raises
    ------
    TrackingError
        The store failed.
    ClusterError
        A node that joined the cluster meanwhile cannot run trials.
    """
    callback, nodes = TrialCallback(listener), NodeStop()
    # Tune pickles what it asks for resources: the data would be held by that for as long as Ray runs
    lean = replace(work, datasets={}, replicates=(), mirror=None)
    folder, name = output / "ray_tune", f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}{label}"

    def request(params: dict[str, Any]) -> ray_tune.PlacementGroupFactory:
        return ray_tune.PlacementGroupFactory([lean.request(Job.from_params(params).config).driver])

    space = {"job": ray_tune.grid_search([job.to_params()["job"] for job in jobs])} if jobs else {}
    run_config = ray_tune.RunConfig(
        name=name,
        storage_path=str(folder),
        verbose=0,
        stop=nodes,
        callbacks=[callback, RenewRetries(), *callbacks],
        failure_config=ray_tune.FailureConfig(max_failures=retries),
    )
    tune_config = ray_tune.TuneConfig(
        # Tune keeps an idle process with what it holds, for which a trial of another kind would wait forever
        reuse_actors=are_alike(work.request(job.config) for job in jobs),
        max_concurrent_trials=max_concurrent,
        search_alg=searcher,
        scheduler=scheduler,
        num_samples=n_samples,
    )
    trainable = ray_tune.with_parameters(run_trial, work=work)
    try:
        with guard_trials(trainable, output, files, storage) as checked:
            trials = ray_tune.with_resources(checked, request)
            ray_tune.Tuner(trials, param_space=space, tune_config=tune_config, run_config=run_config).fit()
    except Exception:  # whatever Tune made of it: if the store or a node failed, that is what the user must hear
        error = callback.error or nodes.error
        if error is None:
            raise
        raise error from None
    finally:
        if not keeps_files:
            shutil.rmtree(folder / name, ignore_errors=True)
            with suppress(OSError):  # other commands left theirs
                folder.rmdir()
        with suppress(TrackingError):
            callback.close()
