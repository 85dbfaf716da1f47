"""The two baselines that run a library's own code: what they do with it, and what it must not do to the process.

What every baseline must do is tested in test_baseline_conformance.py.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from cgd.baselines import METHODS
from cgd.baselines.gimvi import GimVI
from cgd.baselines.guest import guest_code, package_seed
from cgd.baselines.tangram import Tangram, cluster_cells
from cgd.errors import ConfigError, DataError

SMALL = {
    "tangram": lambda: Tangram(epochs=20, n_clusters=5),
    "tangram_cells": lambda: Tangram(epochs=20, mode="cells"),
    "gimvi": lambda: GimVI(max_epochs=2),
}


@pytest.fixture(params=SMALL)
def method(request):
    return SMALL[request.param]()


def test_a_map_of_cells_is_finite_and_decided_by_the_seed(tiny):
    visible, genes = tiny.hidden().visible, tiny.split.test
    found = []
    for seed in (0, 0, 1):
        np.random.seed(len(found))
        method = SMALL["tangram_cells"]()
        method.fit(visible, seed)
        found.append(method.predict(genes))
    assert found[0].shape == (len(genes), visible.x_st.shape[1])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_seed_0_is_a_seed_and_large_seeds_fit():
    assert package_seed(0, "tangram") != 0
    assert 1 <= package_seed(2**62 + 5, "tangram") < 2**32
    assert package_seed(0, "tangram") != package_seed(0, "gimvi")


def _process_state():
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "filters": list(warnings.filters),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "environment": dict(os.environ),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "precision": (torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_num_threads()),
    }


def test_a_trial_is_silent_and_leaves_process_and_folder_as_is(tiny, method, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    visible = tiny.hidden().visible
    before = _process_state()
    method.fit(visible, 0)
    method.predict(tiny.split.test)
    after = _process_state()
    assert [name for name in before if before[name] != after[name]] == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_importing_them_leaves_a_fresh_process_as_it_was():
    script = (
        "import logging, os, random, warnings, numpy as np, torch, scanpy, sklearn.cluster, cgd.data.protocol\n"
        "def state():\n"
        "    return [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(),\n"
        "            logging.root.level, list(logging.root.handlers), dict(os.environ), list(warnings.filters),\n"
        "            torch.backends.cudnn.benchmark]\n"
        "before = state()\n"
        "import cgd.baselines.tangram, cgd.baselines.gimvi\n"
        "after = state()\n"
        "print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_they_run_in_a_thread_as_in_a_ray_worker(tiny):
    visible, found = tiny.hidden().visible, []

    def trial():
        method = GimVI(max_epochs=1)
        method.fit(visible, 0)
        found.append(method.predict(tiny.split.test))

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    assert np.isfinite(found[0]).all()


def test_a_guest_puts_things_back_when_it_fails():
    before = _process_state()

    def fail():
        random.random()
        torch.rand(1)
        logging.basicConfig(level=logging.DEBUG, force=True)
        os.environ["CGD_GUEST"] = "1"
        raise RuntimeError("guest")

    with pytest.raises(RuntimeError, match="guest"), guest_code(["scvi"]):
        fail()
    after = _process_state()
    assert [name for name in before if before[name] != after[name]] == []


def test_ctrl_c_stays_one_where_a_package_makes_an_exit_of_it():
    def interrupted():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(1)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), guest_code():
        interrupted()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(SystemExit), guest_code():
        sys.exit(3)


def test_gimvi_runs_inside_a_slurm_job_of_several_tasks(tiny, monkeypatch):
    for name, value in {"NTASKS": "4", "JOB_NAME": "job"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    method = GimVI(max_epochs=1)
    method.fit(tiny.hidden().visible, 0)
    assert np.isfinite(method.predict(tiny.split.test)).all()


def test_tangram_maps_what_the_training_genes_of_a_spot_say(tiny):
    """Cells of one type express one gene, spots one gene: each type must land on its spots."""
    visible = tiny.hidden().visible
    genes = visible.train_genes[:2]
    types = np.arange(visible.x_sc.shape[1]) % 2
    sides = np.arange(visible.x_st.shape[1]) % 2
    x_sc = np.zeros_like(visible.x_sc)
    for gene, of_type in ((genes[0], 0), (genes[1], 1), (tiny.split.test[0], 0)):
        x_sc[visible.genes.index(gene)] = np.where(types == of_type, 2.0, 0.0)
    x_st = np.stack([np.where(sides == side, 1.0, 0.0) for side in (0, 1)]).astype(np.float32)
    pair = replace(visible, train_genes=genes, x_st=x_st, x_sc=x_sc, st_totals=np.full_like(visible.st_totals, 10.0))
    method = Tangram(n_clusters=2, epochs=200)
    method.fit(pair, 0)
    predicted = method.predict(tiny.split.test[:1])[0]
    assert predicted[sides == 0].min() > 5 * predicted[sides == 1].max()
    assert predicted.mean() == pytest.approx(x_sc[visible.genes.index(tiny.split.test[0])].mean(), rel=1e-4)


def test_tangram_takes_the_density_of_the_training_genes_alone(tiny):
    """With a heavy weight on the density, the mapped mass follows the expression a method may see."""
    visible = tiny.hidden().visible
    method = Tangram(n_clusters=5, epochs=300, density_weight=1000.0)
    method.fit(visible, 0)
    mass = method._groups.sum(axis=1).A1 @ method._mapping
    np.testing.assert_allclose(mass / mass.sum(), visible.x_st.sum(axis=0) / visible.x_st.sum(), rtol=0.05)


def test_tangram_refuses_a_mode_it_does_not_have():
    with pytest.raises(ConfigError, match="clusters, cells"):
        Tangram(mode="constrained")


def test_clusters_are_numbered_without_gaps_and_at_most_cells():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = cluster_cells(x, 3, seed=1)
    assert [len(set(labels[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert set(labels) == {0, 1, 2}
    assert set(cluster_cells(x[3:5], 20, seed=1)) == {0, 1}


def test_gimvi_trains_as_published_or_as_much_as_it_can_afford():
    method = GimVI(max_epochs=200, batch_size=128, max_values=160_000_000)
    assert method.schedule(624, 597) == (128, 200, 0.001)  # 5 minibatches an epoch
    assert method.schedule(5000, 33) == (512, 183, 0.004)  # few genes: larger minibatches
    assert method.schedule(1564, 3878) == (128, 25, 0.004)  # many genes: fewer epochs
    assert method.schedule(1549, 986) == (128, 70, pytest.approx(0.001 * 200 / 70))
    assert replace(method, max_values=1).schedule(5000, 33) == (512, 1, 0.004)
    assert replace(method, max_values=10**12).schedule(5000, 33) == (128, 200, 0.001)
    with pytest.raises(ConfigError, match="batch_size must be at least 2, got 1"):
        GimVI(batch_size=1)


def test_gimvi_gets_all_genes_of_cells_and_spots_training_genes(tiny, monkeypatch):
    visible, seen = tiny.hidden().visible, []
    monkeypatch.setattr(GimVI, "_train", lambda self, cells, spots, seed: seen.extend([cells, spots]) or _flat(spots))

    def _flat(spots):
        return None, np.full((spots.n_obs, len(visible.genes)), 0.5, dtype=np.float32)

    method = GimVI()
    method.fit(visible, 0)
    cells, spots = seen
    assert (tuple(cells.var_names), tuple(spots.var_names)) == (visible.genes, visible.train_genes)
    np.testing.assert_allclose(spots.X.sum(axis=1), visible.st_totals, rtol=1e-4)
    np.testing.assert_allclose(method.predict(tiny.split.test), np.log1p(0.5 * np.median(visible.st_totals)), rtol=1e-5)


def test_gimvi_refuses_spots_and_cells_it_cannot_standardise(tiny):
    visible = tiny.hidden().visible
    empty = visible.x_st.copy()
    empty[:, 0] = 0
    with pytest.raises(DataError, match="59 of 60 spots"):
        GimVI().fit(replace(visible, x_st=empty), 0)
    with pytest.raises(DataError, match="found 0;"):
        GimVI().fit(replace(visible, x_sc=np.zeros_like(visible.x_sc)), 0)


@pytest.mark.parametrize("n", [10, 129, 143])  # a minibatch of 128 leaves 1 of 129, and 1 of nine tenths of 143
def test_gimvi_works_with_any_number_of_cells_and_spots(tiny, n):
    visible = tiny.hidden().visible
    spots, cells = np.arange(n) % visible.x_st.shape[1], np.arange(n) % visible.x_sc.shape[1]
    pair = replace(
        visible,
        x_st=visible.x_st[:, spots],
        st_totals=visible.st_totals[spots],
        x_sc=visible.x_sc[:, cells],
        sc_totals=visible.sc_totals[cells],
    )
    method = GimVI(max_epochs=1)
    method.fit(pair, 0)
    assert method.predict(tiny.split.test).shape == (len(tiny.split.test), n)


@pytest.mark.parametrize("name", ["tangram", "gimvi"])
def test_a_missing_package_is_said_with_what_installs_it(name, monkeypatch):
    entry = METHODS[name]
    package = {"tangram": "tangram", "gimvi": "scvi"}[name]
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, entry.home.partition(":")[0])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"causalged-ray\[baselines\]"):
        entry.make()


def test_package_methods_are_registered_with_their_extra():
    assert {name: METHODS[name].package for name in ("tangram", "gimvi")} == {"tangram": "tangram", "gimvi": "scvi"}
